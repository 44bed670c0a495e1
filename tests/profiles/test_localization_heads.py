"""Localization heads: entropy and elbow against loops, planted heads found, the file, and the method."""

import itertools

import numpy as np
import pytest
import torch
from methods import RASTER, TILED, context

import biaslab as bl
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.base import ImageRecord
from biaslab.maps.simulate import simulate
from biaslab.maps.spatial_entropy import foreground
from biaslab.maps.stored import StoredMaps
from biaslab.profiles import LocalizationHeadsProfile, load
from biaslab.profiles.localization import Ballot, votes
from biaslab.pruning import LocalizationHeads, TokenContext
from biaslab.stats.elbow import elbow

LAYOUT = TokenLayout.raster(8, 10, size=(100, 80), family="toy")
SETTINGS = {"heads": "all", "folds": 5, "layers": [1, 3], "queries": "last"}


def slow_entropy(one, layout, least=1e-3):
    out = np.maximum(one - one.mean(), 0)
    left, sums = {i for i in range(len(one)) if out[i] > least}, []
    while left:
        part, front = 0.0, [left.pop()]
        while front:
            i = front.pop()
            part += out[i]
            near = {
                j for j in left if layout.tile[i] == layout.tile[j]
                and max(abs(layout.row[i] - layout.row[j]), abs(layout.col[i] - layout.col[j])) <= 1
            }  # fmt: skip
            left -= near
            front += near
        sums.append(part)
    shares = np.array(sums) / sum(sums) if sums else np.array([])
    return float(-(shares * np.log(shares)).sum()) if sums else np.inf


@pytest.mark.parametrize("layout", [RASTER, TILED], ids=["raster", "tiles"])
def test_spatial_entropy_is_that_of_a_flood(layout):
    maps = np.random.default_rng(0).exponential(0.01, (5, layout.n))
    maps[4] = 0.01  # nothing stands out
    found = foreground(maps, layout)
    np.testing.assert_allclose(found.entropy, [slow_entropy(one, layout) for one in maps], rtol=1e-9)
    assert found.entropy[4] == np.inf and not found.fills_bottom.any()
    maps[0, layout.centers[:, 1] >= layout.centers[~layout.thumbnail, 1].max() - 1e-9] = 1
    assert foreground(maps, layout).fills_bottom.tolist() == [True, False, False, False, False]


def test_the_elbow_is_farthest_from_the_chord():
    values = np.random.default_rng(1).exponential(1, 30)
    ordered = np.sort(values)[::-1]
    a, b = np.array([0, ordered[0]]), np.array([29, ordered[-1]])
    scaled = [(i, v) for i, v in enumerate(ordered)]
    far = [abs((b - a)[0] * (a - p)[1] - (a - p)[0] * (b - a)[1]) for p in map(np.array, scaled)]
    assert elbow(values) == int(np.argmax(far))
    assert elbow(np.ones(5)) == 0 and elbow(np.array([2.0, 1.0])) == 0


def planted(rng):
    """(6 heads, N): a moving blob, two in opposite corners, specks, a floor, little mass, a blob of little mass."""
    y, x = LAYOUT.row.astype(float), LAYOUT.col.astype(float)

    def blob():
        at = rng.uniform(1, 6, 2)
        return np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 3)

    bottom = (y == 7) * 1.0
    two = np.exp(-((y - 1) ** 2 + (x - 1) ** 2)) + np.exp(-((y - 6) ** 2 + (x - 8) ** 2))
    heads = np.stack([blob(), two, rng.exponential(1, LAYOUT.n) ** 3, bottom,
                      rng.exponential(1, LAYOUT.n), blob()])  # fmt: skip
    return heads / heads.sum(1, keepdims=True) * np.array([0.7, 0.6, 0.6, 0.6, 0.02, 0.02])[:, None]


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    rng = np.random.default_rng(0)
    maps = StoredMaps.create(tmp_path_factory.mktemp("maps") / "m", SETTINGS)
    with maps.writing():
        for i in range(24):
            both = np.stack([planted(rng), planted(rng)[::-1]])
            maps.add(ImageRecord(f"i{i}", LAYOUT, str(i)), both.astype(np.float32))
    return maps


