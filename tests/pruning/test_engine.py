"""Pruning inside tiny but real models, against recomputation without cache, hooks or pruning."""

from __future__ import annotations

import contextlib

import pytest
import tiny
import torch
from eager import text_after
from pruned import STEPS, dropped_positions, generate, method_for, oracle, refused, run, second_turn_error, serves

from biaslab.attention.capture import capture
from biaslab.errors import ModelError
from biaslab.pruning import METHODS, DivPrune, FastV, Random, Uniform, budget, prune
from biaslab.pruning.engine.prompt import sample_seed

FAMILIES = pytest.mark.parametrize("family", tiny.FAMILIES)
CROSSED = pytest.mark.parametrize("family", tiny.CROSSED)


def check_against_oracle(vlm, enc, method, layer, positions="original", tolerance=1e-4):
    plain = run(vlm, enc)[1]
    with prune(vlm, method, layer, positions=positions) as state:
        answer, logits = run(vlm, enc)
    gone = dropped_positions(enc, state.selections)
    want = oracle(vlm, enc.inputs, answer, gone, layer, positions == "renumber")
    assert (logits - want).abs().max() <= tolerance
    assert (logits - plain).abs().max() > 100 * tolerance  # pruning does change what the model says
    return state


# -- contract 2 ----------------------------------------------------------------------------------------------
@CROSSED
@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_keeping_all_changes_nothing(family, layer, batch):
    vlm = tiny.vlm(family)
    if refused(vlm, layer):
        return
    enc = tiny.encoded(vlm, batch)
    tokens, logits = run(vlm, enc)
    for method in (Uniform(keep=1.0), FastV(keep=1.0)) if layer else (DivPrune(keep=1.0),):
        with prune(vlm, method, layer) as state:
            pruned_tokens, pruned_logits = run(vlm, enc)
        assert torch.equal(pruned_tokens, tokens)
        assert (pruned_logits - logits).abs().max() == 0
        assert [len(s.indices) for s in state.selections] == [layout.n for layout in enc.layouts]


@FAMILIES
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_cached_generation_equals_masked_recompute(family, layer):
    """Three prompts of different length, tiling and kept sets in one left-padded batch."""
    vlm = tiny.vlm(family)
    if refused(vlm, layer):
        return
    enc = tiny.encoded(vlm, 3)
    assert enc.inputs["attention_mask"].min() == 0
    check_against_oracle(vlm, enc, method_for("d2pruner" if layer else "random", 0.3), layer)


@FAMILIES
@pytest.mark.parametrize("layer", [0, 2])
def test_a_plain_forward_is_pruned_like_generate(family, layer):
    vlm = tiny.vlm(family)
    if refused(vlm, layer):
        return
    enc = tiny.encoded(vlm, 1)
    with prune(vlm, Random(keep=0.3), layer) as state:
        _, logits = run(vlm, enc)
        kept = state.selections[0].indices
        plain = vlm.forward(enc).logits
    assert torch.equal(state.selections[0].indices, kept)
    assert plain.shape[1] == enc.last + 1 - enc.layouts[0].n + len(kept)
    assert (plain[:, -1] - logits[:, 0]).abs().max() <= 1e-5


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_renumbered_positions_equal_masked_recompute(family, layer):
    vlm = tiny.vlm(family)
    check_against_oracle(vlm, tiny.encoded(vlm, 3), Random(keep=0.3), layer, "renumber")


@pytest.mark.parametrize("options", [{"attn": "eager"}, {"text": "llama", "kv": 4}, {"text": "qwen3", "kv": 1}])
def test_other_decoders_and_eager_attention(options):
    vlm = tiny.vlm("internvl", **options)
    check_against_oracle(vlm, tiny.encoded(vlm, 2), FastV(keep=0.3), 2)


