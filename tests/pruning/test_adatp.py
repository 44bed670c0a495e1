"""AdaTP: quotas against a loop, a relevant frame that biased attention does not find, and images of several tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import RASTER, TILED, MapProfile, context

from biaslab.core.frames import frames_layout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.simulate import simulate
from biaslab.profiles import FactorisedProfile
from biaslab.pruning import FastV, TokenContext, make, parse
from biaslab.pruning.algorithms.quotas import quotas

FRAME = TokenLayout.raster(4, 5, size=(50, 40), family="toy")


def adatp(**options):
    return make("adatp", **options)


def video(frames, budget, *, like=(), seed=0, attention=None, layer=2):
    """A prompt of frames with random features; frames listed in ``like`` repeat the one before."""
    g = torch.Generator().manual_seed(seed)
    layout = frames_layout([FRAME] * frames)
    features = [torch.randn(FRAME.n, 12, generator=g) + 2 * torch.randn(12, generator=g) for _ in range(frames)]
    for k in like:
        features[k] = features[k - 1] + 0.01 * torch.randn(FRAME.n, 12, generator=g)
    words = torch.randn(5, 12, generator=g)
    attention = torch.rand(3, 2, layout.n, generator=g) if attention is None else attention
    return TokenContext(
        layout, budget, layer=layer, attention=attention, features=torch.cat(features).flip(1), text=words.flip(1),
        embeddings=torch.cat(features), text_embeddings=words,
    )  # fmt: skip


# -- the rule --------------------------------------------------------------------------------------------------
def by_loops(ctx, *, join=0.95, temperature=0.1, relevance="similarity", local=True):
    """Token by token, straight from the docstring; quotas by `quotas`, which has its own test."""
    frame, x, t = ctx.layout.frame, ctx.embeddings.double(), ctx.text_embeddings.double().mean(0)
    score = ctx.attention.mean((0, 1)).tolist()
    cosine = lambda a, b: float(a @ b / (a.norm() * b.norm()))  # noqa: E731
    means = [x[frame == k].mean(0) for k in range(ctx.layout.n_frames)]
    segments = [[0]]
    for k in range(1, len(means)):
        if cosine(means[k - 1], means[k]) >= join:
            segments[-1].append(k)
        else:
            segments.append([k])
    candidates, weight = [], []
    for segment in segments:
        own = [i for i in range(ctx.n) if frame[i] in segment]
        best = {}
        for i in own:
            cell = (int(ctx.layout.row[i]), int(ctx.layout.col[i])) if local else i
            if cell not in best or score[i] > score[best[cell]]:
                best[cell] = i
        candidates.append(sorted(best.values(), key=lambda i: (-score[i], i)))
        v = np.exp(cosine(x[own].mean(0), t) / temperature) if relevance == "similarity" else 1.0
        if relevance == "attention":
            v = sum(score[i] for i in own) / len(own)
        weight.append(len(candidates[-1]) * v)
    room = [len(c) for c in candidates]
    quota = quotas(weight, room, min(ctx.budget, sum(room)))
    kept = [i for c, q in zip(candidates, quota, strict=True) for i in c[:q]]
    rest = sorted(set(range(ctx.n)) - set(sum(candidates, [])), key=lambda i: (-score[i], i))
    return sorted(kept + rest[: ctx.budget - len(kept)]), segments, quota


@pytest.mark.parametrize("options", [{}, {"relevance": "attention"}, {"relevance": "even"}, {"join": 0.5}])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_loop(options, seed):
    for budget in (3, 17, 70, 100):
        ctx = video(5, budget, like=(1, 4), seed=seed)
        chosen = adatp(**options).select(ctx)
        kept, segments, quota = by_loops(ctx, **options)
        assert chosen.indices.tolist() == kept and chosen.info["quota"] == quota
        assert chosen.info["segments"] == [[s[0], s[-1]] for s in segments]
        assert sum(quota) + max(0, budget - sum(chosen.info["candidates"])) == budget


def test_every_token_is_a_candidate_without_local_debiasing():
    ctx = video(4, 30, like=(1,))
    chosen = adatp(local="none").select(ctx)
    assert chosen.indices.tolist() == by_loops(ctx, local=False)[0] and sum(chosen.info["candidates"]) == ctx.n


def test_states_in_the_place_of_embeddings():
    ctx = video(3, 12)  # the states are the embeddings mirrored: the same cosines
    one, other = (adatp(similar_by=by).select(ctx) for by in ("embeddings", "states"))
    assert one.indices.tolist() == other.indices.tolist()
    assert one.info["relevance"] == pytest.approx(other.info["relevance"], rel=1e-4)
    assert adatp(similar_by="states").needs == {"attention", "features", "text"}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 30)), min_size=1, max_size=8), st.floats(0, 1))
def test_quotas_are_whole_within_their_caps_and_proportional_where_there_is_room(groups, share):
    weights, caps = map(list, zip(*groups, strict=True))
    n = int(share * sum(caps))
    parts = quotas(weights, caps, n)
    assert sum(parts) == n and all(0 <= p <= c for p, c in zip(parts, caps, strict=True))
    if sum(weights) > 0 and all(n * w / sum(weights) <= c for w, c in zip(weights, caps, strict=True)):
        assert all(abs(p - n * w / sum(weights)) < 1 + 1e-6 for p, w in zip(parts, weights, strict=True))


# -- what it is for --------------------------------------------------------------------------------------------
def biased(frames=8, asked=1, seed=0):
    """A video whose last frames draw most attention whatever they show; the words are about frame ``asked``."""
    ctx = video(frames, 16, seed=seed)
    layout, g = ctx.layout, torch.Generator().manual_seed(seed + 1)
    late = 3.0 * np.exp(4 * ((layout.frame + 0.5) / frames - 1))
    content = 0.3 * torch.randn(3, 2, layout.n, generator=g).double() + 1.0 * (layout.frame == asked)
    ctx.attention = (torch.from_numpy(late) + content).exp().float() / 1e3
    ctx.text_embeddings = ctx.embeddings[layout.frame == asked].mean(0, keepdim=True).repeat(4, 1)
    return ctx


def frame_counts(ctx, chosen):
    return np.bincount(ctx.layout.frame[chosen.indices.numpy()], minlength=ctx.layout.n_frames)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("asked", [0, 3])
def test_the_quota_keeps_the_frame_that_is_asked_about(asked, seed):
    ctx = biased(asked=asked, seed=seed)
    plain = frame_counts(ctx, FastV(keep=16).select(ctx))
    assert plain[asked] == 0 and plain[-1] > 12  # attention alone keeps the end of the video
    control = frame_counts(ctx, adatp(relevance="attention").select(ctx))
    assert control[-1] > control[asked]
    assert frame_counts(ctx, adatp().select(ctx)).argmax() == asked


@pytest.mark.parametrize("seed", range(3))
def test_a_fitted_profile_in_the_place_of_similarity(seed):
    made = simulate("none", {frames_layout([FRAME] * n): 60 for n in (4, 8)}, frames=3.0, seed=5, layers=2)
    profile = FactorisedProfile().fit(made.maps)
    ctx = biased(seed=seed)
    rule = adatp(relevance="profile", profile=profile)
    counts = frame_counts(ctx, rule.select(ctx))
    assert counts.argmax() == 1 and counts[-1] <= 3
    longer = biased(frames=12, asked=2, seed=seed)  # a number of frames that was not fitted
    assert frame_counts(longer, rule.select(longer)).argmax() == 2


def test_alike_frames_are_one_segment_that_keeps_a_place_once():
    ctx = video(4, FRAME.n, like=(1, 2, 3))
    chosen = adatp().select(ctx)
    assert chosen.info["segments"] == [[0, 3]] and chosen.info["candidates"] == [FRAME.n]
    cells = {(int(ctx.layout.row[i]), int(ctx.layout.col[i])) for i in chosen.indices}
    assert len(cells) == FRAME.n  # every place once, from whichever frame


# -- single images -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"relevance": "even"}, {"relevance": "attention"}, {"local": "none"}])
@pytest.mark.parametrize("queries", ["last", "text"])
def test_with_one_frame_of_one_tile_it_is_its_inner_rule(options, queries):
    for layout in (RASTER, frames_layout([FRAME])):
        for keep in (1, 0.3, 1.0):
            ctx = context(layout, keep)
            inner = FastV(keep=keep, queries=queries).select(ctx)
            own = adatp(keep=keep, queries=queries, **options).select(ctx)
            assert torch.equal(own.indices, inner.indices) and torch.equal(own.scores, inner.scores)


def test_of_each_place_the_thumbnail_or_the_tiles():
    ctx = context(TILED, 0.2)
    score = ctx.attention.mean((0, 1))
    chosen = adatp(relevance="even").select(ctx)
    small = np.flatnonzero(TILED.thumbnail)
    for at in small:  # the 2 x 2 tokens of the tiles that show the thumbnail's cell
        x0, y0, x1, y1 = TILED.boxes[at]
        x, y = TILED.centers[~TILED.thumbnail].T
        inside = np.flatnonzero((x0 < x) & (x < x1) & (y0 < y) & (y < y1))
        assert len(inside) == 4
        kept = set(chosen.indices.tolist())
        if score[at] > score[inside].max():
            assert not kept & set(inside.tolist())
        else:
            assert int(at) not in kept
    assert chosen.info["segments"] == [[k, k] for k in range(5)]
    assert sum(chosen.info["candidates"]) < TILED.n


def test_a_tile_that_is_asked_about_gets_more():
    ctx = context(TILED, 0.2)
    ctx.text_embeddings = ctx.embeddings[TILED.tile == 2].mean(0, keepdim=True)
    quota = adatp().select(ctx).info["quota"]
    assert int(np.argmax(quota)) == 2


# -- refusals --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"relevance": "words"}, "relevance must be one of similarity, profile, attention, even"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"relevance": "even", "temperature": 0.5}, "temperature does nothing without relevance=similarity"),
        ({"join": 1.5}, "join must be a number in"),
        ({"local": "row"}, "local must be one of cell, none"),
        ({"similar_by": "clip"}, "similar_by must be one of embeddings, states"),
        ({"profile": "a path", "relevance": "profile"}, "profile must be a fitted profile"),
        ({"profile": MapProfile(torch.ones(1, 4))}, "profile does nothing without relevance=profile or heads=quality"),
        ({"relevance": "profile", "heads": [1]}, "relevance=profile is of the mean over heads"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options, why):
    with pytest.raises(InputError, match=why):
        adatp(**options)


def test_a_profile_is_asked_for_and_must_know_frames():
    ctx = video(3, 6)
    with pytest.raises(InputError, match="needs a profile: fit 'factorised' on maps of frames"):
        adatp(relevance="profile").select(ctx)
    flat = FactorisedProfile().fit(simulate("none", {FRAME: 30}, layers=2).maps)
    with pytest.raises(InputError, match="fitted on single images and knows no trend over frames"):
        adatp(relevance="profile", profile=flat).select(ctx)
    picture = context(TILED, 0.2)
    adatp(relevance="profile", profile=MapProfile(torch.ones(1, TILED.n))).select(picture)


def test_it_is_named_on_the_command_line():
    rule = parse("adatp:relevance=attention:local=none")
    assert rule.label == "adatp:relevance=attention:local=none" and rule.joint
    assert rule.needs == {"attention", "embeddings"}
