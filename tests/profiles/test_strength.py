"""The chosen strength of removal: against brute force over images, planted truth and shrinkage by uncertainty."""

import numpy as np
import pytest
import torch

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord, fold_of
from biaslab.maps.moments import centred_log
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import debias
from biaslab.profiles.strength import choose_strength, reliable_share, shrink

LAYOUT = TokenLayout.raster(6, 6, size=(64, 64), family="internvl")


def make_maps(n, amount, noise=1.0, heads=1, seed=0, folds=5, uneven=False):
    rng = np.random.default_rng(seed)
    maps = StreamedMaps({"layers": [0], "folds": folds, "heads": "mean" if heads == 1 else "all"})
    position = amount * rng.standard_normal((1, heads, 36))
    scale = noise * (np.where(np.arange(36) < 18, 0.1, 3.0) if uneven else 1.0)
    rows = []
    for i in range(n):
        logs = position + scale * rng.standard_normal(position.shape) - 6
        attention = np.exp(logs).astype(np.float32)
        maps.add(ImageRecord(str(i), LAYOUT, str(i)), attention)
        rows.append((fold_of(str(i), folds), centred_log(attention[0])))
    return maps, rows, position[0]


def error(rows, s, head=0):
    """Held-out sum of squares at one strength, image by image."""
    out = 0.0
    for fold, x in rows:
        others = np.mean([y[head] for f, y in rows if f != fold], axis=0)
        out += ((x[head] - s * others) ** 2).sum()
    return out


@pytest.mark.slow
def test_it_is_the_minimum_of_the_held_out_error():
    maps, rows, _ = make_maps(20, 0.3, heads=2)
    found = choose_strength(maps)
    grid = np.linspace(0, 1, 2001)
    for head in range(2):
        best = grid[np.argmin([error(rows, s, head) for s in grid])]
        assert found.per_head_strength[head] == pytest.approx(best, abs=1e-3)
    total = sum((x**2).sum() for _, x in rows)
    at = [1 - sum(error(rows, s, h) for h in range(2)) / total for s in (1.0, found.strength)]
    assert (found.r2["full"], found.r2["chosen"]) == pytest.approx(at, abs=1e-5)
    assert 0 < found.strength < 1 and found.strength_lo <= found.strength <= found.strength_hi and found.n == 20


def test_no_bias_asks_for_no_removal_and_a_sure_map_for_all_of_it():
    strengths = [choose_strength(make_maps(40, 0.0, seed=s)[0]).strength for s in range(10)]
    assert np.mean(strengths) < 0.2
    sure = choose_strength(make_maps(200, 1.0)[0])
    assert sure.strength > 0.97 and sure.r2["full"] == pytest.approx(sure.r2["chosen"], abs=1e-3)
    few, many = (choose_strength(make_maps(n, 0.3)[0]).strength for n in (10, 400))
    assert few < many
    assert choose_strength(make_maps(40, 0.0)[0]).r2["full"] < 0 <= choose_strength(make_maps(40, 0.0)[0]).r2["chosen"]


def test_uncertain_positions_are_shrunk_more_and_that_helps():
    maps, _, truth = make_maps(15, 0.5, uneven=True)
    m = maps.moments(0, LAYOUT.key)
    w = reliable_share(m.log_mean, m.log_var, m.n)
    assert w.shape == (1, 36) and w[0, :18].min() > w[0, 18:].max() and (w >= 0).all() and (w <= 1).all()
    better = [
        np.square(w_ * x - t).sum() < np.square(x - t).sum()
        for mm, _, p in (make_maps(15, 0.5, uneven=True, seed=s) for s in range(10))
        for x, v, t in [(mm.moments(0, LAYOUT.key).log_mean, mm.moments(0, LAYOUT.key).log_var, p - p.mean())]
        for w_ in [reliable_share(x, v, 15)]
    ]
    assert sum(better) >= 9
    found = choose_strength(maps)
    assert found.r2["positionwise"] > found.r2["full"]
    assert not reliable_share(m.log_mean, m.log_var, 1).any()
    assert np.isnan(choose_strength(maps, estimator="tile").r2["positionwise"])


def test_shrinking_the_map_ranks_as_the_strength_does():
    g = torch.Generator().manual_seed(0)
    a, e = torch.rand((2, 36), generator=g), torch.rand((2, 36), generator=g) / 36 + 1e-3
    ours, theirs = debias(a, shrink(e, 0.4), eps=1e-12), debias(a, e, strength=0.4, eps=1e-12)
    assert torch.equal(ours.argsort(), theirs.argsort())
    assert torch.allclose(shrink(e, 1.0), e) and torch.allclose(shrink(e, 0.0), e.log().mean(1, keepdim=True).exp())
    by_position = torch.ones(36)
    by_position[3] = 0.0
    assert torch.allclose(shrink(e, by_position)[:, 3], e.log().mean(1).exp())
    with pytest.raises(InputError, match="strength"):
        shrink(e, 2.0)


def test_bad_input_is_one_clear_line():
    with pytest.raises(InputError, match="two folds"):
        choose_strength(make_maps(1, 1.0)[0])
    with pytest.raises(InputError, match="layers"):
        choose_strength(make_maps(10, 1.0)[0], layer=3)
    with pytest.raises(InputError, match="confidence"):
        choose_strength(make_maps(10, 1.0)[0], confidence=95)
    assert np.isnan(choose_strength(make_maps(20, 1.0, folds=2)[0]).strength_lo)
