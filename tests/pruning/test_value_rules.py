"""direction_only, DART and IVC: by hand, and against loops."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from methods import RASTER, context
from pruned import run

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.pruning import DART, IVC, DirectionOnly, FastV, TokenContext, parse, prune
from biaslab.pruning.algorithms.coordinates import coordinates, reference_tokens
from biaslab.pruning.context import Rotary


# -- direction_only --------------------------------------------------------------------------------------------
def test_direction_only_by_loops_and_blind_to_length():
    ctx = context(RASTER, 0.2)
    ctx.attention = torch.rand(6, 2, RASTER.n)  # two query heads share a value
    want = torch.zeros(RASTER.n)
    for head in range(6):
        values = ctx.values[head // 2]
        mean = values.mean(0)
        for i, v in enumerate(values):
            cosine = float(v @ mean / (v.norm() * mean.norm()))
            want[i] += float(ctx.attention[head, :, i].mean()) * (1 - cosine) / 6
    torch.testing.assert_close(DirectionOnly().importance(ctx), want, atol=1e-5, rtol=1e-4)
    unit = torch.nn.functional.normalize(ctx.values, dim=-1)
    ctx.values = unit
    before = DirectionOnly().importance(ctx)
    # one direction, many lengths: nothing is said, whatever value_norm would say
    ctx.values = torch.ones(3, RASTER.n, 8) * torch.rand(3, RASTER.n, 1).add(0.1)
    assert DirectionOnly().importance(ctx).abs().max() < 1e-5 < before.max()
    with pytest.raises(InputError, match="length of values"):
        DirectionOnly(score="value_norm")


# -- dart ------------------------------------------------------------------------------------------------------
def slow_dart(ctx, visual, text, n):
    """In plain Python, token by token, on numbers as they are in float32."""
    norm = lambda keys, i: sum(abs(float(x)) for head in keys for x in head[i])  # noqa: E731
    pivots = sorted(range(ctx.n), key=lambda i: -norm(ctx.keys, i))[: min(visual, max(1, n // 2))]
    words = sorted(range(len(ctx.text)), key=lambda i: -norm(ctx.text_keys, i))[:text]
    guides = [ctx.features[i] for i in pivots] + [ctx.text[i] for i in words]
    each = math.ceil((n - len(pivots)) / len(guides))
    kept = list(pivots)
    for guide in guides:
        left = [i for i in range(ctx.n) if i not in kept]
        left.sort(key=lambda i: float(torch.cosine_similarity(ctx.features[i], guide, dim=0)))
        kept += left[: min(each, n - len(kept))]
    return sorted(kept)


@pytest.mark.parametrize("n", [1, 3, 8, 9, 20, 53, 96])
def test_dart_by_loops(n):
    ctx = context(RASTER, n)
    assert DART().select(ctx).indices.tolist() == slow_dart(ctx, 4, 4, n)
    assert DART(visual=2, text=1).select(ctx).indices.tolist() == slow_dart(ctx, 2, 1, n)


def test_dart_keeps_no_duplicates_of_its_pivots():
    """Nine tokens that differ among a hundred copies of one: eight others and a pivot are kept, no second copy."""
    layout = TokenLayout.raster(1, 20, size=(200, 10), family="toy")
    features = torch.ones(20, 12)
    features[5:11] = torch.eye(12)[:6] - 1
    ctx = TokenContext(layout, 7, features=features, text=torch.ones(1, 12))
    kept = DART(by="features", visual=1, text=1).select(ctx).indices
    assert set(range(5, 11)) < set(kept.tolist())


def test_dart_before_the_decoder_reads_no_layer():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with pytest.raises(UnsupportedError, match="at K = 0 there is none"), prune(vlm, DART(), 0):
        pytest.fail("was not refused before any work")
    with prune(vlm, parse("dart:by=features").with_keep(0.5), 0) as state:
        run(vlm, enc)
    assert [len(s.indices) for s in state.selections] == [x.n // 2 for x in enc.layouts]
    for wrong in ({"visual": 0, "text": 0}, {"visual": -1}, {"text": 1.5}, {"by": "norm"}):
        with pytest.raises(InputError):
            DART(**wrong)
    assert parse("dart:visual=2").label == "dart:visual=2"


# -- ivc -------------------------------------------------------------------------------------------------------
def test_the_set_of_given_frequencies_by_hand():
    """Theta of 1 and pi / 2 at positions 0 to 7: cosines and sines from a table."""
    rotary = Rotary(torch.tensor([1.0, math.pi / 2]), torch.arange(8)[None])
    v, u = coordinates(rotary)
    assert v.tolist() == pytest.approx([1.0, 0.2702, -0.7081, -0.4950, 0.1732, 0.1418, -0.0199, 0.3770], abs=1e-4)
    assert u.tolist() == pytest.approx([0.0, 0.9207, 0.4546, -0.4294, -0.3784, 0.0205, -0.1397, -0.1715], abs=1e-4)
    # largest cosines at 0, 7, 1; largest sines at 1, 2, 5
    assert reference_tokens(rotary, 2).tolist() == [0, 1]
    assert reference_tokens(rotary, 4).tolist() == [0, 7, 1, 2]
    assert reference_tokens(rotary, 6).tolist() == [0, 7, 1, 2, 5, 6]  # 1 is a cosine already: the next sines
    assert reference_tokens(rotary, 8).sort().values.tolist() == list(range(8))
    assert reference_tokens(rotary, 0).tolist() == []


def test_axes_of_m_rope_are_averaged():
    theta = torch.tensor([1.0, 0.1])
    at = torch.tensor([[5, 5, 5], [0, 1, 2], [7, 3, 1]])
    v, u = coordinates(Rotary(theta, at))
    for i in range(3):
        assert float(v[i]) == pytest.approx(sum(math.cos(m * t) for m in at[:, i].tolist() for t in (1, 0.1)) / 6)
        assert float(u[i]) == pytest.approx(sum(math.sin(m * t) for m in at[:, i].tolist() for t in (1, 0.1)) / 6)


def slow_ivc(ctx, n, share, seeds):
    """The four steps one by one in double precision."""

    def like(of):
        total = torch.zeros(ctx.n, dtype=torch.double)
        for head, own in zip(of, ctx.values.double(), strict=True):
            for q in head.double():
                total += (own @ q / math.sqrt(own.shape[1])).softmax(0) / (len(of) * len(head))
        return total

    kept = reference_tokens(ctx.rotary, int(share * n)).tolist()
    asked = like(ctx.text_values)
    best = sorted(range(ctx.n), key=lambda i: -float(asked[i]))[: max(1, int(seeds * ctx.n))]
    kept += [i for i in best if i not in kept]
    refined = like(torch.cat([ctx.values[:, best], ctx.text_values], 1))
    kept += [i for i in sorted(range(ctx.n), key=lambda i: -float(refined[i])) if i not in kept]
    return sorted(kept[:n])


@pytest.mark.parametrize("n", [1, 4, 11, 48, 96])
def test_ivc_by_loops(n):
    for seed in range(3):
        ctx = context(RASTER, n, seed=seed)
        assert IVC().select(ctx).indices.tolist() == slow_ivc(ctx, n, 0.4, 0.01)
        method = IVC(coordinates=0.0, seeds=0.06)
        assert method.select(ctx).indices.tolist() == slow_ivc(ctx, n, 0.0, 0.06)


def test_the_published_slip_is_an_option():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    kept = {}
    for hidden in ("normed", "raw"):
        with prune(vlm, IVC(keep=0.5, coordinates=0.0, hidden=hidden), 3) as state:
            run(vlm, enc)
        kept[hidden] = [s.indices.tolist() for s in state.selections]
    assert kept["normed"] != kept["raw"]
    assert IVC(hidden="raw").raw_values and not FastV().raw_values
    for wrong in ({"coordinates": 1.5}, {"seeds": 0}, {"hidden": "unnormed"}):
        with pytest.raises(InputError):
            IVC(**wrong)
