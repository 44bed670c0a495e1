"""Tokens up to an image once for all its expressions: the same as whole rows, and as one run for each configuration."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import tiny
import torch
from devices import spread
from flash import flash
from PIL import Image
from sweeps import check, expressions, shared_runs, untouched
from toy_grounding import run, same

import biaslab as bl
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.evaluation.sweep import prefix as prefix_module
from biaslab.evaluation.sweep import shared
from biaslab.pruning import DivPrune, FastV

pytestmark = pytest.mark.slow

READING = ["none", "fastv", "fastv:queries=text", "fastv:score=no_rope", "fastv:score=value_norm", "layer_ratio",
           "relative:debias=none", "d2pruner:debias=none", "divprune", "random", "uniform"]  # fmt: skip
FEW = ["none", "fastv", "divprune"]
OPTIONS = GenerationOptions(max_new_tokens=5)
ORDER = [0, 1, 0, 1, 0, 1, 1]


@pytest.fixture
def ways(monkeypatch):
    """Whether each batch ran images apart (True), was found not to (False), or was never planned to (None)."""
    seen, plan, images = [], prefix_module.image_plan, prefix_module.run_images

    def planned(*args):
        found = plan(*args)
        if found is None:
            seen.append(None)
        return found

    def ran(*args):
        states = images(*args)
        seen.append(states is not None)
        return states

    monkeypatch.setattr(prefix_module, "image_plan", planned)
    monkeypatch.setattr(prefix_module, "run_images", ran)
    return seen


def equals_plain(vlm, encoded, configs, options=OPTIONS):
    """Answers and what is kept are the plain ones; scores but for rounding."""
    runs = shared_runs(vlm, encoded, configs, options)
    for i, config in enumerate(configs):
        plain = run_once(vlm, encoded, config, options)
        assert runs[i].answers == plain.answers and runs[i].kept == plain.kept, config.describe()
        for ours, theirs in zip(runs[i].selections, plain.selections, strict=True):
            if theirs is not None:
                assert torch.equal(ours.indices, theirs.indices) and ours.info == theirs.info, config.describe()
                if theirs.scores is not None:
                    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-6)
    assert untouched(vlm)


@pytest.mark.long
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_every_family_and_method(family, ways):
    vlm = tiny.vlm(family)
    encoded = expressions(vlm, ORDER)
    layers = [3] if family == "qwen3_vl" else [3, 2]
    equals_plain(vlm, encoded, configurations(READING, 0.5, layers))
    equals_plain(vlm, encoded, configurations(READING[1:], 7, 3))  # only layers below K run
    assert set(ways) == {None if family == "paligemma" else True}  # its prompt attends both ways


def prefix_of(vlm, encoded, configs, monkeypatch):
    """What the configurations share."""
    found = []

    def kept(*args):
        found.append(prefix_module.run_prefix(*args))
        return found[0]

    with monkeypatch.context() as patch:
        patch.setattr(shared, "run_prefix", kept)
        shared_runs(vlm, encoded, configs, OPTIONS)
    return found[0]


@pytest.mark.parametrize("family", [each for each in tiny.CROSSED if each.values[0] != "paligemma"])
def test_everything_lies_where_whole_rows_have_it(family, monkeypatch, ways):
    vlm = tiny.vlm(family)
    encoded = expressions(vlm, ORDER)
    configs = configurations(READING, 0.5, [2, 3] if family != "qwen3_vl" else 3)
    ours = prefix_of(vlm, encoded, configs, monkeypatch)
    assert ways == [True]
    with monkeypatch.context() as patch:
        patch.setattr(prefix_module, "image_plan", lambda *args: None)
        whole = prefix_of(vlm, encoded, configs, monkeypatch)
    real = encoded.inputs["attention_mask"].bool()
    close = {"rtol": 1e-4, "atol": 1e-5}
    assert ours.inputs.keys() == whole.inputs.keys() and ours.attention.keys() == whole.attention.keys()
    for layer, given in whole.inputs.items():
        torch.testing.assert_close(ours.inputs[layer].hidden[real], given.hidden[real], **close)
        assert ours.inputs[layer].kwargs.keys() == given.kwargs.keys()
        first: dict = {}
        for row, picture in enumerate(ORDER):  # expressions of an image have the same states to the last bit
            states = ours.inputs[layer].hidden[row, encoded.visual[row, encoded.visual_mask[row]]]
            assert torch.equal(states, first.setdefault(picture, states))
    for name, rows in whole.attention.items():
        torch.testing.assert_close(ours.attention[name], rows, **close)
    for a, b in zip(ours.cache.layers, whole.cache.layers, strict=True):
        for x, y in ((a.keys, b.keys), (a.values, b.values)):
            torch.testing.assert_close(x.transpose(1, 2)[real], y.transpose(1, 2)[real], **close)
    torch.testing.assert_close(ours.logits, whole.logits, **close)
    assert not any(layer.keys is not None and layer.keys.numel() for layer in ours.empty.layers)


def test_images_run_once(monkeypatch):
    """Two images under seven questions: two rows up to the image, then seven of text, in every layer."""
    vlm, calls = tiny.vlm("internvl"), []
    encoded = expressions(vlm, ORDER)
    handle = vlm.decoder.layers[1].register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args[0] if args else kwargs["hidden_states"]).shape[:2]),
        with_kwargs=True,
    )
    shared_runs(vlm, encoded, configurations(["random", "fastv"], 0.5, 2), GenerationOptions(max_new_tokens=1))
    handle.remove()
    (rows, tokens), (all_rows, text) = calls[:2]
    assert (rows, all_rows) == (2, 7) and tokens < encoded.last + 1 and text < encoded.last + 1
    assert 2 * tokens + 7 * text < 0.9 * 7 * (encoded.last + 1)


def test_a_method_that_looks_at_the_image_alone_is_asked_once(monkeypatch):
    vlm, asked, inner = tiny.vlm("internvl"), [], DivPrune.select_budgets
    counted = lambda self, images, budgets: asked.append(len(images)) or inner(self, images, budgets)  # noqa: E731
    monkeypatch.setattr(DivPrune, "select_budgets", counted)
    encoded, configs = expressions(vlm, ORDER), configurations("divprune", [0.5, 0.2], 2)
    shared_runs(vlm, encoded, configs, OPTIONS)
    monkeypatch.setattr(prefix_module, "image_plan", lambda *args: None)  # states of each row its own
    shared_runs(vlm, encoded, configs, OPTIONS)
    assert asked == [2, 7]


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_without_padding_there_is_no_mask(attn, ways):
    vlm = tiny.vlm("internvl", attn=attn)
    encoded = expressions(vlm, [0, 0, 0], texts=["the red one"] * 3)
    assert bool(encoded.inputs["attention_mask"].all())
    equals_plain(vlm, encoded, configurations(FEW, [0.5, 0.2], 2))
    equals_plain(vlm, expressions(vlm, ORDER), configurations(FEW, [0.5, 0.2], 2))
    assert ways == [True, True]


def test_flash_attention_and_renumbered_positions(ways):
    vlm = tiny.vlm("llava")
    configs = configurations(FEW, [0.5, 0.2], 2)
    equals_plain(vlm, expressions(vlm, ORDER), configs, GenerationOptions(max_new_tokens=5, positions="renumber"))
    for encoded in (expressions(vlm, ORDER), expressions(vlm, [0, 0], texts=["the red one"] * 2)):
        answers = [shared_runs(vlm, encoded, configs, OPTIONS)[i].answers for i in range(len(configs))]
        with flash(vlm):
            runs = shared_runs(vlm, encoded, configs, OPTIONS)
        assert [runs[i].answers for i in range(len(configs))] == answers
    assert set(ways) == {True}


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl", "qwen3_vl"])
def test_layers_on_several_devices(family, ways):
    vlm = tiny.vlm(family)
    encoded, configs = expressions(vlm, ORDER), configurations(FEW, [0.5, 0.2], 3)
    here = shared_runs(vlm, encoded, configs, OPTIONS)
    with spread(vlm):
        apart = shared_runs(vlm, encoded, configs, OPTIONS)
    assert all(apart[i].answers == own.answers and apart[i].kept == own.kept for i, own in here.items())
    assert ways == [True, True] and untouched(vlm)


# -- what goes on as whole rows ------------------------------------------------------------------------------------


def test_nobody_knows_the_pictures_or_each_comes_once(ways):
    vlm, configs = tiny.vlm("internvl"), configurations(FEW, 0.5, 2)
    check(vlm, replace(expressions(vlm, ORDER), pictures=None), configs, OPTIONS)
    check(vlm, expressions(vlm, [0, 1, 2]), configs, OPTIONS)
    assert ways == [None, None]


def test_too_little_is_saved(ways):
    vlm = tiny.vlm("internvl")
    texts = ["short", f"a question {'that goes on and on ' * 30}"]
    check(vlm, expressions(vlm, [0, 0], texts=texts), configurations(FEW, 0.5, 2), OPTIONS)
    assert ways == [None]


def test_a_query_row_before_the_end_of_the_image(ways):
    vlm = tiny.vlm("internvl")
    encoded = expressions(vlm, ORDER)
    check(vlm, encoded, configurations(["none", FastV(queries=(0, -1))], [0.5, 0.2], 2), OPTIONS)
    check(vlm, encoded, configurations(["none", FastV(queries=(-9, -1))], [0.5, 0.2], 2), OPTIONS)
    assert ways == [None, True]


def test_another_text_before_the_image(ways):
    vlm = tiny.vlm("internvl")
    encoded = expressions(vlm, [0, 0, 0, 1, 1, 1])
    row = 2
    first = int(encoded.inputs["attention_mask"][row].argmax())
    ids = encoded.inputs["input_ids"].clone()
    assert ids[row, first] != ids[row, first + 2] and first + 2 < encoded.visual[row, 0]
    ids[row, first + 2] = ids[row, first]
    encoded = encoded.with_inputs({**encoded.inputs, "input_ids": ids})
    prompts = []
    with pytest.MonkeyPatch.context() as patch:
        plan = prefix_module.image_plan
        patch.setattr(prefix_module, "image_plan", lambda *args: prompts.append(plan(*args)) or prompts[-1])
        equals_plain(vlm, encoded, configurations(FEW, [0.5, 0.2], 2))
    assert prompts[0].stands == [0, 0, 2, 3, 3, 3] and ways == [True]


def test_positions_that_count_the_padding(ways, caplog):
    """The same image at other places in its prompts."""
    vlm = tiny.vlm("internvl")
    encoded = expressions(vlm, ORDER)
    ids = encoded.inputs["input_ids"]
    places = torch.arange(ids.shape[1]).expand(len(ids), -1)
    encoded = encoded.with_inputs({**encoded.inputs, "position_ids": places})
    with caplog.at_level(logging.DEBUG, logger="biaslab"):
        check(vlm, encoded, configurations(FEW, [0.5, 0.2], 2), OPTIONS)
    assert ways == [False] and "not the same in all its prompts" in caplog.text


def test_attention_that_is_not_causal(ways, monkeypatch):
    """A family that does not say so: its mask does."""
    vlm = tiny.vlm("paligemma")
    monkeypatch.setattr(type(vlm.family), "lowest_layer", 0)
    check(vlm, expressions(vlm, ORDER), configurations(FEW, [0.5, 0.2], [2, 3]), OPTIONS)
    assert ways == [False]


def test_a_sliding_window_below_k(ways):
    vlm = tiny.windowed("ssff", 9)
    check(vlm, expressions(vlm, ORDER), configurations(FEW, [0.5, 0.2], [2, 3]), OPTIONS)
    assert ways == [None]


# -- the evaluation ------------------------------------------------------------------------------------------------


def test_an_evaluation_is_the_plain_one(ways):
    options = {"methods": FEW, "layer": [2, 3], "batch_size": 6}
    ours, plain = run(**options).samples, run(plain=True, **options).samples
    scores = ["target_auroc"]
    same(ours.drop(columns=scores), plain.drop(columns=scores))
    assert ways == [True] and ours["error"].isna().all()


def test_the_grounder(ways):
    vlm, methods = bl.load("grounder"), ["none", "uniform", "fastv", "divprune", "d2pruner:debias=none"]
    data = bl.load_dataset("scenes", n=12)
    options = {"methods": methods, "keep": 0.1, "layer": 4, "batch_size": 6, "progress": False}
    ours, plain = (bl.evaluate(vlm, data, plain=plain, **options).samples for plain in (False, True))
    same(ours, plain)
    assert ways == [True, True] and len(ours) == 12 * 5


def test_pictures_of_one_colour():
    """Tokens that differ by their position alone."""
    vlm = bl.load("grounder")
    pictures = [Image.new("RGB", (224, 224), colour) for colour in ("white", "gray")]
    texts = ["the cat", "big red bus on the left", "small thing at the top right of the sheep"]
    order = [0, 1] * 3
    encoded = vlm.encode_grounding([pictures[i] for i in order], [texts[i // 2] for i in range(6)])
    configs = configurations(["uniform", "fastv", "divprune", "d2pruner:debias=none"], 0.2, 4)
    equals_plain(vlm, vlm.vision(encoded, pictures=order), configs)
