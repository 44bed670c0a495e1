"""The greedy rules against their definitions as plain loops, and against what they become at their limits."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import normalize

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning import MMR, CDPruner, GreedyPrune, IDSelection, Scope, TokenContext, make
from biaslab.pruning.algorithms import greedy
from biaslab.pruning.algorithms.gains import Coverage, Excluded, Suppressed, Volume, ranks
from biaslab.pruning.algorithms.greedy import Cosines, greedy_orders
from biaslab.pruning.algorithms.max_min import max_min_orders
from biaslab.pruning.algorithms.mis import greedy_mis
from biaslab.pruning.algorithms.mmr import min_max
from biaslab.pruning.context import descending

N = 14


def drawn(seed, n=N, width=6):
    """Features that no rounding can confuse, and a positive score of distinct values."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=g) + 0.4, torch.rand(n, generator=g) + 0.05


def order_of(method, features, score):
    """All tokens in the order in which a method would keep them, given their importance."""
    return method.orders([features], [score], [len(features)])[0].tolist()


def cosine(features):
    unit = normalize(features.double(), dim=1)
    return unit @ unit.T


def best(values, kept):
    return max((i for i in range(len(values)) if i not in kept), key=lambda i: (float(values[i]), -i))


# -- the definitions -------------------------------------------------------------------------------------------
def is_best(values, chosen, kept):
    """Whether a token has the largest value of those that are left; pairs of tokens do tie, but for rounding."""
    largest = max(float(v) for i, v in enumerate(values) if i not in kept)
    return chosen not in kept and float(values[chosen]) >= largest * (1 - 1e-4)


@pytest.mark.parametrize("theta", [None, 0.0, 0.6])
def test_cdpruner_takes_the_largest_determinant_at_every_step(theta):
    for seed in range(4):
        features, score = drawn(seed, width=16)
        r = ((score - score.min()) / (score.max() - score.min() + 1e-6)).double()
        r = r + 1e-6 if theta is None else (theta / (2 * (1 - theta)) * r).exp()
        kernel, kept = r[:, None] * cosine(features) * r, []
        order = order_of(CDPruner(theta=theta), features, score)
        for chosen in order:
            volumes = [torch.linalg.det(kernel[s := [*kept, i]][:, s]) for i in range(N)]
            assert is_best(volumes, chosen, kept)
            kept.append(chosen)
        assert order != order_of(CDPruner(theta=0.9), features, score)


def test_cdpruner_of_more_tokens_than_dimensions_goes_on_by_relevance():
    features, score = drawn(0, n=40, width=3)
    order = order_of(CDPruner(), features, score)
    assert sorted(order) == list(range(40))
    rest = score[order[8:]]  # three directions are spent
    assert (rest.diff() <= 0).all()
    copies = features[[0] * 40]
    assert order_of(CDPruner(), copies, score) == descending(score).tolist()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 3.0])