def without_padding(vlm):
    """Two prompts of equal length, no padding, one with 12 and one with 4 visual tokens."""
    enc = vlm.encode(tiny.images(2), ["Where is it?", "x"])
    a, b = enc.inputs["input_ids"]
    b = b[enc.inputs["attention_mask"][1] == 1]
    filling = a[-6:].repeat(20)[: len(a) - len(b)]
    ids = torch.stack([a, torch.cat([b, filling])])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": enc.inputs["pixel_values"],
    }


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [0, 2])
def test_fillers_are_hidden_when_there_is_no_padding_to_fill_with(attn, layer):
    vlm = tiny.vlm("internvl", attn=attn)
    inputs = without_padding(vlm)
    is_image = inputs["input_ids"] == vlm.image_token_id
    assert is_image.sum(1).tolist() == [12, 4]
    method = FastV(keep=0.5) if layer else DivPrune(keep=0.5)
    with capture(vlm, [3]) as rows, prune(vlm, method, layer) as state:
        answer, logits = generate(vlm, inputs)
    for row, selection in enumerate(state.selections):
        assert rows[3].kept[row, rows[3].mask[row]].tolist() == selection.indices.tolist()
    assert [len(s.indices) for s in state.selections] == [6, 2]
    n = inputs["input_ids"].shape[1]
    assert state.kv_lengths() == [n + STEPS - 1] * layer + [n - 2 + STEPS - 1] * (4 - layer)
    visual = [row.nonzero().squeeze(1) for row in is_image]
    gone = torch.zeros_like(is_image)
    for row, selection in enumerate(state.selections):
        gone[row, visual[row]] = True
        gone[row, visual[row][selection.indices]] = False
    want = oracle(vlm, inputs, answer, gone, layer)
    assert (logits - want).abs().max() <= 1e-4


# -- contract 3 ----------------------------------------------------------------------------------------------
@FAMILIES
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_cache_lengths(family, layer):
    vlm = tiny.vlm(family)
    if refused(vlm, layer):
        return
    enc = tiny.encoded(vlm, 1)
    n_visual, n = enc.layouts[0].n, enc.last + 1
    kept = n - n_visual + budget(0.3, n_visual)
    with prune(vlm, Random(keep=0.3), layer) as state:
        vlm.forward(enc, use_cache=True)
        assert state.kv_lengths() == [n] * layer + [kept] * (4 - layer)
        run(vlm, enc)
        more = STEPS - 1  # the last token is not fed back
        assert state.kv_lengths() == [n + more] * layer + [kept + more] * (4 - layer)


def test_padding_does_not_cost_cache():
    """The short sequence is as long as the longest of its rows, not longer by the padding of another."""
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    real = enc.inputs["attention_mask"].sum(1).tolist()
    kept = [r - layout.n + budget(0.3, layout.n) for r, layout in zip(real, enc.layouts, strict=True)]
    with prune(vlm, Random(keep=0.3), 2) as state:
        vlm.forward(enc)
    assert state.kv_lengths()[2:] == [max(kept)] * 2


def test_attention_that_is_not_finite_is_an_error_when_the_prefill_is_through():
    vlm = tiny.vlm("internvl")
    enc, layer = tiny.encoded(vlm, 2), 2
    for name in ("fastv", "d2pruner", "layer_ratio"):
        handle = vlm.decoder.layers[layer - 1].self_attn.q_proj.register_forward_hook(
            lambda module, args, out: out.index_fill(0, torch.tensor([1]), torch.nan)
        )
        with prune(vlm, method_for(name, 0.5), layer), pytest.raises(ModelError, match="layer 1 is not finite"):
            vlm.forward(enc)
        handle.remove()
        with prune(vlm, method_for(name, 0.5), layer) as state:
            vlm.forward(enc)
        assert len(state.selections) == 2


