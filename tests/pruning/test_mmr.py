"""Maximal marginal relevance against plain loops, ties and odd importances included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.pruning.algorithms import max_min, mmr
from biaslab.pruning.algorithms.max_min import max_min_orders
from biaslab.pruning.algorithms.mmr import min_max, mmr_order, mmr_orders
from biaslab.pruning.context import descending


def by_loop(features, importance, n, lam):
    """The definition, token by token; tokens of -inf after all others, diverse among themselves."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    cos = (unit @ unit.T).tolist()
    raw = importance.double().tolist()
    known = [w for w in raw if w > -float("inf")] or [0.0]
    scaled = [(w - min(known)) / (max(known) - min(known) + 1e-6) for w in raw]
    kept = [max(range(len(raw)), key=lambda i: (raw[i], -i))]
    while len(kept) < n:

        def value(i):
            imp = lam * scaled[i] if raw[i] > -float("inf") else -4.0
            return imp - (1 - lam) * max(cos[i][j] for j in kept)

        kept.append(max((i for i in range(len(raw)) if i not in kept), key=lambda i: (value(i), -i)))
    return kept


def signs(n, kinds, g):
    """Tokens whose cosines are exact: ties are ties."""
    return (torch.randint(0, 2, (kinds, 16), generator=g) * 2.0 - 1)[torch.randint(0, kinds, (n,), generator=g)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans())
def test_it_is_the_loops_in_any_batch(seed, count, lam, ties):
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 25, (count,), generator=g).tolist()
    if ties:
        images = [signs(n, 4, g) for n in sizes]
        importance = [torch.randint(0, 3, (n,), generator=g) / 4 for n in sizes]
    else:
        images = [torch.randn(n, 6, generator=g) for n in sizes]
        importance = [10 * torch.randn(n, generator=g) for n in sizes]
        importance[0][::3] = -torch.inf
    budgets = [int(torch.randint(1, n + 1, (1,), generator=g)) for n in sizes]
    orders = mmr_orders(images, budgets, importance, lam=lam)
    for image, own, n, order in zip(images, importance, budgets, orders, strict=True):
        assert order.tolist() == by_loop(image, own, n, lam)
        assert torch.equal(order, mmr_order(image, n, own, lam=lam))  # the plain path
        assert torch.equal(order, mmr_orders([image], [len(image)], [own], lam=lam)[0][:n])  # alone, and a prefix


def test_what_lambda_stands_for():
    g = torch.Generator().manual_seed(0)
    features, importance = torch.randn(40, 5, generator=g), torch.randn(40, generator=g)
    order = lambda own, lam: mmr_orders([features], [40], [own], lam=lam)[0]  # noqa: E731
    assert torch.equal(order(importance, 1.0), descending(importance))
    assert not torch.equal(order(importance, 0.5), order(importance, 1.0))
    # nothing more important than another: the farthest first from the first token
    assert torch.equal(order(torch.full((40,), 3.0), 0.5), order(torch.arange(40, 0, -1), 0.0))
    # the scale of an importance does not matter, its zero neither
    assert torch.equal(order(importance, 0.5), order(1000 * importance - 77, 0.5))


def test_an_importance_without_numbers_still_orders():
    nothing = torch.full((4,), -torch.inf)
    assert min_max(nothing).tolist() == nothing.tolist()
    for order in (mmr_orders([torch.eye(4)], [4], [nothing])[0], mmr_order(torch.eye(4), 4, nothing)):
        assert order.tolist() == [0, 1, 2, 3]


def test_large_images_go_alone(monkeypatch):
    g = torch.Generator().manual_seed(2)
    images = [signs(n, 50, g) for n in (20, 30, 32, 5, 40, 8, 8)]
    importance = [torch.randint(0, 9, (len(x),), generator=g).float() for x in images]
    want = mmr_orders(images, [5] * 7, importance)
    alone, plain = [], mmr.mmr_order
    monkeypatch.setattr(mmr, "mmr_order", lambda x, *a, **k: alone.append(len(x)) or plain(x, *a, **k))
    monkeypatch.setattr(mmr, "CELLS", 1000)
    for got, order in zip(mmr_orders(images, [5] * 7, importance), want, strict=True):
        assert torch.equal(got, order)
    assert alone == [32, 40]


@pytest.mark.parametrize("orders", [mmr_orders, max_min_orders])
def test_an_image_of_which_nothing_is_wanted(orders, monkeypatch):
    for module in (mmr, max_min):
        monkeypatch.setattr(module, "CELLS", 20)  # each image by itself
    weights = [torch.ones(4), torch.ones(3)]
    found = orders(
        [torch.eye(4), torch.eye(3)], [2, 0], *([weights] if orders is mmr_orders else ["isolated", weights])
    )
    assert [order.tolist() for order in found] == [[0, 1], []]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_float32_whatever_comes(dtype):
    features, importance = torch.eye(6, dtype=dtype), torch.arange(6).to(dtype)
    assert mmr_orders([features], [6], [importance])[0].tolist() == [5, 4, 3, 2, 1, 0]
    assert min_max(importance).dtype == torch.float32
