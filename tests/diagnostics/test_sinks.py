"""Sinks planted in the embedded model are found, measured, and left out by the methods that are told."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from methods import RASTER, build, context

import biaslab as bl
from biaslab.attention.sink_tokens import sink_tokens
from biaslab.core.images import load_image
from biaslab.diagnostics.sinks import find_sinks, massive_dimensions
from biaslab.errors import InputError
from biaslab.profiles import MeanProfile
from biaslab.pruning import FastV, Relative, make

pytestmark = pytest.mark.slow

K, DIM = 4, 37
PLANTED = (0, 100, 255)  # visual tokens


@contextmanager
def planted(vlm, tokens=PLANTED):
    """Three visual tokens have a huge dimension from layer K - 1's output on, and draw attention there before it."""

    def enlarge(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        ids = vlm.prefill.encoded.inputs["input_ids"] if vlm.prefill.encoded is not None else None
        if hidden.shape[1] == 1 or ids is None:
            return None
        hidden = hidden.clone()
        for row in range(len(hidden)):
            own = torch.nonzero(ids[row] == vlm.image_token_id).flatten()
            hidden[row, own[list(tokens)], DIM] = 60 * hidden[row].square().mean(-1).sqrt().max()
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = vlm.decoder.layers[K - 1].register_forward_hook(enlarge)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def batches(grounder):
    scenes = list(bl.load_dataset("scenes", split="calibration", n=6))
    made = [grounder.encode_grounding([load_image(s) for s in part], [s.expression for s in part])
            for part in (scenes[:4], scenes[4:])]  # fmt: skip
    return lambda: made


def test_planted_sinks_are_found_and_measured(grounder, batches):
    level = 12.0  # a single value cannot exceed the root of the number of dimensions
    with planted(grounder):
        report = find_sinks(grounder, batches, K, level=level)
        assert report.dims == [DIM]
        assert report.images["sinks"].tolist() == [3] * 6 and report.images["tokens"].tolist() == [256] * 6
        (frequency,) = report.frequency.values()
        assert np.flatnonzero(frequency).tolist() == list(PLANTED) and frequency.max() == 1
        with bl.capture(grounder, [K - 1], queries="last") as rows:
            grounder.forward(batches()[0])
        attention = rows[K - 1].values.mean((1, 2))
        wanted = attention[:, list(PLANTED)].sum(1) / attention.sum(1)
        assert report.images["share"][:4].tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
        value, low, high = report.share()
        assert 0 <= low <= value <= high <= 1 and value == pytest.approx(report.images["share"].mean())
        assert f"dimension of the hidden states entering layer {K}: {DIM}" in report.sentences()[0]
    assert massive_dimensions(grounder, batches(), K, level=level) == []  # gone with the plant
    none = find_sinks(grounder, batches, K)
    assert none.dims == [] and "no sinks of this kind were found" in none.sentences()[0]


def test_what_of_a_profile_is_sinks(grounder, batches):
    scenes = list(bl.load_dataset("scenes", split="calibration", n=6))
    maps = bl.collect(grounder, scenes, layers=[K - 1], progress=False, prompt="Where is it?")
    profile = MeanProfile().fit(maps)
    with planted(grounder):
        report = find_sinks(grounder, batches, K, dims=[DIM], level=12.0)
    (row,) = report.of_profile(profile).to_dict("records")
    (layout,) = report.layouts.values()
    expected = profile.predict(layout, K - 1)[0]
    assert row["mass"] == pytest.approx(expected[list(PLANTED)].sum() / expected.sum(), rel=1e-5)
    marks = np.isin(np.arange(256), PLANTED)
    assert row["r"] == pytest.approx(np.corrcoef(expected, marks)[0, 1], rel=1e-5)


@pytest.mark.parametrize(
    "name", ["fastv", "relative", "layer_ratio", "pore", "pyramiddrop", "localization_heads", "mmr"]
)
def test_sinks_have_score_zero(name):
    ctx = context(RASTER, 0.1)
    features = torch.randn(RASTER.n, 900, generator=torch.Generator().manual_seed(0))
    features[[3, 50], 7] = 500.0
    ctx.features, ctx.attention[:, :, 3] = features, 1.0
    plain = build(name, RASTER).importance(ctx)
    found = build(name, RASTER, sink_dims=[7]).importance(ctx)
    assert found[[3, 50]].tolist() == [0, 0] < plain[[3, 50]].tolist()
    others = torch.ones(RASTER.n, dtype=torch.bool)
    others[[3, 50]] = False
    torch.testing.assert_close(found[others], plain[others])


def test_the_option_keeps_hashes_and_refuses_in_a_line(grounder):
    assert FastV(sink_dims=()).options_hash == FastV().options_hash != FastV(sink_dims=(7,)).options_hash
    assert make("fastv", sink_dims=[7, 2]).label == "fastv:sink_dims=[7, 2]"
    assert "features" in FastV(sink_dims=[7]).needs and "features" not in FastV().needs
    assert Relative(sink_dims=7, debias="none").sink_dims == (7,)
    for dims in ([-1], [1, 1], "7", [1.5], [True]):
        with pytest.raises(InputError, match="dimensions of the hidden states, each once"):
            FastV(sink_dims=dims)
    with pytest.raises(InputError, match="no dimension 5000"), bl.prune(grounder, "fastv:sink_dims=[5000]", K):
        pass
    with pytest.raises(InputError, match="sink_dims does nothing without"):
        make("mmr", by="norm", sink_dims=[1])
    with pytest.raises(InputError, match="at least 4 images"):
        find_sinks(grounder, lambda: [], K, dims=[1])


def test_sinks_of_a_batch_are_those_of_each_token():
    hidden = torch.randn(2, 5, 700, generator=torch.Generator().manual_seed(0))
    hidden[1, 2, 9] = -400
    marked = sink_tokens(hidden, [4, 9])
    size = hidden.square().mean(-1).sqrt()
    wanted = (hidden[..., [4, 9]].abs() > 20 * size[..., None]).any(-1)
    assert torch.equal(marked, wanted) and marked.sum() == 1