def test_scope_takes_the_largest_weighted_coverage_at_every_step(power):
    for seed in range(4):
        features, score = drawn(seed)
        cos, covered, kept = cosine(features), torch.zeros(N, dtype=torch.double), []
        for chosen in order_of(Scope(power=power), features, score)[: N // 2]:  # then all is covered
            gains = score.double() ** power * (cos - covered[:, None]).clamp(min=0).sum(0)
            assert is_best(gains, chosen, kept)
            kept.append(chosen)
            covered = torch.maximum(covered, cos[:, chosen])


@pytest.mark.parametrize("gamma", [0.5, 20.0])
def test_idselection_subtracts_what_is_alike(gamma):
    for seed in range(4):
        features, score = drawn(seed)
        cos, left, kept = cosine(features), min_max(score).double(), []
        while len(kept) < N:
            kept.append(best(left, kept))
            left = (left - torch.exp(-gamma * (1 - cos[kept[-1]]) ** 2) * left[kept[-1]]).clamp(min=0)
        assert order_of(IDSelection(gamma=gamma), features, score) == kept


@pytest.mark.parametrize("tau", [-0.5, 0.3, 0.7])
def test_greedyprune_is_the_independent_set_then_the_rest_by_score(tau):
    for seed in range(4):
        features, score = drawn(seed)
        cos, order = cosine(features), descending(score)
        alike = cos > tau
        chosen = greedy_mis(order, lambda rows, cols, alike=alike: alike[rows][:, cols]).tolist()
        rest = [i for i in order.tolist() if i not in chosen]
        assert order_of(GreedyPrune(tau=tau), features, score) == chosen + rest
        assert 1 <= len(chosen) < N


# -- what they become ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "method", [MMR(lam=1.0), GreedyPrune(tau=1.0), IDSelection(gamma=1e12), Scope(power=200.0)], ids=lambda m: m.label
)
def test_without_a_look_at_likeness_they_are_the_best_scores(method):
    features, _ = drawn(1)
    features[3] = features[9]  # a copy: to GreedyPrune it is not more than alike
    if isinstance(method, IDSelection):
        features[3] += 0.1
    score = torch.arange(1, N + 1).float()[torch.randperm(N, generator=torch.Generator().manual_seed(5))]
    wanted = descending(score).tolist()
    n = N - 1 if isinstance(method, Scope) else N  # what is covered whole adds nothing
    assert order_of(method, features, score)[: n // 2] == wanted[: n // 2]


def test_a_constant_importance_is_diversity_alone():
    features, score = drawn(2)
    same = torch.full((N,), 0.7)
    # MMR: the farthest first from the first token, as with lambda 0 from a token that is said to be the best
    first = torch.zeros(N)
    first[0] = 1
    farthest = max_min_orders([features], [N], weights=[torch.where(first > 0, 1.0, 1 - 1e-7)])[0].tolist()
    assert order_of(MMR(), features, same) == order_of(MMR(lam=0.0), features, first) == farthest
    assert order_of(MMR(lam=0.0), features, score)[0] == int(score.argmax())
    # CDPruner: the plain determinantal process, which a weight of 0 is too
    assert order_of(CDPruner(), features, same)[:5] == order_of(CDPruner(theta=0.0), features, score)[:5]
    # SCOPE: facility location
    assert order_of(Scope(), features, same)[: N // 2] == order_of(Scope(power=0.0), features, score)[: N // 2]


def test_the_first_token_of_cdpruner_is_the_most_relevant_or_with_negate_the_least():
    features, score = drawn(3)
    assert order_of(CDPruner(), features, score)[0] == int(score.argmax())
    assert order_of(CDPruner(negate=True), features, score)[0] == int(score.argmin())


# -- the loop --------------------------------------------------------------------------------------------------
RULES = {
    "suppressed": (partial(Suppressed, gamma=20.0), min_max, True),
    "excluded": (partial(Excluded, tau=0.3), ranks, True),
    "volume": (partial(Volume, steps=60), lambda own: min_max(own) + 1e-6, False),
    "coverage": (partial(Coverage, power=1.0), min_max, False),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ties", [False, True])
def test_each_image_is_chosen_from_as_if_it_were_alone(rule, ties):
    begin, prepare, together = RULES[rule]
    images, scores = zip(*(drawn(seed, n=n) for seed, n in enumerate((1, 5, 30, 17, 60))), strict=True)
    if ties:
        images = [x.sign() for x in images]
        scores = [(own * 4).round() for own in scores]
    scores = [torch.where(torch.arange(len(own)) % 7 == 3, -torch.inf, own) for own in scores]
    weights = [prepare(own) for own in scores]
    budgets = [1, 3, 30, 0, 41]
    orders = greedy_orders(images, budgets, weights, begin, together=together)
    for image, own, n, order in zip(images, weights, budgets, orders, strict=True):
        alone = greedy_orders([image], [len(image)], [own], begin, together=together)[0]
        assert torch.equal(order, alone[:n])
        assert sorted(alone.tolist()) == list(range(len(image)))  # each once
        last = own == -torch.inf
        assert last[alone].int().diff().ge(0).all()  # all that come last, after all others


@pytest.mark.parametrize("rule", RULES)
def test_an_image_of_too_many_pairs_goes_alone_and_keeps_the_same(rule, monkeypatch):
    begin, prepare, together = RULES[rule]
    images, scores = zip(*(drawn(seed, n=n) for seed, n in enumerate((20, 31, 12))), strict=True)
    weights = [prepare(own) for own in scores]
    want = greedy_orders(images, [9, 9, 9], weights, begin, together=together)
    held = []
    real = greedy.Cosines
    monkeypatch.setattr(greedy, "Cosines", lambda x, held_=held, **k: held_.append(k["held"]) or real(x, **k))
    monkeypatch.setattr(greedy, "CELLS", 500)
    monkeypatch.setattr(greedy, "CPU_CELLS", 100)
    for got, order in zip(greedy_orders(images, [9, 9, 9], weights, begin, together=together), want, strict=True):
        assert torch.equal(got, order)
    assert held == [True, False, True]


def test_cosines_are_looked_up_or_computed():
    features, _ = drawn(0)
    latest = torch.tensor([[4]])
    for pairs in (Cosines([features]), Cosines([features], held=False)):
        torch.testing.assert_close(pairs.row(latest)[0].double(), cosine(features)[4], atol=1e-6, rtol=0)
        whole = torch.cat(list(pairs.blocks()), 1)[0].double()
        torch.testing.assert_close(whole, cosine(features), atol=1e-6, rtol=0)


def test_ranks_are_whole_numbers():
    assert ranks(torch.tensor([1.0, 3.0, 1.0, -torch.inf, 3.0])).tolist() == [2, 4, 1, -math.inf, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["mmr", "cdpruner", "scope", "greedyprune", "idselection"])
def test_features_of_any_precision_are_compared_in_float32(name, dtype):
    features, score = drawn(0)
    features = features.to(torch.bfloat16)
    method = make(name, by=lambda own, layout: score)
    layout = TokenLayout.raster(1, N, size=(N, 1), family="toy")
    chosen = [method.select(TokenContext(layout, 5, features=x)) for x in (features.float(), features.to(dtype))]
    if dtype != torch.float16:  # which cannot hold them all
        assert torch.equal(chosen[0].indices, chosen[1].indices)
    assert chosen[1].scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mmr", {"lam": 1.5}, r"lam must be a number in \[0, 1\]"),
        ("cdpruner", {"theta": 1.0}, "theta must be .* grows without bound"),
        ("cdpruner", {"negate": "yes"}, "negate must be one of True, False"),
        ("scope", {"power": -1}, "power must be a number of at least 0"),
        ("greedyprune", {"tau": 1.1}, r"tau must be a number in \[-1, 1\]"),
        ("idselection", {"gamma": -1}, "gamma must be a number of at least 0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, said):
    with pytest.raises(InputError, match=said):
        make(name, **options)


@pytest.mark.parametrize("by", ["attention", "text", "norm"])
@pytest.mark.parametrize("name", ["mmr", "cdpruner", "scope", "greedyprune", "idselection", "flashvlm"])
def test_no_value_is_looked_at_on_the_way(name, by):
    """Tensors without values stand for a device whose values nobody waits for: what would look at one fails."""
    layout = TokenLayout.raster(4, 5, size=(5, 4), family="toy")
    given = {"attention": torch.rand(2, 1, 20), "features": torch.randn(20, 6), "text": torch.randn(3, 6)}
    method = make(name, keep=0.4, **({} if name == "flashvlm" else {"by": by}))
    contexts = [TokenContext(layout, 8, **{k: v.to("meta") for k, v in given.items()}) for _ in range(3)]
    for chosen in method.select_budgets(contexts, [[3, 8]] * 3):
        assert [one.indices.shape for one in chosen] == [(3,), (8,)]
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool(contexts[0].features.sum() > 0)
