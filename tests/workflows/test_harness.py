"""biaslab as a model of lmms-eval: the published interface, and the package itself where it is installed."""

import importlib
import importlib.util
import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import filelock
import harness_interface as interface
import pytest
from PIL import Image

import biaslab as bl
from biaslab.errors import BiaslabError, InputError, ProfileMismatchError
from biaslab.profiles import MeanProfile
from biaslab.workflows.harness.arguments import Arguments
from biaslab.workflows.harness.requests import batches, read_request

pytestmark = pytest.mark.slow

ROOT = Path(bl.__file__).parents[1]


def messages(doc):
    """The messages of a document, as the harness makes them for a task that says nothing else."""
    return [{"role": "user", "content": [*({"type": "image", "url": image} for image in doc["images"]),
                                         {"type": "text", "text": doc["question"]}]}]  # fmt: skip


@pytest.fixture(scope="module")
def documents():
    samples = list(bl.load_dataset("scenes", split="test", n=4))
    asked = bl.load("grounder").family.grounding_prompt
    return [{"images": [s.image()], "question": asked(s.expression)} for s in samples]


@pytest.fixture
def model(monkeypatch, grounder):
    """Make models of the harness on the grounder that is loaded."""
    if not interface.INSTALLED:
        interface.published(monkeypatch)
    module = importlib.import_module("biaslab.workflows.harness.model")
    module._with_base.cache_clear()
    monkeypatch.setattr(module, "load", lambda name, **_: grounder)
    yield lambda **args: module.BiaslabModel(pretrained="grounder", **args)
    module._with_base.cache_clear()


def ask(model, documents, *gen_kwargs, made=messages):
    """Ask a model about documents as the harness does; settings are repeated."""
    model.task_dict["toy"] = {"test": documents}
    given = gen_kwargs or ({"max_new_tokens": 24},)
    return model.generate_until([
        interface.Instance(("ctx", made, dict(given[i % len(given)]), i, "toy", "test")) for i in range(len(documents))
    ])  # fmt: skip


# -- how it is found ---------------------------------------------------------------------------------------------
def test_the_entry_point_names_a_chat_model_and_is_light(monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"biaslab": "biaslab.workflows.harness:manifest"}
    if not interface.INSTALLED:
        interface.published(monkeypatch)
    found = importlib.import_module("biaslab.workflows.harness").manifest()
    assert (found.model_id, found.simple_class_path, found.aliases) == ("biaslab", None, ("biaslab_chat",))
    assert found.chat_class_path == "biaslab.workflows.harness.model.BiaslabModel"
    code = "import sys, biaslab.workflows.harness; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout == "False\n"


def test_the_class_is_what_the_registry_takes(model):
    from lmms_eval.api.model import lmms

    made = model()
    assert isinstance(made, lmms) and made.is_simple is False and not type(made).__abstractmethods__
    with pytest.raises(NotImplementedError, match="choose a task of generate_until"):
        made.loglikelihood([])
    with pytest.raises(NotImplementedError, match="choose a task of generate_until"):
        made.generate_until_multi_round([])
    made.clean()
    assert made._vlm is None


# -- what it answers ---------------------------------------------------------------------------------------------
def test_unpruned_it_answers_as_the_model_does_and_pruned_as_prune_does(model, documents, grounder):
    images, texts = [d["images"] for d in documents], [d["question"] for d in documents]
    assert ask(model(), documents) == grounder.ask(images, texts, max_new_tokens=24)
    pruned = model(method="divprune@0.05@4", batch_size="3")
    found, pairs = ask(pruned, documents), list(zip(images, texts, strict=True))
    with bl.prune(grounder, bl.DivPrune(keep=0.05), layer=4):
        assert found == [grounder.ask([one], [text], max_new_tokens=24)[0] for one, text in pairs]
    assert (pruned.shown, pruned.tokens, pruned.kept) == (4, 4 * 256, 4 * 12)
    assert "4 images of 256 visual tokens on average, 12 kept" in pruned.summary()
    assert pruned.share / 4 == pytest.approx((4 * 256 + 6 * 12) / (10 * 256))


def test_a_schedule_a_method_with_keep_and_layer_and_a_profile(model, documents, grounder, tmp_path):
    scenes = bl.calibration(grounder, "scenes", n=4)
    maps = bl.collect(grounder, scenes.images, layers=[3], prompt=scenes.prompts, progress=False)
    profile = MeanProfile().fit(maps)
    path = profile.save(tmp_path / "bias")
    one = model(method="d2pruner@0.1@4", profile=f"'{path}'", profile_hash=profile.hash)
    other = model(method="d2pruner", keep=0.1, layer=4, profile=str(path))
    assert one.config.key == other.config.key and ask(one, documents[:2]) == ask(other, documents[:2])
    several = model(method='"divprune@0.5@0+fastv@0.1@4"', image_options="{}")
    ask(several, documents[:1])
    assert (several.kept, several.config.label) == (25, "divprune@0.5@0+fastv@0.1@4")
    with pytest.raises(InputError, match="that of no profile given"):
        model(method="d2pruner@0.1@4", profile=str(path), profile_hash="0" * 16)
    with pytest.raises(ProfileMismatchError, match="holds layers"):  # as it is made, before any data set is read
        model(method="relative@0.1@6", profile=str(path))