def test_heads_that_look_at_one_place_are_chosen(maps):
    profile = LocalizationHeadsProfile(heads=2, per_sample=2).fit(maps)
    assert set(profile.heads_) == {(1, 0), (3, 5)}
    table = profile.votes_.set_index(["layer", "head"])
    assert table.loc[(1, 0), "frequency"] > 0.9 and table.loc[(1, 0), "lo"] < 1 <= table.loc[(1, 0), "hi"] + 1e-6
    assert table.loc[(1, 5), "above"] == 0 == table.loc[(1, 5), "frequency"]  # a blob, of hardly any attention
    assert (1, 3) not in table.index  # its whole bottom row stands out: it was passed over each time
    floor = LocalizationHeadsProfile(heads=2, per_sample=2, bottom_row=True).fit(maps).votes_
    assert floor.set_index(["layer", "head"]).loc[(1, 3), "entropy"] == 0  # and else it might be chosen
    assert len(profile.quality_) == 12 and "among the 2 of best quality" in profile.agreement()


def test_votes_are_a_loop(maps):
    ballot = Ballot.of(maps, [1, 3], n=9, least=1e-3, bottom_row=False)
    above, counts = ballot.above(), np.zeros((2, 6))
    mean = ballot.mass.mean(0)
    limit = np.sort(mean.ravel())[::-1][elbow(mean.ravel())]
    assert (above == (mean >= limit)).all()
    k = min(10, max(1, above.sum() // 4))
    for i, (a, h) in itertools.product(range(9), np.ndindex(2, 6)):
        own, others = ballot.entropy[i, a, h], np.where(above, ballot.entropy[i], np.inf)
        better = ((others < own) | ((others == own) & (ballot.mass[i] > ballot.mass[i, a, h]))).sum()
        counts[a, h] += bool(above[a, h] and np.isfinite(own) and better < k)
    table = votes(ballot, per_sample=10)
    assert table["frequency"].tolist() == pytest.approx((counts / 9).ravel().tolist())
    assert ballot.above("index").ravel().tolist() == [i <= elbow(mean.ravel()) for i in range(12)]


def test_it_is_saved_with_provenance_and_refuses_what_it_does_not_serve(maps, tmp_path):
    profile = LocalizationHeadsProfile(heads=3).fit(maps)
    again = load(profile.save(tmp_path / "heads"))
    assert again.hash == profile.hash and again.heads_ == profile.heads_ and again.kind == "heads"
    assert len(again.quality_) == 12 and again.provenance_["params"]["per_sample"] == 10
    layer = again.heads_[0][0]
    heads = [h for x, h in again.heads_ if x == layer]
    own = np.mean([maps.image(i, layer)[heads].sum(0) for i in range(maps.n)], axis=0)
    np.testing.assert_allclose(again.predict(LAYOUT, layer)[0], own, rtol=1e-5)
    card = (tmp_path / "heads.md").read_text()
    assert card.startswith("# Head profile") and "above the elbow" in card and "it serves any layout" in card
    again.check(layout=TokenLayout.raster(3, 3, size=(9, 9), family="toy"), queries="last")
    with pytest.raises(ProfileMismatchError, match="known of"):
        again.expected(TokenLayout.raster(3, 3, size=(9, 9), family="toy"), layer)
    with pytest.raises(ProfileMismatchError, match="query rule"):
        again.check(queries="text")


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"heads": 0}, "number of heads"), ({"per_sample": 1.5}, "number of heads"), ({"elbow": "knee"}, "value, index"),
     ({"least": 2}, "attention in"), ({"least": 0.9}, "nothing|anything that stands out")],
)  # fmt: skip
def test_bad_options_are_refused(maps, options, reason):
    with pytest.raises(InputError, match=reason):
        LocalizationHeadsProfile(**options).fit(maps)


