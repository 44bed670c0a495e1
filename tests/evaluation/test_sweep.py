"""A sweep that shares what its configurations have in common: the same as one run for each, to the last selection."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import tiny
import torch
import toy_grounding as toy
from devices import spread
from sweeps import check, shared_runs, untouched
from toy_grounding import Toy, run, same

from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation import worker as worker_module
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sweep import shared
from biaslab.evaluation.worker import WorkItem, by_image
from biaslab.pruning import Method, Random

ALL = ("none", "random", "uniform", "fastv", "fastv:queries=text", "divprune", "layer_ratio", "relative:debias=none",
       "d2pruner:debias=none", "fastv:score=no_rope")  # fmt: skip
FEW = ("none", "random", "fastv", "divprune", "d2pruner:debias=none")


def layers_of(family):
    return [3] if family == "qwen3_vl" else [3, 2]  # its first three layers add image features


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_every_family(family):
    """Images of unequal sizes, prompts of unequal lengths, two K, two keep ratios."""
    vlm = tiny.vlm(family)
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    check(vlm, encoded, configurations(FEW, [0.5, 0.2], layers_of(family)), GenerationOptions(max_new_tokens=5))


@pytest.mark.long
@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_every_method_in_every_family(family, n):
    vlm = tiny.vlm(family)
    encoded = vlm.vision(tiny.encoded(vlm, n))
    configs = configurations(ALL, [0.5, 7], layers_of(family)[-1])
    check(vlm, encoded, configs, GenerationOptions(max_new_tokens=5))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 6, 500])
def test_however_many_rows_go_together(width):
    vlm = tiny.vlm("internvl")
    encoded = vlm.vision(tiny.encoded(vlm, 2))
    check(vlm, encoded, configurations(FEW, [0.5, 0.2], [3, 2]), GenerationOptions(max_new_tokens=4), width=width)


@pytest.mark.parametrize("text", ["llama", "qwen3"])
def test_other_decoders(text):
    vlm = tiny.vlm("internvl", text=text)
    encoded = vlm.vision(tiny.encoded(vlm, 2))
    check(vlm, encoded, configurations(FEW, [0.5, 0.2], 2), GenerationOptions(max_new_tokens=5))


@pytest.mark.slow
def test_renumbered_positions_and_eager_attention():
    for vlm, positions in ((tiny.vlm("llava"), "renumber"), (tiny.vlm("internvl", attn="eager"), "original")):
        encoded = vlm.vision(tiny.encoded(vlm, 3))
        options = GenerationOptions(max_new_tokens=6, positions=positions)
        check(vlm, encoded, configurations(FEW, [0.5, 0.2], [3, 2]), options)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["internvl", "paligemma", "qwen2_5_vl"])
def test_layers_on_several_devices(family):
    """As ``device_map="auto"`` deals them out: K - 1, K and the layers after it lie apart."""
    vlm = tiny.vlm(family)
    encoded, options = vlm.vision(tiny.encoded(vlm, 3)), GenerationOptions(max_new_tokens=4)
    configs = configurations(FEW, [0.5, 0.2], [3, 2])
    here = shared_runs(vlm, encoded, configs, options)
    with spread(vlm):
        apart = shared_runs(vlm, encoded, configs, options)
    for i, run_here in here.items():
        assert apart[i].answers == run_here.answers and apart[i].kept == run_here.kept
    assert untouched(vlm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "layers", "attn"),
    [(FEW, 3, "sdpa"), (FEW, [3, 2], "sdpa"), (["fastv", "random"], 2, "sdpa"), (["fastv", "random"], 2, "eager")],
)
def test_layers_with_a_sliding_window_below_k(methods, layers, attn):
    """The first layer with full attention is 2: of all rows the masks are measured by it."""
    vlm = tiny.windowed("ssff", 9, attn=attn)
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    check(vlm, encoded, configurations(methods, [0.5, 0.2], layers), GenerationOptions(max_new_tokens=12))


@pytest.mark.slow
def test_answers_longer_than_the_room_of_the_cache_and_a_repetition_penalty(monkeypatch):
    vlm = tiny.vlm("internvl")
    monkeypatch.setattr(vlm.model.generation_config, "repetition_penalty", 1.3)
    encoded = vlm.vision(tiny.encoded(vlm, 2))
    runs = check(vlm, encoded, configurations(["none", "fastv"], 0.2, 2), GenerationOptions(max_new_tokens=80))
    assert len(vlm.processor.tokenizer(runs[0].answers[0])["input_ids"]) > 40


@pytest.mark.slow
def test_a_repetition_penalty_in_a_padded_batch(monkeypatch):
    """The penalty looks behind each row's own padding: of a wide batch as well, and of what is left of it."""
    vlm = tiny.vlm("internvl")
    monkeypatch.setattr(vlm.model.generation_config, "repetition_penalty", 1.3)
    vocabulary = vlm.model.config.text_config.vocab_size
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(3, vocabulary, 20)))
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    assert not encoded.inputs["attention_mask"].all()
    check(vlm, encoded, configurations(FEW, [0.5, 0.2], 2), GenerationOptions(max_new_tokens=30))


