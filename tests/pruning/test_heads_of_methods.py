"""The option ``heads`` of attention methods: by word, by number, by weight, and by the quality that a profile tells."""

import dataclasses

import numpy as np
import pytest
import torch
from methods import RASTER, MapProfile, context

import biaslab as bl
from biaslab.cli.options import methods
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.evaluation.configurations import configurations
from biaslab.maps.simulate import simulate
from biaslab.maps.stored import StoredMaps
from biaslab.profiles import MeanProfile
from biaslab.pruning import METHODS, D2Pruner, FastV, LayerRatio, Relative, TokenContext, make, parse
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import from_record

READERS = ("fastv", "layer_ratio", "relative", "d2pruner")


class Rated(MapProfile):
    """A per-head profile that says how much each head looks at something."""

    def __init__(self, weights, expected=None):
        super().__init__(torch.rand(3, RASTER.n, generator=torch.Generator().manual_seed(1)) + 0.5)
        self.weights = torch.tensor(weights)

    def head_weights(self, layer, device=None):
        assert layer == 1  # K - 1
        return self.weights


def test_heads_by_number_and_weight_are_a_loop_over_heads():
    ctx = context(RASTER, 0.1)
    each = ctx.attention.mean(1)
    for heads, wanted in (
        ("mean", each.mean(0)),
        ([2], each[2]),
        (2, each[2]),
        ([0, 2], (each[0] + each[2]) / 2),
        ([[0, 1], [1, 3]], each[0] / 4 + 3 * each[1] / 4),
    ):
        torch.testing.assert_close(FastV(heads=heads).importance(ctx), wanted)
        torch.testing.assert_close(Relative(heads=heads, debias="none").importance(ctx), wanted)
        shallow = ctx.earlier[0].mean((0, 1))  # always all its heads
        torch.testing.assert_close(LayerRatio(heads=heads).importance(ctx), wanted / (shallow + 1e-7))


@pytest.mark.parametrize("name", READERS)
def test_quality_is_the_weights_of_the_profile(name):
    ctx, profile = context(RASTER, 0.1), Rated([0.25, 0.0, 0.75])
    by_quality = make(name, heads="quality", profile=profile).select(ctx)
    named = {} if name in ("fastv", "layer_ratio") else {"profile": profile}
    by_name = make(name, heads=[[0, 1], [2, 3]], **named).select(ctx)
    torch.testing.assert_close(by_quality.scores, by_name.scores)
    assert torch.equal(by_quality.indices, by_name.indices)
    if name == "relative":  # each head by its own expectation
        each = ctx.attention.mean(1) / (profile.maps["expected"] + 1e-7)
        torch.testing.assert_close(by_quality.scores, each[0] / 4 + 3 * each[2] / 4)
    assert "profile" in make(name, heads="quality").needs
    with pytest.raises(ProfileMismatchError, match="quality of 2 heads, the layer has 3"):
        make(name, heads="quality", profile=Rated([0.5, 0.5])).select(ctx)


@pytest.mark.parametrize("name", READERS)
def test_hashes_and_labels_stay_and_words_are_read_back(name):
    plain = make(name)
    assert plain.options_hash == make(name, heads="mean").options_hash
    assert ("heads" in plain.options()) == (name in ("relative", "d2pruner"))
    for heads in ((2, 3), ((2, 0.7), (3, 0.3)), "quality"):
        one = make(name, heads=heads)
        assert one.options_hash != plain.options_hash
        again = parse(one.label)
        assert again.heads == heads and again.options_hash == one.options_hash
        assert from_record(name, one.options()).options_hash == one.options_hash


def test_the_order_of_options_in_labels_is_that_of_earlier_versions():
    assert Relative(heads="all", debias="log", strength=0.5).label == "relative:debias=log:heads=all:strength=0.5"
    assert D2Pruner(heads="weighted", theta=0.7, eps=1e-6).label == "d2pruner:eps=1e-06:heads=weighted:theta=0.7"


def test_lists_of_heads_on_a_command_line_may_hold_commas():
    first, second, third = methods("fastv:heads=[2,3],relative:debias=none:heads=[[0,0.5],[1,0.5]],none")
    assert (first.heads, second.heads, third) == ((2, 3), ((0, 0.5), (1, 0.5)), "none")


@pytest.mark.parametrize(
    "heads", ["best", [], [1, 1], [-1], [True], 1.5, [[0, -1.0]], [[0, float("nan")]], [[0, 0]], [[0]], [0, [1, 2]]]
)
@pytest.mark.parametrize("name", ["fastv", "relative"])
def test_what_names_no_heads_is_refused_in_a_line(name, heads):
    with pytest.raises(InputError, match="heads must be 'mean'.*such as .2, 3. or pairs"):
        make(name, heads=heads)


def test_words_that_only_some_methods_know(grounder):
    for word in ("all", "weighted"):
        assert make("relative", heads=word).heads == word
        with pytest.raises(InputError, match="heads must be"):
            FastV(heads=word)
    with pytest.raises(InputError, match="reads a profile for heads='quality' alone"):
        FastV(profile=Rated([1.0]))
    with pytest.raises(InputError, match="needs a profile that tells the quality of heads: `biaslab fit-bias"):
        FastV(heads="quality").validate()
    with pytest.raises(InputError, match="no head 4: this model has heads 0 .. 3"), bl.prune(grounder, "fastv:heads=4"):
        pass