def test_the_engine_copies_nothing_for_the_batch():
    """Features of a batch are one gather, and each image's a view of it."""
    vlm, seen = tiny.vlm("internvl"), []

    class Spy(DivPrune):
        name = "spy"

        def pick_batch(self, batch, scores, budgets):
            seen.append(batch)
            return super().pick_batch(batch, scores, budgets)

    enc = tiny.encoded(vlm, 3)
    with prune(vlm, Spy(keep=0.5), 2):
        vlm.forward(enc)
    (batch,) = seen
    whole = batch.stack.untyped_storage().data_ptr()
    assert {ctx.features.untyped_storage().data_ptr() for ctx in batch} == {whole}
    for at, ctx in zip(batch.starts, batch, strict=True):
        assert torch.equal(batch.stack[at : at + ctx.n], ctx.features)


def test_selection_is_made_once_per_prefill(monkeypatch):
    vlm, calls = tiny.vlm("internvl"), []
    select = FastV.select_batch
    spy = lambda self, batch: calls.append([ctx.n for ctx in batch]) or select(self, batch)  # noqa: E731
    monkeypatch.setattr(FastV, "select_batch", spy)
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.5), 2) as state:
        run(vlm, enc)
        assert calls == [[layout.n for layout in enc.layouts]]
        first = state.selections
        run(vlm, tiny.encoded(vlm, 2, seed=1))
        assert len(calls) == 2 and state.selections is not first


@FAMILIES
def test_scores_are_the_attention_of_the_layer_before(family):
    """Against transformers' own eager attention maps."""
    vlm, layer = tiny.vlm(family), 2
    eager = tiny.vlm(family, attn="eager")
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.3), layer) as state:
        run(vlm, enc)
    maps = eager.forward(enc, output_attentions=True).attentions[layer - 1]
    for row, (selection, layout) in enumerate(zip(state.selections, enc.layouts, strict=True)):
        want = maps[row, :, -1, enc.visual[row, : layout.n]].mean(0)
        torch.testing.assert_close(selection.scores, want, atol=1e-5, rtol=0)


def test_query_rows_can_be_chosen():
    vlm, layer = tiny.vlm("internvl"), 2
    enc = vlm.encode(tiny.images(2), tiny.texts(2)[::-1])
    n = enc.layouts[1].n
    _, text_mask = text_after(vlm, enc)
    pad = int((enc.inputs["attention_mask"][1] == 0).sum())
    last_image = int(enc.visual[1, n - 1])
    assert pad > 0 and text_mask[1].sum() < text_mask[0].sum()
    rows = {"text": range(last_image + 1, enc.last + 1), (-1, -3): [enc.last, enc.last - 2], (1,): [pad + 1]}
    with capture(vlm, [layer - 1], queries=torch.arange(enc.last + 1)) as captured:
        vlm.forward(enc)
    for queries, wanted in rows.items():
        with prune(vlm, FastV(keep=0.3, queries=queries), layer) as state:
            vlm.forward(enc)
        want = captured[layer - 1].values[1, :, list(wanted), :n].mean((0, 1))
        torch.testing.assert_close(state.selections[1].scores, want, atol=1e-6, rtol=0)


# -- contract 4 ----------------------------------------------------------------------------------------------
@CROSSED
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_sample_does_not_depend_on_its_batch_mates(family, name):
    vlm = tiny.vlm(family)
    pictures, questions, ids = tiny.images(3), tiny.texts(3), ["a", "b", "c"]
    method = method_for(name)
    if not serves(vlm, method, 2):
        return

    def answer(rows):
        images, texts, sample_ids = ([column[i] for i in rows] for column in (pictures, questions, ids))
        enc = vlm.encode(images, texts, sample_ids=sample_ids)
        with prune(vlm, method, 2, seed=7) as state:
            tokens, logits = run(vlm, enc, steps=3)
        return {i: (state.selections[k], tokens[k], logits[k]) for k, i in enumerate(rows)}

    together, turned = answer([0, 1, 2]), answer([2, 0])
    alone = {i: answer([i])[i] for i in range(3)}
    for i, (selection, tokens, logits) in alone.items():
        for others in (together, turned) if i != 1 else (together,):
            assert torch.equal(others[i][0].indices, selection.indices)
            assert torch.equal(others[i][1], tokens)
            assert (others[i][2] - logits).abs().max() < 1e-4
        n = len(selection.scores) if selection.scores is not None else None
        assert (selection.indices.diff() > 0).all()
        assert n is None or len(selection.indices) == budget(0.4, n)