@pytest.mark.slow
def test_rows_that_have_ended_are_taken_out(monkeypatch):
    """Answers end at one token of eight: the wide batch gets narrower, and nobody's answer changes."""
    vlm = tiny.vlm("internvl")
    vocabulary = vlm.model.config.text_config.vocab_size
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(3, vocabulary, 8)))
    widths = []
    handle = vlm.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    encoded, options = vlm.vision(tiny.encoded(vlm, 3)), GenerationOptions(max_new_tokens=20)
    configs = configurations(FEW, [0.5, 0.2], 2)
    shared_runs(vlm, encoded, configs, options, width=500)
    handle.remove()
    rows = [rows for rows, tokens in widths if tokens == 1]
    decoding = rows[2:]  # after the prefills of two budgets
    assert decoding == sorted(decoding, reverse=True) and decoding[-1] < decoding[0] / 2
    runs = check(vlm, encoded, configs, options, width=500)
    assert len({len(text) for run in runs.values() for text in run.answers}) > 3


def test_the_lower_layers_run_once(monkeypatch):
    vlm, calls = tiny.vlm("internvl"), []
    encoded, configs = vlm.vision(tiny.encoded(vlm, 2)), configurations(FEW[1:], [0.5, 0.2], [3, 2])

    def count(index):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            calls.append((index, hidden.shape[0])) if hidden.shape[1] > 1 else None

        return hook

    handles = [
        layer.register_forward_pre_hook(count(i), with_kwargs=True) for i, layer in enumerate(vlm.decoder.layers)
    ]
    shared_runs(vlm, encoded, configs, GenerationOptions(max_new_tokens=3))
    for handle in handles:
        handle.remove()
    assert [call for call in calls if call[0] < 2] == [(0, 2), (1, 2)]
    # layer 2: on to the next K once, and the four methods of each of two budgets as one batch
    assert sorted(rows for index, rows in calls if index == 2) == [2, 8, 8]
    assert sorted(rows for index, rows in calls if index == 3) == [8, 8, 8, 8]


# -- the evaluation ------------------------------------------------------------------------------------------------


@pytest.fixture
def vlm(monkeypatch):
    model = tiny.vlm("internvl")
    monkeypatch.setattr(model.family, "parse_box", toy.hashed_box)
    return model


@pytest.fixture
def no_plain_way(monkeypatch):
    """The shared path must not have been left in silence."""

    def refuse(*args, **kw):
        raise AssertionError("a configuration went the plain way")

    return lambda: monkeypatch.setattr(worker_module, "run_once", refuse)


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch_size", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)]
)
def test_an_evaluation_is_the_plain_one(vlm, no_plain_way, batch_size):
    options = {"methods": FEW, "layer": [2, 3] if batch_size == 3 else 2, "batch_size": batch_size, "vlm": vlm}
    plain = run(plain=True, **options).samples
    no_plain_way()
    ours = run(**options).samples
    same(ours, plain)
    assert ours["error"].isna().all() and ours["box"].notna().any()
    assert ours["prefill_ms"].isna().all() and plain["prefill_ms"].notna().all()