@pytest.fixture(scope="module")
def fitted(grounder, tmp_path_factory):
    scenes = list(bl.load_dataset("scenes", split="calibration", n=12))
    prompts = [grounder.family.grounding_prompt(s.expression) for s in scenes]
    maps = bl.collect(
        grounder, scenes, prompt=prompts, layers=[3], heads="all", out=tmp_path_factory.mktemp("heads") / "maps",
        progress=False,
    )  # fmt: skip
    assert isinstance(maps, StoredMaps)
    return MeanProfile().fit(maps).rate_heads(maps), MeanProfile().fit(maps)


@pytest.mark.slow
def test_a_model_is_pruned_by_its_own_heads(grounder, fitted):
    rated, unrated = fitted
    weights = rated.head_weights(3)
    assert weights[1] == 0 < weights[3]
    scene = next(iter(bl.load_dataset("scenes", split="test", n=1)))
    encoded = grounder.encode_grounding([scene.image()], [scene.expression])
    pairs = [[h, float(w)] for h, w in enumerate(weights) if w > 0]
    kept = []
    for method in (FastV(heads="quality", profile=rated), FastV(heads=pairs), FastV()):
        with bl.prune(grounder, method, 4) as run:
            grounder.forward(encoded)
        kept.append(set(run.selections[0].indices.tolist()))
    assert kept[0] == kept[1] != kept[2]
    with (
        pytest.raises(InputError, match="does not tell the quality of heads"),
        bl.prune(grounder, FastV(heads="quality", profile=unrated), 4),
    ):
        pass


def test_the_profile_is_found_among_several(fitted):
    rated, _ = fitted
    layout = next(iter(rated.layouts_.values()))
    mean = MeanProfile().fit(simulate("u-shaped", {layout: 30}, layers=4).maps)
    both = configurations(["fastv:heads=quality", "d2pruner"], 0.1, 4, [mean, rated])
    assert [c.profiles for c in both] == [[rated], [mean]]
    with pytest.raises(InputError, match="fit-bias --heads all --maps FOLDER"):
        configurations("fastv:heads=quality", 0.1, 4)
    assert np.isclose(float(rated.head_weights(3).sum()), 1)


def averaging():
    """Methods that average the heads of a layer, whatever they do with it."""
    apart = {"layer_ratio", "localization_heads", "direction_only"}  # tested by themselves
    for name, cls in sorted(METHODS.items()):
        reads = issubclass(cls, AttentionMethod) and "mean" in cls.head_words and "profile" not in cls.needs
        if reads and name not in apart and "attention" in cls.needs:
            yield name


@pytest.mark.parametrize("name", averaging())
def test_every_method_that_averages_heads_reads_those_that_are_named(name):
    """What is kept by one head alone is what is kept where the others show the same."""
    rows = {"null": torch.rand(3, 1, RASTER.n, generator=torch.Generator().manual_seed(4)).softmax(-1)}
    ctx = dataclasses.replace(context(RASTER, 0.1), other_rows=rows)
    alone = dataclasses.replace(
        ctx, attention=ctx.attention[1:2].expand(3, -1, -1), other_rows={"null": rows["null"][1:2].expand(3, -1, -1)}
    )
    found, wanted = make(name, heads=1).select(ctx), make(name).select(alone)
    assert torch.equal(found.indices, wanted.indices)
    torch.testing.assert_close(found.scores, wanted.scores)
    assert not torch.equal(found.scores, make(name).select(ctx).scores)
    if "quality" in METHODS[name].head_words:
        assert make(name, heads="quality", profile=Rated([1.0, 0.0, 0.0])).needs >= {"profile"}


def test_options_of_the_same_name_elsewhere_stay_what_they_are():
    with pytest.raises(InputError, match="does nothing without by=relative"):
        make("mmr", heads="all")
    with pytest.raises(InputError, match="heads must be 'all', 'top'"):
        make("sparsevlm", heads="mean")
    values = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    layout = TokenLayout.raster(2, 3, size=(30, 20), family="toy")
    attention = torch.rand(2, 1, 6, generator=torch.Generator().manual_seed(1))
    ctx = TokenContext(layout, budget=2, layer=2, attention=attention, values=values)
    apart = 1 - torch.nn.functional.cosine_similarity(values[0], values[0].mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(make("direction_only", heads=1).importance(ctx), attention[1, 0] * apart)


def test_the_layer_that_is_read_decides_whose_heads_are_weighed():
    class Asked(Rated):
        def head_weights(self, layer, device=None):
            self.asked.append(layer)
            return self.weights

    profile = Asked([1.0, 0.0, 0.0])
    for reads in ("previous", "own"):
        FastV(heads="quality", profile=profile, reads_layer=reads).importance(context(RASTER, 0.1))
    assert profile.asked == [1, 2]
    assert FastV(heads="quality", profile=profile, reads_layer="own").fits(2, 3)["layer"] == 2
