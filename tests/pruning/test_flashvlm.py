"""FlashVLM: its score by hand, and what its options stand for."""

from __future__ import annotations

import math

import pytest
import torch
from methods import RASTER, context
from torch.nn.functional import cosine_similarity

from biaslab.errors import InputError
from biaslab.pruning import DivPrune, FlashVLM
from biaslab.pruning.algorithms.max_min import max_min_orders, max_min_rest
from biaslab.pruning.context import descending


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("saliency", ["norm", "distinct"])
def test_the_score_is_a_product_of_two_distributions(pool, saliency):
    ctx = context(RASTER, 0.2)
    got = FlashVLM(beta=0.3, temperature=0.2, pool=pool, saliency=saliency).importance(ctx)
    x, t = ctx.features.double(), ctx.text.double()
    cosines = torch.stack([cosine_similarity(x, word[None]) for word in t])
    relevance = ((cosines.mean(0) if pool == "mean" else cosines.amax(0)) / 0.2).exp()
    salient = x.norm(dim=1)
    if saliency == "distinct":
        salient = 1 - torch.stack([cosine_similarity(x, own[None]) for own in x]).mean(0)
    fused = (relevance / relevance.sum()) ** 0.3 * (salient / salient.sum()) ** 0.7
    torch.testing.assert_close(got.double().exp(), fused, atol=1e-7, rtol=1e-4)


def test_what_the_options_stand_for():
    ctx = context(RASTER, 12)
    top = descending(FlashVLM().importance(ctx))
    assert torch.equal(FlashVLM(diverse=0.0).select(ctx).indices, top[:12].sort().values)
    relevance = cosine_similarity(ctx.features[:, None], ctx.text[None], dim=2).mean(1)
    only = FlashVLM(beta=1.0, diverse=0.0).select(ctx).indices
    assert torch.equal(only, descending(relevance)[:12].sort().values)
    assert torch.equal(FlashVLM(beta=1.0, diverse=0.0, temperature=9.0).select(ctx).indices, only)
    norms = descending(ctx.features.norm(dim=1))[:12].sort().values
    assert torch.equal(FlashVLM(beta=0.0, diverse=0.0, saliency="norm").select(ctx).indices, norms)
    # of a small temperature, relevance decides
    assert torch.equal(FlashVLM(temperature=1e-4, diverse=0.0).select(ctx).indices, only)
    assert not torch.equal(norms, only)


def test_the_rest_is_diverse_from_what_is_kept():
    ctx = context(RASTER, 12)
    found = FlashVLM(diverse=0.5).select(ctx)
    top = descending(found.scores)[:6]
    assert found.info == {"diverse": 6}
    assert torch.equal(found.indices, torch.cat([top, max_min_rest(ctx.features, top, 6)]).sort().values)
    # one token is kept, and the others are those of max-min diversity that starts there
    spread = FlashVLM(diverse=1.0).select(ctx).indices
    weights = torch.full((RASTER.n,), 1.0)
    weights[int(top[0])] += 1e-6
    (order,) = max_min_orders([ctx.features], [12], weights=[weights])
    assert torch.equal(spread, order.sort().values)
    assert FlashVLM(diverse=1.0, keep=1).select(context(RASTER, 1)).info == {"diverse": 0}


def test_max_min_rest_goes_on_from_a_set_as_a_loop_does():
    g = torch.Generator().manual_seed(0)
    for kinds in (4, 40):
        features = (torch.randint(0, 2, (kinds, 16), generator=g) * 2.0 - 1)[
            torch.randint(0, kinds, (40,), generator=g)
        ]
        cos = (features @ features.T / 16).tolist()  # exact: ties are ties
        kept = [7, 3, 20]
        want = list(kept)
        while len(want) < 30:
            left = [i for i in range(40) if i not in want]
            want.append(max(left, key=lambda i, want=tuple(want): (min(1 - cos[i][j] for j in want), -i)))
        assert max_min_rest(features, torch.tensor(kept), 27).tolist() == want[3:]
    whole = max_min_orders([features], [9])[0]
    assert torch.equal(max_min_rest(features, whole[:4], 5), whole[4:])
    assert DivPrune.nested and not FlashVLM.nested


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 2}, r"beta must be a number in \[0, 1\]"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"diverse": math.nan}, "diverse must be a number"),
        ({"saliency": "cls"}, "saliency must be one of distinct, norm"),
        ({"pool": "last"}, "pool must be one of mean, max"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        FlashVLM(**options)
