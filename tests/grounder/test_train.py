import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from recipes import RECIPE, SMALL

from biaslab._util.files import locked
from biaslab.errors import BiaslabError, InputError, RunFolderError, UnsupportedError
from biaslab.grounder import train as run
from biaslab.grounder.batches import IGNORE, dense_targets, pack, pixels
from biaslab.grounder.export import export
from biaslab.grounder.model import COORDINATES, PROMPT, box_tokens, build_tokenizer
from biaslab.grounder.network import TrainingGrounder
from biaslab.grounder.recipe import Recipe
from biaslab.grounder.train import train_grounder
from biaslab.grounder.training_folder import TrainingFolder
from biaslab.scenes import expressions as ex
from biaslab.scenes import scene
from biaslab.scenes.objects import COLOURS, NAMES, SIZES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_grounder(tmp_path_factory.mktemp("run"), recipe=RECIPE)


@pytest.mark.long
def test_words_that_matter_are_single_tokens_and_any_text_has_tokens(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert {f"\u0120{w}" for w in (*NAMES, *SIZES, *COLOURS)} <= vocabulary.keys()
    assert set(COORDINATES) <= vocabulary.keys()
    assert tokenizer.tokenize("<ref>cat</ref>") == tokenizer.tokenize("<ref> Cat</ref>")
    text = " quite unseen: naïve zebras, 日本 #7"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_answer_reads_back_as_the_box(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(box_tokens((0.0, 22.4, 112.0, 224.0)))
    assert tokenizer.decode(ids) == "[[0, 100, 500, 1000]]"


def test_packed_branches_compute_what_separate_conversations_do(tokenizer):
    """Packing behind one image prefix must not change any logit: the model sees each branch alone."""
    net = TrainingGrounder(RECIPE, tokenizer)
    net.model.float()
    scenes = [scene("train", 1)]
    packed = pack(scenes, net.dialogue, np.random.default_rng(0), questions=3, length=64, mix=RECIPE.mix)
    packed.mask = packed.mask.float()
    with torch.no_grad():
        visual = net.project(net.tower(pixels(scenes).float()))
        logits, labels = net.logits(visual, packed)
        net.model.set_attn_implementation("sdpa")
        asked = ex.sample(np.random.default_rng(0), scenes[0].objects, 3, mix=RECIPE.mix)
        at = 0
        for e in asked:
            message = [{"type": "image"}, {"type": "text", "text": PROMPT.format(e.text)}]
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
            )
            shown = "<img>" + "<IMG_CONTEXT>" * SMALL.grid**2 + "</img>"
            prompt = tokenizer(text.replace("<IMG_CONTEXT>", shown))["input_ids"]
            answer = net.dialogue.answer(scenes[0].objects[e.target].box.as_tuple())
            ids = torch.tensor([prompt + answer[:-1]])
            out = net.model(input_ids=ids, pixel_values=pixels(scenes).float())
            alone = out.logits[0, len(prompt) - 1 :]
            assert labels[at : at + len(answer)].tolist() == answer
            torch.testing.assert_close(logits[at : at + len(answer)], alone, atol=2e-4, rtol=1e-4)
            at += len(answer)
    assert at == len(labels) >= 20


def test_dense_targets_point_at_the_object_in_each_cell():
    s = scene("train", 5)
    target = dense_targets([s], 16)
    for cell in target.owned[0].nonzero()[:, 0].tolist():
        row, col = divmod(cell, 16)
        shown = np.bincount(s.owner[row * 14 : row * 14 + 14, col * 14 : col * 14 + 14].ravel(), minlength=9)[1:]
        thing = s.objects[int(shown.argmax())]
        assert NAMES[target.name[0, cell]] == thing.name
        assert SIZES[target.size[0, cell]] == thing.size
        assert (target.colour[0, cell] == IGNORE) == (thing.colour is None)
        np.testing.assert_allclose(target.box[0, cell] * 224, thing.box.as_tuple(), atol=1e-3)


def test_an_interrupted_run_ends_at_the_same_weights(trained, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    after_step = run._Run._after_step
    calls = []

    def dying(self, *args):
        after_step(self, *args)
        calls.append(1)
        if len(calls) in (2, 4):
            raise Killed

    monkeypatch.setattr(run._Run, "_after_step", dying)
    for _ in range(2):
        with pytest.raises(Killed):
            train_grounder(tmp_path, recipe=RECIPE)
    resumed = train_grounder(tmp_path, recipe=RECIPE)
    a, b = (torch.load(p, weights_only=True)["model"] for p in (trained, resumed))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert len(calls) == RECIPE.vision_steps + RECIPE.decoder_steps


def test_a_resumed_run_writes_no_step_of_the_curve_twice(tmp_path):
    folder, curve = TrainingFolder(tmp_path), tmp_path / "curve.jsonl"
    lines = [{"stage": stage, "step": step} for stage in run.STAGES for step in (1, 2, 3)]
    whole = [json.dumps(line) + "\n" for line in lines]
    for checkpoint, kept in (
        ({"stage": "decoder", "optimiser": {"step": 2}}, 5),
        ({"stage": "vision", "optimiser": {"step": 3}}, 3),
        (None, 0),
    ):
        curve.write_text("".join(whole) + '{"stage": "deco')
        folder.forget_after(checkpoint)
        assert curve.read_text() == "".join(whole[:kept])


@pytest.mark.long
def test_a_process_that_fails_is_named_in_one_line(tmp_path):
    with pytest.raises(BiaslabError) as caught:
        run._spawn(("no recipe", str(tmp_path), str(tmp_path / "rendezvous")), 1)
    assert "a process of the training failed: AttributeError" in str(caught.value) and "\n" not in str(caught.value)


def test_one_training_at_a_time_in_a_folder(tmp_path):
    with locked(tmp_path / "recipe.json"), pytest.raises(RunFolderError, match="another process is writing"):
        train_grounder(tmp_path, recipe=RECIPE)
    assert not (tmp_path / "recipe.json").exists()


@pytest.mark.long
def test_processes_meet_in_a_relative_folder(tmp_path, monkeypatch):
    """``--out runs/grounder``, as one types it: an address made of it would name a host that never answers."""
    monkeypatch.chdir(tmp_path)
    recipe = replace(RECIPE, processes=2, vision_steps=1, decoder_steps=1, monitor_every=5)
    weights = train_grounder("my runs/grounder", recipe=recipe, progress=False)
    assert weights.exists() and not weights.is_absolute()
    assert sorted(p.name for p in weights.parent.iterdir() if p.suffix != ".lock") == [
        "checkpoint.pt", "curve.jsonl", "recipe.json", "weights.pt"]  # fmt: skip


def test_the_bar_follows_the_learning_curve(tmp_path):
    curve, moves = tmp_path / "curve.jsonl", []
    assert run._steps_made(curve, RECIPE) == 0
    with run._following(curve, RECIPE, 1, moves.append):
        curve.write_text('{"stage": "vision", "step": 2}\n{"stage": "decoder", "step": 1}\n')
        while sum(moves) < RECIPE.vision_steps:
            time.sleep(0.01)
    assert sum(moves) == RECIPE.vision_steps + 1 - 1
    curve.write_text('{"stage": "vision", "st')
    assert run._steps_made(curve, RECIPE) == 0


def test_learning_curve_and_finished_run(trained):
    lines = [json.loads(line) for line in (trained.parent / "curve.jsonl").read_text().splitlines()]
    assert [(x["stage"], x["step"]) for x in lines if "loss" in x] == [
        (stage, step) for stage in ("vision", "decoder") for step in (1, 2, 3)
    ]
    assert any(x.get("monitor", {}).get("n", 0) > 0 for x in lines)
    before = trained.stat().st_mtime_ns
    assert train_grounder(trained.parent, recipe=RECIPE).stat().st_mtime_ns == before


def test_a_folder_of_another_recipe_is_refused(trained):
    with pytest.raises(RunFolderError, match="another recipe"):
        train_grounder(trained.parent, recipe=Recipe(seed=1))


def test_tower_is_frozen_in_the_decoder_stage(trained):
    net = TrainingGrounder(RECIPE, build_tokenizer())
    names = {stage: {n for n, _ in net.named_parameters(stage)} for stage in run.STAGES}
    assert not any("vision_tower" in n for n in names["decoder"])
    assert not any("language_model" in n or "lm_head" in n for n in names["vision"])


def test_exported_folder_loads_with_plain_from_pretrained(trained, tmp_path, tokenizer):
    from transformers import AutoTokenizer, InternVLForConditionalGeneration

    folder = export(trained, tmp_path / "grounder", size=SMALL)
    model = InternVLForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.float32
    state = torch.load(trained, weights_only=True)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name].half().float(), atol=0, rtol=0)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


def test_shipped_grounder_has_the_tokenizer_that_training_builds(grounder, tokenizer):
    """A changed corpus would renumber the tokens under the shipped weights."""
    shipped, built = (json.loads(t.backend_tokenizer.to_str()) for t in (grounder.processor.tokenizer, tokenizer))
    for state in (shipped, built):  # what the last call asked for, not part of the tokenizer
        state.pop("padding"), state.pop("truncation")
    assert shipped == built


def test_a_torch_without_muon_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UnsupportedError, match=r"install torch>=2\.9"):
        train_grounder(tmp_path / "run", recipe=RECIPE)
    assert not (tmp_path / "run").exists()


def test_processes_that_cannot_share_a_batch_are_refused_before_any_work(tmp_path):
    for processes in (3, 16, 99, 0):
        with pytest.raises(InputError, match=f"processes={processes} cannot share .*: choose one of 1, 2, 4, 8$"):
            train_grounder(tmp_path / "run", recipe=Recipe(processes=processes))
    assert not (tmp_path / "run").exists()