def test_bad_maps_are_refused(maps, tmp_path):
    with pytest.raises(InputError, match="--maps FOLDER"):
        LocalizationHeadsProfile().fit(simulate("u-shaped", {LAYOUT: 8}, heads=2).maps)
    with pytest.raises(InputError, match="heads='all'"):
        LocalizationHeadsProfile().fit(simulate("u-shaped", {LAYOUT: 8}).maps)
    with pytest.raises(InputError, match="at least 4 images"):
        LocalizationHeadsProfile().fit(StoredMaps.create(tmp_path / "none", SETTINGS))


# -- the method ----------------------------------------------------------------------------------------------------
class Chosen:
    heads_ = ((1, 2), (0, 0), (0, 1))


def test_the_method_sums_its_heads_over_layers():
    ctx = context(RASTER, 0.1)  # K = 2, earlier layer 0
    wanted = ctx.attention.mean(1)[2] + ctx.earlier[0].mean(1)[:2].sum(0)
    found = LocalizationHeads(profile=Chosen(), keep=0.1).select(ctx)
    torch.testing.assert_close(found.scores, wanted)
    assert set(found.indices.tolist()) == set(wanted.topk(len(found.indices)).indices.tolist())
    assert LocalizationHeads(profile=Chosen()).attention_layers(2) == (1, 0)
    assert LocalizationHeads(profile=Chosen()).attention_layers(5) == (4, 0, 1)


def test_what_the_method_cannot_run_with_is_refused_in_a_line():
    with pytest.raises(InputError, match="layer 1 head 2, which is not there before layer K = 1: use K >= 2, or"):
        LocalizationHeads(profile=Chosen()).attention_layers(1)
    with pytest.raises(InputError, match="fit-bias --estimator localization_heads"):
        LocalizationHeads(profile=object())
    with pytest.raises(InputError, match="needs a profile"):
        LocalizationHeads().validate()
    with pytest.raises(InputError, match="leave heads out"):
        LocalizationHeads(heads="quality")
    with pytest.raises(InputError, match="needs attention of layer 0"):
        LocalizationHeads(profile=Chosen()).select(
            TokenContext(RASTER, budget=2, layer=2, attention=context(RASTER, 0.1).attention)
        )


@pytest.mark.slow
def test_end_to_end_on_the_grounder(grounder, tmp_path):
    from biaslab.datasets.calibration import calibration
    from biaslab.evaluation.configurations import configurations
    from biaslab.workflows.fit_bias import fit_bias

    made = calibration(grounder, "scenes", n=12)
    fitted = fit_bias(
        grounder, made, layers=range(4), estimator="localization_heads", out=tmp_path / "heads", progress=False
    )
    assert (tmp_path / "heads-votes.csv").exists() and not (tmp_path / "heads.partial-maps").exists()
    assert {layer for layer, _ in fitted.profile.heads_} == {3}  # where this model localises
    profile = load(tmp_path / "heads.safetensors")
    (config,) = configurations("localization_heads", 0.1, 5, [profile])
    scene = next(iter(bl.load_dataset("scenes", split="test", n=1)))
    encoded = grounder.encode_grounding([scene.image()], [scene.expression])
    with bl.capture(grounder, layers=[3], queries="last") as rows:
        grounder.forward(encoded)
    wanted = sum(rows[3].values[0, head, 0] for _, head in profile.heads_)
    with bl.prune(grounder, config.method, 5) as run:
        grounder.forward(encoded)
    torch.testing.assert_close(run.selections[0].scores, wanted, rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match="use K >= 4"), bl.prune(grounder, config.method, 3):
        pass
    with pytest.raises(InputError, match="--estimator localization_heads"):
        configurations("localization_heads", 0.1, 5)