def test_seeds_come_from_run_and_sample():
    assert sample_seed(0, "a") == sample_seed(0, "a") < 2**63
    assert len({sample_seed(s, i) for s in (0, 1) for i in ("a", "b")}) == 4


def test_beams_share_their_sample():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.3), 2) as state:
        both = vlm.generate(enc, max_new_tokens=4, num_beams=3)
        assert len(state.selections) == 2 and len(state.counts) == 2
        kept = [s.indices.tolist() for s in state.selections]
        for i in range(2):
            one = vlm.encode(tiny.images(2)[i : i + 1], tiny.texts(2)[i : i + 1])
            assert vlm.generate(one, max_new_tokens=4, num_beams=3) == [both[i]]
            assert state.selections[0].indices.tolist() == kept[i]


def hooks(vlm):
    modules = [
        vlm.model,
        vlm.decoder,
        *vlm.decoder.layers,
        *(layer.self_attn for layer in vlm.decoder.layers),
    ]
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in modules)


def test_nothing_is_left_behind():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    tokens, logits = run(vlm, enc)
    before = hooks(vlm), vlm.decoder.config._attn_implementation

    class Broken(FastV):
        def importance(self, ctx):
            raise RuntimeError("broken")

    for method, expectation in ((FastV(), contextlib.nullcontext()), (Broken(), pytest.raises(RuntimeError))):
        with expectation, prune(vlm, method, 2):
            assert hooks(vlm) > before[0]
            run(vlm, enc)
        assert (hooks(vlm), vlm.decoder.config._attn_implementation) == before
        assert vlm.prefill.pruned == ()
        again = run(vlm, enc)
        assert torch.equal(again[0], tokens) and torch.equal(again[1], logits)


# -- turns, forwards, capture --------------------------------------------------------------------------------
@FAMILIES
def test_second_turn_continues_the_pruned_cache(family):
    vlm, layer = tiny.vlm(family), 2
    enc = tiny.encoded(vlm, 2)
    question = torch.randint(10, 200, (2, 4), generator=torch.Generator().manual_seed(0))
    assert second_turn_error(vlm, enc, question, FastV(keep=0.3), layer) <= 1e-4


def test_prompts_without_image_pass_through():
    vlm = tiny.vlm("internvl")
    ids = torch.randint(10, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tokens, logits = generate(vlm, inputs)
    for method, layer in ((FastV(), 2), (Random(), 0)):
        with prune(vlm, method, layer) as state:
            pruned = generate(vlm, inputs)
        assert torch.equal(pruned[0], tokens) and torch.equal(pruned[1], logits)
        assert state.selections == []


@pytest.mark.parametrize("capture_first", [True, False])
def test_capture_sees_the_kept_tokens(capture_first):
    vlm, layer = tiny.vlm("internvl"), 2
    enc = tiny.encoded(vlm, 3)
    with contextlib.ExitStack() as stack:
        if capture_first:
            rows = stack.enter_context(capture(vlm, range(4)))
        state = stack.enter_context(prune(vlm, FastV(keep=0.3), layer))
        if not capture_first:
            rows = stack.enter_context(capture(vlm, range(4)))
        run(vlm, enc)
    for i in range(4):
        for row, selection in enumerate(state.selections):
            n = enc.layouts[row].n
            if i < layer:
                assert rows[i].kept is None and int(rows[i].mask[row].sum()) == n
            else:
                assert rows[i].kept[row, rows[i].mask[row]].tolist() == selection.indices.tolist()
    scores = state.selections[0].scores
    torch.testing.assert_close(rows[1].values[0, :, 0, : len(scores)].mean(0), scores)