@pytest.mark.slow
def test_expressions_of_an_image_come_together(vlm, monkeypatch):
    """The tower sees every image of a batch once; lines, ids and indices are those of the data's order."""

    @dataclass(frozen=True)
    class Apart(Toy):
        """The two expressions of an image lie half the data apart."""

        def __iter__(self):
            return iter(self.samples[::2] + self.samples[1::2])

    seen, features = [], vlm.model.get_image_features
    monkeypatch.setattr(
        vlm.model, "get_image_features", lambda **kw: seen.append(len(kw["pixel_values"])) or features(**kw)
    )
    data = Apart()
    ours = run(vlm=vlm, dataset=data, batch_size=4).samples
    tiles = [len(vlm.encode([sample.image()], ["?"]).inputs["pixel_values"]) for sample in Toy().samples[::2]]
    assert seen == [tiles[0] + tiles[1], tiles[2]]
    same(ours, run(vlm=vlm, dataset=data, batch_size=1, plain=True).samples)
    names = ours.drop_duplicates("id").sort_values("index")["id"].tolist()
    assert names == [sample.id for sample in data]


@pytest.mark.slow
def test_a_run_goes_on_the_other_way(vlm, tmp_path):
    """Both ways are one run: the same identity, the same lines but for the times."""
    run(tmp_path, vlm, n=2)
    grown = run(tmp_path, vlm, n=4, plain=True)
    assert grown.complete and grown.samples["prefill_ms"].notna().sum() == 2 * 7
    same(grown.samples, run(vlm=vlm, n=4).samples)
    assert grown.table["prefill_ms"].notna().any()


def test_order_of_tasks():
    tasks = [WorkItem(i, SimpleNamespace(image_id=name), (0,)) for i, name in enumerate("abacb")]
    assert [task.index for image in by_image(tasks) for task in image] == [0, 2, 1, 4, 3]


@dataclass(frozen=True, eq=False, kw_only=True)
class Fragile(Method):
    """A rule that cannot cope with some images."""

    name = "fragile"

    def pick(self, ctx, scores):
        if ctx.seed % 3 == 0:
            raise InputError("not this one")
        return Random().pick(ctx, scores)


@pytest.mark.slow
def test_a_selection_that_fails_costs_its_sample(vlm):
    options = {"methods": ["none", "fastv", Fragile()], "vlm": vlm, "batch_size": 4}
    ours, plain = run(**options).samples, run(plain=True, **options).samples
    same(ours, plain)
    assert 0 < ours["error"].notna().sum() < 12 and set(ours.loc[ours["error"].notna(), "method"]) == {"fragile"}
    assert untouched(vlm)


@pytest.mark.slow
def test_missing_pictures_cost_their_samples(vlm):
    options = {"dataset": Toy(missing=(1, 4)), "vlm": vlm, "batch_size": 4}
    same(run(**options).samples, run(plain=True, **options).samples)


@pytest.mark.slow
def test_a_wide_batch_that_fails_is_repeated_sample_by_sample(vlm, no_plain_way):
    """What breaks several samples at once breaks no single one."""
    plain = run(vlm=vlm, plain=True).samples

    def break_down(module, args, kwargs):
        if len(args[0] if args else kwargs["hidden_states"]) > 7:
            raise RuntimeError("too wide")

    no_plain_way()
    handle = vlm.decoder.layers[3].register_forward_pre_hook(break_down, with_kwargs=True)
    ours = run(vlm=vlm).samples
    handle.remove()
    same(ours, plain)
    assert ours["error"].isna().all() and set(ours["batch"]) == {1} and untouched(vlm)


