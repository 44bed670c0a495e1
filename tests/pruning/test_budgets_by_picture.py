"""A method may keep fewer tokens than its budget, as many as the image asks for; what is kept is what is counted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import tiny
import torch
import toy_grounding as toy
from pruned import dropped_positions, lowest_layer, oracle, run

from biaslab.pruning import FastV, prune
from biaslab.pruning.base import TokenContext, descending


@dataclass(frozen=True, eq=False, kw_only=True)
class TopP(FastV):
    """The best tokens that together hold a share of the attention, at most ``keep`` of all."""

    p: float = 0.5
    name = "top_p"
    nested = False

    def pick(self, ctx: TokenContext, scores):
        order = descending(scores)
        mass = scores[order].cumsum(0) / scores.sum()
        enough = int((mass < self.p).sum()) + 1
        return order[: min(enough, ctx.budget)], {"enough": enough}


def wanted(scores, p, limit):
    """The same by a loop."""
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    kept, held = [], 0.0
    for i in order:
        if kept and held >= p or len(kept) == limit:
            break
        kept.append(i)
        held += float(scores[i] / scores.sum())
    return sorted(kept)


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_what_is_kept_depends_on_the_picture_and_the_cache_is_right(family):
    vlm = tiny.vlm(family)
    enc, layer = tiny.encoded(vlm, 3), max(1, lowest_layer(vlm))
    with prune(vlm, TopP(keep=0.95, p=0.8), layer) as state:
        answer, logits = run(vlm, enc)
    counts = [len(s.indices) for s in state.selections]
    assert len(set(counts)) > 1
    for selection, layout in zip(state.selections, enc.layouts, strict=True):
        assert selection.indices.tolist() == wanted(selection.scores, 0.8, int(0.95 * layout.n))
        assert selection.info["enough"] >= len(selection.indices)
    want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), layer)
    assert (logits - want).abs().max() <= 1e-4
    for i in range(3):  # alone as in the batch
        alone = vlm.encode([tiny.images(3)[i]], [tiny.texts(3)[i]])
        with prune(vlm, TopP(keep=0.95, p=0.8), layer) as single:
            vlm.forward(alone)
        assert torch.equal(single.selections[0].indices, state.selections[i].indices)


def test_a_run_reports_what_was_kept(tmp_path):
    vlm = tiny.vlm("internvl")
    method = TopP(p=0.4)
    shared = toy.run(tmp_path / "a", vlm, None, [method, "fastv"], 0.9, 2)
    plain = toy.run(tmp_path / "b", vlm, None, [method, "fastv"], 0.9, 2, plain=True)
    toy.same(shared.samples, plain.samples)
    lines = shared.samples
    ours, theirs = (lines[lines["method"] == name].set_index("id") for name in ("top_p", "fastv"))
    assert ours["tokens_kept"].nunique() > 1 and (ours["tokens_kept"] < theirs["tokens_kept"]).all()
    assert [info["enough"] for info in ours["info"]] == ours["tokens_kept"].tolist()
    assert (ours["tflops_decoder"] < theirs["tflops_decoder"]).all()
    table = shared.table[shared.table["expression_type"] == "all"].set_index("method")
    mean = (2 + (vlm.n_layers - 2) * ours["tokens_kept"] / ours["tokens"]).mean() / vlm.n_layers
    assert table.loc["top_p", "mean_share"] == pytest.approx(float(mean))
    assert table.loc["top_p", "mean_share"] < table.loc["fastv", "mean_share"]
