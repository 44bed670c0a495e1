"""PriorTR: its two scores by hand, its trap, its refusals."""

from __future__ import annotations

import pytest
import torch
from methods import RASTER, context

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning import PriorTR, TokenContext, parse

LAYOUT = TokenLayout.raster(1, 5, size=(50, 10), family="toy")


def scores(said, prior, **options):
    said, prior = (torch.tensor(x)[None, None] for x in (said, prior))
    return PriorTR(**options).importance(TokenContext(LAYOUT, 2, attention=said, other_rows={"null": prior}))


def test_scores_by_hand():
    """Both rows are divided by their sums: what they give to other tokens does not matter."""
    said, prior = [0.1, 0.1, 0.1, 0.2, 0.0], [0.01, 0.02, 0.04, 0.02, 0.01]
    p, q = torch.tensor([0.2, 0.2, 0.2, 0.4, 0.0]), torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1])
    torch.testing.assert_close(scores(said, prior, rule="ratio"), p / q, atol=1e-6, rtol=1e-5)
    want = torch.tensor([0.2, 0.2, 0.2, 0.4, 1.0]) * torch.tensor([2.0, 1.0, 0.5, 2.0, 1.0]).log()
    torch.testing.assert_close(scores(said, prior), want, atol=1e-6, rtol=1e-5)


def test_heads_and_rows_are_averaged_before_the_comparison():
    ctx = context(RASTER, 0.2)
    p, q = ctx.attention.mean((0, 1)), ctx.other_rows["null"].mean((0, 1))
    p, q = p / p.sum(), q / q.sum()
    torch.testing.assert_close(PriorTR().importance(ctx), p * (p / q).log(), atol=1e-6, rtol=1e-4)


def test_the_trap_of_the_published_score():
    """A token that draws nothing comes before one just below its prior; the ratio has them in order."""
    said, prior = [0.68, 0.18, 0.14, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]
    published, ratio = scores(said, prior), scores(said, prior, rule="ratio")
    assert published.argsort(descending=True, stable=True).tolist() == [0, 3, 4, 1, 2]
    assert ratio.argsort(descending=True, stable=True).tolist() == [0, 1, 2, 3, 4]
    # it falls until x = q / e
    assert scores([0.2 / 2.718, 0.4, 0.4, 0.1, 0.0264], prior).argmin() == 0


def test_what_equals_its_prior_says_nothing():
    same = [0.3, 0.1, 0.2, 0.3, 0.1]
    torch.testing.assert_close(scores(same, same), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores(same, same, rule="ratio"), torch.ones(5))


def test_options():
    assert parse("priortr:rule=ratio:queries=text").label == "priortr:queries=text:rule=ratio"
    assert parse("fastv:queries=null").queries == "null"  # the word, not JSON's
    for wrong in ({"rule": "log"}, {"queries": "null"}, {"eps": 0}):
        with pytest.raises(InputError):
            PriorTR(**wrong)
    ctx = context(RASTER, 0.1, other_rows={})
    with pytest.raises(InputError, match="needs the rows 'null'"):
        PriorTR().select(ctx)
    with pytest.raises(InputError, match="do not fit"):
        PriorTR().select(context(RASTER, 0.1, other_rows={"null": torch.ones(3, 1, 4)}))
