"""Debias operations against their formulas, shape rules and refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.errors import InputError
from biaslab.profiles import DEBIAS, debias


def _case(shape, heads=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    attention = torch.rand(shape, generator=g) / shape[-1]
    expected = torch.rand((heads, shape[-1]), generator=g) / shape[-1] + 1e-4
    return attention, expected, torch.rand((heads, shape[-1]), generator=g) / shape[-1] + 1e-4


def _slow(a, e, s, op, eps):
    if op == "ratio":
        return a / (e + eps)
    if op == "log":
        return np.log(a + eps) - np.log(e + eps)
    return a - e if op == "subtract" else (a - e) / (s + eps)


@pytest.mark.parametrize("op", DEBIAS)
@pytest.mark.parametrize("heads", [1, 3])
def test_each_operation_is_its_formula_element_by_element(op, heads):
    a, e, s = _case((2, 3, 4, 5), heads)
    out = debias(a, e, s, op=op, eps=1e-5)
    assert out.shape == a.shape and out.dtype == torch.float32
    for b, h, q, n in np.ndindex(*a.shape):
        at = (h if heads > 1 else 0, n)
        want = _slow(a[b, h, q, n].item(), e[at].item(), s[at].item(), op, 1e-5)
        assert out[b, h, q, n].item() == pytest.approx(want, rel=1e-4, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(op=st.sampled_from(sorted(DEBIAS)), n=st.integers(1, 40), seed=st.integers(0, 99))
def test_attention_equal_to_the_expectation_is_neutral(op, n, seed):
    _, e, s = _case((1, n), seed=seed)
    out = debias(e, e, s, op=op, eps=1e-12)
    assert torch.allclose(out, torch.full_like(out, DEBIAS[op].neutral), atol=1e-5)


@pytest.mark.parametrize("op", DEBIAS)
def test_rank_rises_with_attention_at_a_fixed_position(op):
    e = torch.full((1, 6), 0.1)
    a = torch.tensor([[0.0, 0.01, 0.05, 0.1, 0.2, 0.4]])
    out = debias(a, e, 0.5 * e, op=op)
    assert (out.diff() > 0).all()


def test_ratio_and_log_rank_alike_and_undo_a_multiplicative_bias():
    content, bias, _ = _case((1, 64), seed=3)
    ratio = debias(content * bias, bias, eps=1e-12)
    assert torch.allclose(ratio, content, rtol=1e-4)
    log = debias(content * bias, bias, op="log", eps=1e-12)
    assert torch.equal(ratio.argsort(), log.argsort())


def test_zero_attention_and_zero_expectation_stay_finite():
    a, e = torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 0.5])
    for op in DEBIAS:
        assert debias(a, e, e, op=op).isfinite().all()
    assert debias(a, e)[0] == 0


def test_half_precision_is_computed_in_float32():
    a, e, _ = _case((4, 8))
    out = debias(a.bfloat16(), e)
    assert out.dtype == torch.float32
    assert torch.allclose(out, a.bfloat16().float() / (e + 1e-7))
    assert debias(a.double(), e).dtype == torch.float64


def test_shapes_heads_against_queries():
    a, e, _ = _case((3, 2, 5), heads=3)
    assert torch.allclose(debias(a, e)[:, 1], a[:, 1] / (e + 1e-7))
    assert torch.allclose(debias(a[:, 0], e), a[:, 0] / (e + 1e-7))  # (H, N) against (H, N)
    assert torch.allclose(debias(a[0, 0], e[:1]), a[0, 0] / (e[0] + 1e-7))  # (N,)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"op": "divide"}, "ratio, log, subtract, zscore"),
        ({"op": "zscore"}, "profile.spread"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"expected": torch.ones(1, 4)}, "4 visual tokens but attention has 5"),
        ({"expected": torch.ones(2, 5)}, "per-head profile"),
        ({"op": "zscore", "spread": torch.ones(1, 4)}, "spread covers 4"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(kwargs, match):
    attention, expected, _ = _case((3, 2, 5))
    with pytest.raises(InputError, match=match) as caught:
        debias(attention, kwargs.pop("expected", expected), **kwargs)
    assert "\n" not in str(caught.value)
