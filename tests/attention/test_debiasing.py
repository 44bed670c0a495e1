"""Debias operations against their formulas, shape rules and refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from biaslab.attention.debiasing import head_weights, lognormal, normalised, sinks
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.profiles import DEBIAS, debias
from biaslab.pruning import D2Pruner, FastV, Relative, TokenContext

#: value, at full strength, of a token that draws what its position draws on average
NEUTRAL = {"ratio": 1.0, "log": 0.0, "subtract": 0.0, "zscore": 0.0, "lognormal_rank": 0.5}


def _case(shape, heads=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    attention = torch.rand(shape, generator=g) / shape[-1]
    expected = torch.rand((heads, shape[-1]), generator=g) / shape[-1] + 1e-4
    return attention, expected, torch.rand((heads, shape[-1]), generator=g) / shape[-1] + 1e-4


def _slow(a, e, s, op, eps):
    if op == "lognormal_rank":
        sigma = np.sqrt(np.log(1 + (s / (e + eps)) ** 2))
        return stats.lognorm.cdf(a + eps, max(sigma, 1e-3), scale=(e + eps) * np.exp(-(sigma**2) / 2))
    if op == "ratio":
        return a / (e + eps)
    if op == "log":
        return np.log(a + eps) - np.log(e + eps)
    return a - e if op == "subtract" else (a - e) / (s + eps)


@pytest.mark.parametrize("op", DEBIAS)
@pytest.mark.parametrize("heads", [1, 3])
def test_each_operation_is_its_formula_element_by_element(op, heads):
    a, e, s = _case((2, 3, 4, 5), heads)
    out = debias(a, e, s, operation=op, eps=1e-5)
    assert out.shape == a.shape and out.dtype == torch.float32
    for b, h, q, n in np.ndindex(*a.shape):
        at = (h if heads > 1 else 0, n)
        want = _slow(a[b, h, q, n].item(), e[at].item(), s[at].item(), op, 1e-5)
        assert out[b, h, q, n].item() == pytest.approx(want, rel=1e-4, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(op=st.sampled_from(sorted(DEBIAS)), n=st.integers(1, 40), seed=st.integers(0, 99))
def test_attention_equal_to_the_expectation_is_neutral(op, n, seed):
    _, e, s = _case((1, n), seed=seed)
    # the rank's neutral point is the median of the log-normal distribution, the others' its mean
    drawn = lognormal(e, s, eps=1e-12)[0].exp() if op == "lognormal_rank" else e
    out = debias(drawn, e, s, operation=op, eps=1e-12)
    assert torch.allclose(out, torch.full_like(out, NEUTRAL[op]), atol=1e-5)


@pytest.mark.parametrize("op", DEBIAS)
def test_rank_rises_with_attention_at_a_fixed_position(op):
    e = torch.full((1, 6), 0.1)
    a = torch.tensor([[0.0, 0.01, 0.05, 0.1, 0.2, 0.4]])
    out = debias(a, e, 0.5 * e, operation=op)
    assert (out.diff() > 0).all()


def test_ratio_and_log_rank_alike_and_undo_a_multiplicative_bias():
    content, bias, _ = _case((1, 64), seed=3)
    ratio = debias(content * bias, bias, eps=1e-12)
    assert torch.allclose(ratio, content, rtol=1e-4)
    log = debias(content * bias, bias, operation="log", eps=1e-12)
    assert torch.equal(ratio.argsort(), log.argsort())


def test_zero_attention_and_zero_expectation_stay_finite():
    a, e = torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 0.5])
    for op in DEBIAS:
        assert debias(a, e, e, operation=op).isfinite().all()
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
        ({"operation": "divide"}, "ratio, log, subtract, zscore, lognormal_rank"),
        ({"strength": 1.2}, r"strength must lie in \[0, 1\]"),
        ({"strength": float("nan")}, "strength"),
        ({"operation": "zscore"}, "profile.std"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"eps": None}, "eps must be positive"),
        ({"eps": float("inf")}, "eps must be positive"),
        ({"strength": "full"}, "strength must lie"),
        ({"strength": True}, "strength must lie"),
        ({"operation": None}, "operation must be one of ratio, log"),
        ({"operation": ["log"]}, "operation must be one of ratio, log"),
        ({"attention": None}, "attention must be a tensor"),
        ({"attention": [0.5, 0.5]}, "attention must be a tensor .* got list: torch.as_tensor"),
        ({"attention": torch.tensor(0.5)}, "attention must be a tensor .* one value per visual token"),
        ({"attention": torch.ones(5, dtype=torch.complex64)}, "real numbers"),
        ({"expected": None}, "expected must be a tensor"),
        ({"expected": np.ones(5)}, "expected must be a tensor .* got ndarray"),
        ({"expected": torch.tensor(0.5)}, "expected must be a tensor"),
        ({"operation": "zscore", "std": 0.5}, "std must be a tensor"),
        ({"std": 0.5}, "std must be a tensor"),
        ({"expected": torch.ones(1, 4)}, "4 visual tokens but attention has 5"),
        ({"expected": torch.ones(2, 5)}, "per-head profile"),
        ({"operation": "zscore", "std": torch.ones(1, 4)}, "std covers 4"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(kwargs, match):
    attention, expected, _ = _case((3, 2, 5))
    with pytest.raises(InputError, match=match) as caught:
        debias(**({"attention": attention, "expected": expected} | kwargs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("op", DEBIAS)
def test_strength_goes_from_raw_ranking_to_full_removal(op):
    a, e, s = _case((1, 200), seed=5)
    assert torch.equal(debias(a, e, s, operation=op, strength=1.0), debias(a, e, s, operation=op))
    none = debias(a, e, s, operation=op, strength=0.0)
    assert torch.equal(none.argsort(stable=True), a.argsort(stable=True))
    # the planted bias goes gradually: correlation with the expectation falls as strength rises
    biased, spread = a * e, 0.8 * a.mean() * e
    left = [
        stats.spearmanr(debias(biased, a.mean() * e, spread, operation=op, strength=w)[0], e[0])[0] for w in (0, 0.5, 1)
    ]
    assert left[0] > left[1] > left[2] - 0.02 and left[0] > 0.4


def test_half_strength_is_the_stated_formula():
    a, e, s = _case((1, 30))
    assert torch.allclose(debias(a, e, strength=0.5), a / (e + 1e-7).sqrt())
    assert torch.allclose(debias(a, e, operation="log", strength=0.5), (a + 1e-7).log() - 0.5 * (e + 1e-7).log())
    assert torch.allclose(debias(a, e, operation="subtract", strength=0.5), a - 0.5 * e)
    assert torch.allclose(debias(a, e, s, operation="zscore", strength=0.5), (a - 0.5 * e) / (s + 1e-7).sqrt())


def test_lognormal_rank_is_uniform_where_attention_is_lognormal():
    rng = np.random.default_rng(0)
    mu, sigma = rng.normal(-6, 1, 20), rng.uniform(0.2, 1.2, 20)
    x = np.exp(mu + sigma * rng.standard_normal((20_000, 20)))
    mean, sd = (np.exp(mu + sigma**2 / 2), np.exp(mu + sigma**2 / 2) * np.sqrt(np.expm1(sigma**2)))
    ranks = debias(*(torch.tensor(v) for v in (x, mean, sd)), operation="lognormal_rank", eps=1e-12).numpy()
    assert max(stats.kstest(ranks[:, j], "uniform").statistic for j in range(20)) < 0.02


def test_normalisation_leaves_out_what_is_masked():
    values = torch.tensor([[1.0, 2.0, 100.0, 1.0], [2.0, 2.0, 400.0, 4.0]])
    within = torch.tensor([True, True, False, True])
    out = normalised(values, within=within)
    assert torch.allclose(out[:, within].sum(1), torch.ones(2)) and out[0, 2] == 25
    assert torch.allclose(normalised(values, within=within, by=2 * values), out / 2)
    assert torch.equal(sinks(values, 20.0), torch.tensor([[False, False, True, False]] * 2))
    with pytest.raises(InputError, match="no token is left"):
        normalised(values, within=~torch.ones(4, dtype=torch.bool))
    with pytest.raises(InputError, match="above 1"):
        sinks(values, 0.5)


def test_a_positional_head_weighs_less():
    e = torch.ones(3, 50) / 50
    e[1] *= torch.linspace(0.2, 3, 50)  # a map
    e[2] *= torch.linspace(0.01, 10, 50)  # much of a map
    w = head_weights(e, 0.5 * e)
    assert w.sum() == pytest.approx(1) and w[0] > w[1] > w[2] > 0
    assert torch.allclose(head_weights(e[2:], 0 * e[2:]), torch.ones(1))


# -- the options of the pruning methods ---------------------------------------------------------------------------
class Map:
    """The face of a fitted profile that the methods read."""

    def __init__(self, expected, spread):
        self.values = {"expected": expected, "spread": spread}

    def expected(self, layout, layer, device=None):
        return self.values["expected"]

    def std(self, layout, layer, device=None):
        return self.values["spread"]


PADDED = TokenLayout.raster(
    4, 6, size=(60, 20), family="internvl", region=(0.0, -0.5, 1.0, 1.5)
)  # top and bottom rows are padding


def _scores(n_heads=2, seed=0, **options):
    g = torch.Generator().manual_seed(seed)
    attention = torch.rand((n_heads, 1, 24), generator=g) / 24
    per_head = options.get("heads", "mean") != "mean"
    e = torch.rand((n_heads if per_head else 1, 24), generator=g) / 24 + 1e-3
    method = Relative(profile=Map(e, 0.7 * e), **options)
    ctx = TokenContext(PADDED, budget=5, layer=2, attention=attention)
    return method.select(ctx), attention[:, 0], e


@pytest.mark.parametrize(("method", "digest"), [(D2Pruner, "28a56f93c8e1"), (Relative, "1b9a4b0856f9")])
def test_later_options_leave_the_hash_of_older_runs(method, digest):
    assert method().options_hash == digest
    changed = method(strength=0.5, padding="drop")
    assert changed.options_hash != digest
    assert changed.label == f"{method.name}:strength=0.5:padding=drop"


def test_defaults_divide_as_before_and_strength_is_wired():
    chosen, a, e = _scores()
    assert torch.equal(chosen.scores, (a.mean(0, keepdim=True) / (e + 1e-7)).mean(0))
    chosen, a, e = _scores(strength=0.25)
    assert torch.allclose(chosen.scores, debias(a.mean(0, keepdim=True), e, strength=0.25)[0])
    chosen, a, e = _scores(strength=0.0)
    assert torch.equal(chosen.scores, a.mean(0))
    chosen, a, e = _scores(debias="lognormal_rank")
    assert torch.allclose(chosen.scores, debias(a.mean(0, keepdim=True), e, 0.7 * e, operation="lognormal_rank")[0])


def test_padding_comes_last_and_stays_out_of_the_normalisation():
    assert not PADDED.in_image[[0, 23]].any() and PADDED.in_image.sum() == 12
    chosen, a, e = _scores(padding="drop")
    assert chosen.scores[~torch.from_numpy(np.array(PADDED.in_image))].isneginf().all()
    assert PADDED.in_image[chosen.indices.numpy()].all()
    chosen, a, e = _scores(normalise="mass", debias="subtract")
    inside = torch.from_numpy(np.array(PADDED.in_image))
    mean = a.mean(0)
    assert torch.allclose(chosen.scores, mean / mean[inside].sum() - e[0] / e[0, inside].sum(), atol=1e-6)
    raw = Relative(debias="none", padding="drop")
    picked = raw.select(TokenContext(PADDED, budget=5, layer=2, attention=a[:, None]))
    assert (
        PADDED.in_image[picked.indices.numpy()].all() and raw.needs_layout and not Relative(debias="none").needs_layout
    )


def test_weighted_heads_average_with_the_weights():
    chosen, a, e = _scores(heads="weighted")
    w = head_weights(e, 0.7 * e)
    assert torch.allclose(chosen.scores, w @ debias(a, e)) and not torch.allclose(w, torch.full_like(w, 0.5), atol=1e-3)
    kept = D2Pruner(profile=Map(e, 0.7 * e), heads="weighted", strength=0.5, normalise="mass", sinks=20.0)
    g = torch.Generator().manual_seed(1)
    ctx = TokenContext(PADDED, 5, layer=2, attention=a[:, None], features=torch.randn((24, 8), generator=g))
    assert len(kept.select(ctx).indices) == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strength": 1.5}, "strength must be a number in"),
        ({"normalise": "max"}, "normalise must be one of none, mass"),
        ({"padding": "mask"}, "padding must be one of keep, drop"),
        ({"sinks": 0.5}, "above 1"),
        ({"sinks": 20.0}, "normalise='mass'"),
        ({"debias": "none", "heads": "weighted"}, "read from a profile"),
    ],
)
def test_bad_options_are_one_line_with_the_fix(options, match):
    with pytest.raises(InputError, match=match) as caught:
        Relative(**options)
    assert "\n" not in str(caught.value)
    assert not hasattr(FastV(), "strength")