@pytest.mark.slow
def test_out_of_memory_halves_the_width(vlm, no_plain_way, caplog):
    plain = run(vlm=vlm, plain=True).samples
    widths = []

    def run_out(module, args, kwargs):
        widths.append(len(args[0] if args else kwargs["hidden_states"]))
        if widths[-1] > 8:
            raise torch.OutOfMemoryError("out of memory")

    no_plain_way()
    handle = vlm.decoder.layers[3].register_forward_pre_hook(run_out, with_kwargs=True)
    with caplog.at_level(logging.DEBUG, logger="biaslab"):
        ours = run(vlm=vlm).samples
    handle.remove()
    same(ours, plain)
    assert ours["error"].isna().all() and set(ours["batch"]) == {2, 4}
    assert sum(rows > 8 for rows in widths) == 2  # of 28 rows and of 14; the second batch starts with 7
    assert "do not go together" in caplog.text and untouched(vlm)


@pytest.mark.slow
def test_a_model_that_cannot_share_goes_the_plain_way_batch_by_batch(vlm, monkeypatch, caplog):
    plain, tried = run(vlm=vlm, plain=True).samples, []

    def refuse(module, args, kwargs, length):
        tried.append(length)
        raise UnsupportedError("a layer that nobody knows")

    for way in ("prefix", "image_prefix"):
        monkeypatch.setattr(f"biaslab.evaluation.sweep.{way}.check_layer_arguments", refuse)
    with caplog.at_level(logging.DEBUG, logger="biaslab"):
        ours = run(vlm=vlm).samples
    same(ours, plain)
    assert len(tried) == 1 and set(ours["batch"]) == {2, 4} and "nobody knows" in caplog.text and untouched(vlm)


def test_what_fails_for_one_sample_alone_ends_in_its_line(vlm):
    """Neither the wide batch nor the single sample can do it: the plain path reports the configuration."""

    def refuse_short(module, args, kwargs):
        if 1 < (args[0] if args else kwargs["hidden_states"]).shape[1] < 60:
            raise RuntimeError("no short sequence")

    handle = vlm.decoder.layers[2].self_attn.register_forward_pre_hook(refuse_short, with_kwargs=True)
    ours = run(vlm=vlm, methods=["none", "random"], keep=[1], batch_size=1).samples
    handle.remove()
    failed = ours[ours["error"].notna()]
    assert set(failed["method"]) == {"random"} and 0 < len(failed) < 6
    assert failed["error"].str.contains("no short sequence").all() and untouched(vlm)


def test_an_interrupt_passes_and_keeps_what_is_finished(vlm, tmp_path, monkeypatch):
    class Interrupted(Exception):
        pass

    lines = []

    def write(line):
        lines.append(line)
        if len(lines) == 10:
            raise KeyboardInterrupt

    configs = configurations(FEW, [0.5, 0.2], 2)
    tasks = [WorkItem(i, sample, tuple(range(len(configs)))) for i, sample in enumerate(Toy())]
    with pytest.raises(KeyboardInterrupt):
        worker_module.Worker(vlm, configs, GenerationOptions(max_new_tokens=4), write).run(tasks, 3)
    assert len(lines) == 10 and all(line["error"] is None for line in lines) and untouched(vlm)


def test_what_cannot_share_goes_the_plain_way(vlm, caplog, monkeypatch):
    options = GenerationOptions(max_new_tokens=4)
    configs = dict(enumerate(configurations(["none", "random", "fastv"], 0.5, [2])))
    with caplog.at_level(logging.DEBUG, logger="biaslab"):
        assert shared.shareable(vlm, configs, options) == [0, 1, 2]
        monkeypatch.setattr(vlm.model.generation_config, "num_beams", 2)
        assert shared.shareable(vlm, configs, options) == []
    assert "beam_search" in caplog.text
    same(
        run(vlm=vlm, methods=["none", "random"], n=2).samples,
        run(vlm=vlm, methods=["none", "random"], n=2, plain=True).samples,
    )
