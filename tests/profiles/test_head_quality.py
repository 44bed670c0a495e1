"""The quality of heads against loops, and on planted heads: blobs that move, specks, a fixed place, no look at all."""

import numpy as np
import pandas as pd
import pytest

from biaslab.core.layout import TokenLayout
from biaslab.core.neighbours import neighbours
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.base import ImageRecord, fold_of
from biaslab.maps.moments import centred_log
from biaslab.maps.simulate import simulate
from biaslab.maps.stored import StoredMaps
from biaslab.profiles import MeanProfile, load, make
from biaslab.profiles.chosen_heads import choose_heads
from biaslab.profiles.quality import head_quality
from biaslab.profiles.registry import positional_names

LAYOUT = TokenLayout.raster(8, 10, size=(100, 80), family="toy")
TILED = TokenLayout.tiled(1, 2, (4, 4), size=(80, 40), family="toy", thumbnail=True)
SETTINGS = {"heads": "all", "folds": 5, "layers": [2, 4], "queries": "last"}


def planted(rng, layout):
    """(4 heads, N): a blob somewhere, specks anywhere, the same corner always, a blob that hardly counts."""
    y, x = layout.row.astype(float), layout.col.astype(float)
    at = rng.uniform(1, 6, 2)
    blob = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 4) + 0.02
    specks = rng.uniform(0.02, 0.03, layout.n)
    specks[rng.integers(layout.n)] = 1
    corner = np.exp(-(y**2 + x**2) / 4) + 0.02 * rng.uniform(0.9, 1.1, layout.n)
    heads = np.stack([blob, specks, corner, blob]) * rng.uniform(0.95, 1.05, (4, layout.n))
    heads /= heads.sum(1, keepdims=True)
    return heads * np.array([0.5, 0.5, 0.5, 0.001])[:, None]


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    rng = np.random.default_rng(0)
    maps = StoredMaps.create(tmp_path_factory.mktemp("maps") / "m", SETTINGS)
    with maps.writing():
        for i in range(40):
            layout = LAYOUT if i % 4 else TILED
            both = np.stack([planted(rng, layout), np.full((4, layout.n), 0.01)])
            maps.add(ImageRecord(f"i{i}", layout, str(i)), both.astype(np.float32))
    return maps


def test_touching_tokens_are_those_of_a_loop():
    for layout in (LAYOUT, TILED, TokenLayout.raster(1, 1, size=(9, 9), family="toy")):
        wanted = {
            (i, j)
            for i in range(layout.n)
            for j in range(layout.n)
            if layout.tile[i] == layout.tile[j]
            and (layout.row[j] - layout.row[i], layout.col[j] - layout.col[i]) in ((0, 1), (1, 0))
        }
        assert set(zip(*map(np.ndarray.tolist, neighbours(layout)), strict=True)) == wanted


def test_it_is_the_definition(maps):
    table = head_quality(maps, layers=[2], n=10).set_index("head")
    for head in range(4):
        left = total = 0.0
        morans, skews = [], []
        for i in range(10):
            layout, fold = maps.record(i).layout, fold_of(f"i{i}", 5)
            others = [
                centred_log(maps.image(j, 2))[head]
                for j in range(40)
                if maps.record(j).layout.key == layout.key and fold_of(f"i{j}", 5) != fold
            ]
            log = centred_log(maps.image(i, 2))[head]
            rest = log - np.mean(others, axis=0)
            left, total = left + (rest**2).sum(), total + (log**2).sum()
            rest = rest - rest.mean()
            pairs = [rest[a] * rest[b] for a, b in zip(*neighbours(layout), strict=True)]
            morans.append(np.mean(pairs) / (rest**2).mean())
            skews.append((rest**3).mean() / (rest**2).mean() ** 1.5)
        row = table.loc[head]
        assert row["position"] == pytest.approx(1 - left / total, rel=1e-6)
        assert row["moran"] == pytest.approx(np.mean(morans), rel=1e-4)
        assert row["skewness"] == pytest.approx(np.mean(skews), rel=1e-4)
        if row["mass"] >= 0.01:
            wanted = (left / total) * max(np.mean(morans), 0) * max(np.mean(skews), 0)
            assert row["quality"] == pytest.approx(wanted, rel=1e-4)