def test_order_stays_where_settings_differ_and_answers_end_where_the_task_says(model, documents):
    made = model(batch_size=2)
    whole = ask(made, documents)
    short, ended = {"max_new_tokens": 4, "image_sizes": [1]}, {"max_new_tokens": 24, "until": ["]", "never"]}
    mixed = ask(made, documents, short, ended, {"max_new_tokens": 24, "temperature": 0, "num_beams": 1})
    assert [len(whole[0]) > len(mixed[0]), mixed[1], mixed[2]] == [True, whole[1].partition("]")[0], whole[2]]
    assert whole[0].startswith(mixed[0]) and mixed[1] and len(mixed) == 4
    again = [{**document, "images": document["images"] * (1 + i % 2)} for i, document in enumerate(documents)]
    assert ask(made, again)[0] == whole[0] and ask(made, again)[2] == whole[2]


def test_seeds_are_of_documents_not_of_batches(model, documents):
    answers = [ask(model(method="random@0.05@4", batch_size=size), documents) for size in (1, 4)]
    assert answers[0] == answers[1]


# -- what goes wrong ---------------------------------------------------------------------------------------------
def test_an_error_ends_the_run_and_is_no_empty_answer(model, documents, monkeypatch):
    def broken(*_, **__):
        raise ValueError("broken on purpose")

    made = model(method="random@0.1@4")
    with monkeypatch.context() as patch:
        for name in ("select", "select_batch", "select_budgets"):
            patch.setattr(bl.Random, name, broken)
        with pytest.raises(ValueError, match="broken on purpose"):
            ask(made, documents[:1])
    answered = model(method="none")
    answered._vlm = None
    with pytest.raises(AttributeError):
        ask(answered, documents[:1])
    ran = []
    monkeypatch.setattr("biaslab.workflows.harness.model.answers_to", lambda *a: ran.append(a))
    image = Image.new("RGB", (8, 8))
    for turns, why in [
        ([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}], "is a talk of 2 turns"),
        ([{"role": "user", "content": "no image"}], "shows no image"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "url": image}]}], "before its"),
        ([{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}], "shows video: choose a task of images"),
    ]:
        with pytest.raises(InputError, match=f"toy/test/1 .*{why}|toy/test/1 {why}"):
            ask(model(), documents[:2], made=lambda doc, t=turns: t if doc is documents[1] else messages(doc))
    assert not ran  # refused before the first is answered


def test_a_method_that_does_not_prune_what_it_is_shown_ends_the_run(model, documents, monkeypatch):
    made = model(method="divprune@0.1@4")
    monkeypatch.setattr("biaslab.workflows.harness.model.answers_to", lambda *a: None)
    with pytest.raises(BiaslabError, match="pruned 0 of 1 images"):
        ask(made, documents[:1])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "names no model: give pretrained="),
        ({"methods": "fastv"}, "model_args knows no methods: choose among pretrained, method, keep"),
        ({"method": "fastvv@0.1@4"}, "fastvv"),
        ({"method": "fastv@0.1@4", "keep": 0.1}, "says its keeps and layers itself"),
        ({"method": "d2pruner@0.1@4"}, "needs a profile"),
        ({"method": "fastv", "keep": 1.5}, "keep"),
        ({"method": "fastv", "layer": 1.5}, "layer must be a whole number"),
        ({"batch_size": "auto"}, "give a number of documents"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1"),
        ({"max_new_tokens": "many"}, "max_new_tokens must be a whole number"),
        ({"image_options": "max_tiles=6"}, "must be JSON"),
        ({"profile": "none.safetensors"}, "no profile at none.safetensors"),
    ],
)
def test_arguments_are_refused_before_anything_is_loaded(given, why):
    with pytest.raises(InputError, match=why):
        Arguments.read(**({"pretrained": "grounder"} if given else {}), **given)


