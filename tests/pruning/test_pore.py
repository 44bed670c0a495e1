"""PoRe: what its curve takes out, c by hand and fitted, and what is refused."""

import numpy as np
import pytest
import torch
from methods import RASTER, TILED, MapProfile, context

from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.maps.simulate import simulate
from biaslab.profiles import ExponentialProfile, MeanProfile
from biaslab.pruning import FastV, PoRe, Relative, TokenContext


@pytest.mark.parametrize("layout", [RASTER, TILED], ids=["raster", "tiles"])
def test_the_curve_is_taken_out(layout):
    content = torch.rand(layout.n, generator=torch.Generator().manual_seed(0)) + 0.5
    after = layout.placeholders - 1.0 - layout.placeholder_index
    attention = content * torch.from_numpy(np.exp(-0.01 * after)).float()
    ctx = TokenContext(layout, budget=9, layer=2, attention=attention[None, None])
    scores = PoRe(c=0.01).importance(ctx)
    torch.testing.assert_close(scores / scores.mean(), content / content.mean(), atol=1e-5, rtol=1e-5)
    assert set(PoRe(c=0.01).select(ctx).indices.tolist()) == set(content.topk(9).indices.tolist())


def test_c_of_zero_is_fastv():
    ctx = context(RASTER, 0.1)
    torch.testing.assert_close(PoRe(c=0).importance(ctx), FastV().importance(ctx))
    torch.testing.assert_close(PoRe(c=0, heads=[1]).importance(ctx), FastV(heads=[1]).importance(ctx))


def test_fitted_is_relative_attention_of_the_exponential_profile():
    profile = ExponentialProfile().fit(simulate("bottom-heavy", {RASTER: 30}, layers=3).maps)
    ctx = context(RASTER, 0.1)
    (config,) = configurations("pore:c=fitted", 0.1, 2, [profile])
    wanted = Relative(profile=profile, eps=1e-12).importance(ctx)
    torch.testing.assert_close(config.method.importance(ctx), wanted, rtol=1e-4, atol=0)
    assert config.method.label == "pore:c=fitted" and config.profiles == [profile]


def test_padding_comes_last_where_it_is_dropped():
    layout = RASTER
    outside = np.zeros(layout.n, dtype=bool)
    outside[:3] = True

    class Padded:
        n, key, placeholders = layout.n, layout.key, layout.placeholders
        placeholder_index, in_image = layout.placeholder_index, ~outside

    ctx = TokenContext(Padded(), budget=3, layer=2, attention=torch.ones(1, 1, layout.n))
    assert torch.isneginf(PoRe(padding="drop").importance(ctx)).numpy().tolist() == outside.tolist()
    assert not torch.isneginf(PoRe().importance(ctx)).any()


def test_bad_options_are_refused_in_a_line():
    for options, words in (
        ({"c": "steep"}, "a number or 'fitted'"), ({"c": 2.0}, "c must"), ({"padding": "out"}, "padding"),
        ({"c": "fitted", "heads": "quality"}, "choose one"),
        ({"c": "fitted", "profile": MeanProfile()}, "--estimator exponential"),
        ({"profile": MapProfile(torch.ones(1, 4))}, "alone: leave profile out"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            PoRe(**options)
    with pytest.raises(InputError, match="--estimator exponential"):
        PoRe(c="fitted").validate()