def test_heads_that_look_at_moving_blobs_are_found(maps):
    table = head_quality(maps).set_index(["layer", "head"])
    assert table["quality"].idxmax() == (2, 0)
    best = table.loc[2, 0]
    assert best["lo"] < best["quality"] < best["hi"]
    assert table.loc[2, 1]["moran"] < 0.2 < 0.7 < best["moran"]  # specks
    assert table.loc[2, 2]["position"] > 0.8  # always the same corner
    assert table.loc[2, 3]["quality"] == 0 and table.loc[2, 3]["mass"] < 0.01
    assert (table.loc[4]["quality"] == 0).all()  # looks at everything alike
    assert [(h.layer, h.head, h.weight) for h in choose_heads(table.reset_index(), share=0.9)] == [(2, 0, 1.0)]


def test_bad_maps_are_refused(maps, tmp_path):
    mean = StoredMaps.create(tmp_path / "mean", {**SETTINGS, "heads": "mean"})
    with pytest.raises(InputError, match="heads='all'"):
        head_quality(mean)
    with pytest.raises(InputError, match="at least 4 images"):
        head_quality(StoredMaps.create(tmp_path / "none", SETTINGS))
    with pytest.raises(InputError, match="no head of these layers looks at anything"):
        choose_heads(head_quality(maps, layers=[4]), share=0.25)


def test_a_profile_keeps_the_quality_of_its_heads(maps, tmp_path):
    plain = MeanProfile().fit(maps)
    before = plain.hash
    assert plain.quality_.empty
    with pytest.raises(InputError, match=r"does not tell the quality of heads: fit one .*--heads all"):
        plain.head_weights(2)
    rated = MeanProfile().fit(maps).rate_heads(maps)
    assert rated.hash != before == MeanProfile().fit(maps).hash  # methods may weigh heads by it
    pd.testing.assert_frame_equal(rated.quality_, head_quality(maps), check_dtype=False, rtol=1e-6)
    np.testing.assert_array_equal(rated.predict(LAYOUT, 2), plain.predict(LAYOUT, 2))
    again = load(rated.save(tmp_path / "rated"))
    assert again.hash == rated.hash and (again.head_weights(2) == rated.head_weights(2)).all()
    pd.testing.assert_frame_equal(again.quality_, rated.quality_)
    card = (tmp_path / "rated.md").read_text()
    assert "## Heads that look at something" in card and "layer 2 head 0" in card
    assert "Heads that look" not in plain.save(tmp_path / "plain").with_suffix(".md").read_text()


@pytest.mark.parametrize("name", positional_names())
def test_profiles_of_every_estimator_keep_it(maps, tmp_path, name):
    one = make(name)
    if one.refuses(maps.provenance):
        pytest.skip("these maps do not tell what it needs")
    first = one.fit(maps).predict(LAYOUT, 2)
    one.rate_heads(maps, n=8).save(tmp_path / "one")
    again = load(tmp_path / "one.safetensors")
    np.testing.assert_array_equal(again.predict(LAYOUT, 2), first)
    assert len(again.quality_) == 8 and again.hash == one.hash


def test_heads_weigh_as_their_quality_and_those_that_look_at_nothing_not_at_all(maps):
    rated = MeanProfile().fit(maps).rate_heads(maps)
    weights, own = rated.head_weights(2), rated.quality_.query("layer == 2")["quality"].to_numpy()
    wanted = np.where(own >= own.max() / 4, own, 0)
    assert weights.tolist() == pytest.approx((wanted / wanted.sum()).tolist(), rel=1e-5)
    with pytest.raises(InputError, match="no head of layer 4 looks at anything"):
        rated.head_weights(4)
    with pytest.raises(ProfileMismatchError, match="not 7"):
        rated.head_weights(7)


def test_heads_of_streamed_maps_are_not_rated():
    streamed = simulate("u-shaped", {LAYOUT: 8}, heads=2).maps
    with pytest.raises(InputError, match="streamed maps do not keep.*--maps FOLDER"):
        MeanProfile().fit(streamed).rate_heads(streamed)