def test_values_come_as_the_harness_parses_them():
    read = Arguments.read(
        "'grounder'", method='"fastv:score=no_rope"', keep=64, layer=-1.0, seed=3.0, batch_size="4", max_batch_size=8,
        dtype='"float32"', image_options='{"max_tiles": 2}', max_new_tokens="16",
    )  # fmt: skip
    assert (read.pretrained, read.method, read.keep, read.layer, read.seed) == (
        "grounder", "fastv:score=no_rope", 64, -1, 3)  # fmt: skip
    assert (read.batch_size, read.max_new_tokens, read.image_options) == (4, 16, {"max_tiles": 2})
    assert read.loading == {"dtype": "float32"}


def test_several_processes_are_refused(model, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="start lmms-eval by itself"):
        model()


def test_sampling_is_asked_for_by_temperature_alone():
    def read(**given):
        args = ("ctx", lambda doc: messages({"images": ["i"], "question": "q"}), given, 0, "t", "s")
        return read_request(interface.Instance(args), {"t": {"s": [None]}}, 128)

    assert read(temperature=0, top_p=0.9, do_sample=False, image_sizes=[]).settings == {"max_new_tokens": 128}
    sampled = {"max_new_tokens": 9, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    assert read(max_new_tokens=9, temperature=0.7, top_p=0.9).settings == sampled
    assert read(num_beams=3, until="\n").until == ["\n"] and read(num_beams=3).settings["num_beams"] == 3
    groups = batches([read(), read(max_new_tokens=9), read(), read()], 2)
    assert groups == [[0, 2], [3], [1]]


# -- the package itself ------------------------------------------------------------------------------------------
@pytest.fixture
def locks_of_the_harness(monkeypatch):
    """Give lmms-eval the module of filelock that it patches, which filelock 4 has no more; take the patch back."""
    meta = type(filelock.BaseFileLock)
    if importlib.util.find_spec("filelock._api") is None:
        stands_in = ModuleType("filelock._api")
        stands_in.FileLockMeta, stands_in.BaseFileLock = meta, filelock.BaseFileLock
        monkeypatch.setitem(sys.modules, "filelock._api", stands_in)
        monkeypatch.setattr(filelock, "_api", stands_in, raising=False)
    monkeypatch.setattr(meta, "__call__", meta.__call__)


@pytest.mark.long
@pytest.mark.usefixtures("locks_of_the_harness")
@pytest.mark.skipif(not interface.INSTALLED, reason="lmms-eval is not installed")
def test_a_task_of_two_documents_runs_in_the_harness(tmp_path, documents, caplog):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models.registry_v2 import ModelRegistryV2
    from lmms_eval.tasks import TaskManager

    registry = ModelRegistryV2()
    registry.register_manifest(importlib.import_module("biaslab.workflows.harness").manifest())
    cls = registry.get_model_class("biaslab")  # with the harness's own checks
    folder = tmp_path / "toy"
    folder.mkdir()
    import datasets

    rows = [{"image": d["images"][0], "question": d["question"], "answer": "[["} for d in documents[:2]]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "data.parquet"))
    (folder / "utils.py").write_text(
        "def visual(doc):\n    return [doc['image'].convert('RGB')]\n\n"
        "def text(doc, lmms_eval_specific_kwargs=None):\n    return doc['question']\n\n"
        "def results(doc, results):\n    return {'starts': float(results[0].startswith(doc['answer']))}\n"
    )
    (folder / "toy.yaml").write_text(
        f"dataset_path: parquet\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/data.parquet\n"
        "task: toy_scenes\ntest_split: test\noutput_type: generate_until\ndoc_to_visual: !function utils.visual\n"
        "doc_to_text: !function utils.text\ndoc_to_target: answer\nprocess_results: !function utils.results\n"
        "generation_kwargs:\n  max_new_tokens: 24\n  temperature: 0\n"
        "metric_list:\n  - metric: starts\n    aggregation: mean\n    higher_is_better: true\n"
    )
    manager = TaskManager(include_path=str(folder))
    given = {"tasks": ["toy_scenes"], "task_manager": manager, "bootstrap_iters": 0}
    said = {}
    with caplog.at_level(logging.INFO, logger="biaslab"):
        for method in ("none", "divprune@0.1@4"):
            model = cls(pretrained="grounder", method=method, device="cpu", batch_size="2")
            out = simple_evaluate(model=model, batch_size=2, **given)
            said[method] = out["results"]["toy_scenes"]["starts,none"]
            assert (model.shown, model.kept) == (2, 512 if method == "none" else 50)
            answers = [sample["filtered_resps"][0] for sample in out["samples"]["toy_scenes"]]
            assert all(answers)
    assert said == {"none": 1.0, "divprune@0.1@4": 1.0}
    broken = cls(pretrained="grounder", method="none", device="cpu")
    broken.generate_until = lambda *_: (_ for _ in ()).throw(ValueError("broken on purpose"))
    with pytest.raises(ValueError, match="broken on purpose"):
        simple_evaluate(model=broken, batch_size=1, **given)
