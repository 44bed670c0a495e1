"""Attention maps: moments against two passes of numpy, stored images read back, provenance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.maps import moments
from biaslab.maps.base import ImageRecord, fold_of
from biaslab.maps.moments import TINY, Moments
from biaslab.maps.stored import StoredMaps
from biaslab.maps.streamed import StreamedMaps

SETTINGS = {"layers": [1, 3], "folds": 3, "heads": "all", "model": "m"}
NAMES = ("mean", "var", "log_mean", "log_var")


def plain_moments(maps: np.ndarray) -> dict[str, np.ndarray]:
    """Two passes over (images, H, N) in float64."""
    x = maps.astype(np.float64)
    logs = np.log(x + TINY)
    logs -= logs.mean(-1, keepdims=True)
    return dict(zip(NAMES, (x.mean(0), x.var(0), logs.mean(0), logs.var(0)), strict=True))


def assert_moments(got: Moments, maps: np.ndarray, rtol=1e-9):
    assert got.n == len(maps)
    for name, value in plain_moments(maps).items():
        np.testing.assert_allclose(getattr(got, name), value, rtol=rtol, atol=1e-14, err_msg=name)


# ------------------------------------------------------------------------------------------ moments
@given(st.integers(0, 2**32), st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_merging_equals_two_passes(seed, sizes):
    rng = np.random.default_rng(seed)
    images = rng.dirichlet(np.ones(6), (sum(sizes), 2)).astype(np.float32)
    total, start = Moments.empty((2, 6)), 0
    for size in sizes:
        part = Moments.empty((2, 6))
        for image in images[start : start + size]:
            part = part.merge(Moments.of(image))
        total, start = total.merge(part), start + size
    assert_moments(total, images)


def test_merging_does_not_cancel():
    # a spread of 1e-6 on a level of 1: sums of squares would lose all of it in float32 and half in float64
    images = 1 + 1e-6 * np.random.default_rng(0).standard_normal((2000, 1, 4))
    total = Moments.empty((1, 4))
    for image in images:
        total = total.merge(Moments.of(image))
    np.testing.assert_allclose(total.var, images.var(0), rtol=1e-8)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from([1, 12, 2**14]))
@settings(max_examples=25, deadline=None)
def test_adding_images_equals_merging_them_one_by_one(seed, sizes, part):
    """Bit by bit, in parts or whole, with maps that do not vary among them."""
    rng = np.random.default_rng(seed)
    images = rng.dirichlet(np.ones(6), (sum(sizes), 5)).astype(np.float32)
    images[:, 2] = np.float32(0.1)
    quick, plain, start = Moments.empty((5, 6)), Moments.empty((5, 6)), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_PART", part)
        for size in sizes:
            before = [getattr(quick, name).copy() for name in NAMES]
            after = quick.plus(images[start : start + size])
            for name, values in zip(NAMES, before, strict=True):
                np.testing.assert_array_equal(getattr(quick, name), values)  # a state that was kept stays
            quick, start = after, start + size
    for image in images:
        plain = plain.merge(Moments.of(image))
    assert quick.n == plain.n == len(images)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(quick, name), getattr(plain, name), err_msg=name)
    assert (quick.log_mean[2] == 0).all() and (quick.log_var[2] == 0).all()


def filled(kind, tmp_path, n=40):
    """Maps of random attention in two layouts, stored or streamed, and the arrays that went in."""
    maps = StreamedMaps(dict(SETTINGS)) if kind == "streamed" else StoredMaps.create(tmp_path / "maps", SETTINGS)
    layouts = [TokenLayout.raster(2, 3, size=(30, 20), family="x"), TokenLayout.raster(1, 4, size=(40, 9), family="x")]
    rng = np.random.default_rng(0)
    put = []
    for i in range(n):
        layout = layouts[i % 3 == 0]
        values = rng.dirichlet(np.ones(layout.n), (2, 5)).astype(np.float32)
        put.append((ImageRecord(f"image {i}", layout, f"digest {i}"), values))
    if kind == "streamed":
        for record, values in put:
            maps.add(record, values)
    else:
        with maps.writing():
            for record, values in put:
                maps.add(record, values)
    return maps, put


def test_questions_on_one_picture_are_in_one_fold():
    names = [f"{i}.jpg" for i in range(40)]
    assert {fold_of(name, 5) for name in names} == set(range(5))
    for name in names:
        assert len({fold_of(again, 5) for again in (name, f"{name}#2", f"{name}#13")}) == 1
        assert fold_of(f"{name}#2[0]", 5) == fold_of(f"{name}[0]", 5)
    others = [f"{name}#b" for name in names] + [f"{name}#2.png" for name in names]  # a file may be called so
    assert any(fold_of(other, 5) != fold_of(other.split("#")[0], 5) for other in others)


@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_moments_by_layout_and_fold(kind, tmp_path):
    maps, put = filled(kind, tmp_path)
    assert len(maps) == maps.n == 40 and maps.heads == 5 and maps.folds == 3
    assert set(maps.layouts) == {"x/2x3/tiles1x1", "x/1x4/tiles1x1"}
    folds = {record.id: fold_of(record.id, 3) for record, _ in put}
    assert set(folds.values()) == {0, 1, 2}
    for key in maps.layouts:
        for at, layer in enumerate(maps.layers):

            def chosen(keep, key=key, at=at):
                return np.stack([v[at] for r, v in put if r.layout.key == key and keep(folds[r.id])])

            assert_moments(maps.moments(layer, key), chosen(lambda f: True))
            for fold in range(3):
                assert_moments(maps.moments(layer, key, fold=fold), chosen(lambda f, fold=fold: f == fold))
                assert_moments(maps.moments(layer, key, exclude_fold=fold), chosen(lambda f, fold=fold: f != fold))
            nothing = maps.moments(layer, key, fold=1, exclude_fold=1)
            assert nothing.n == 0 and nothing.mean.shape == (5, maps.layouts[key].n)


@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_bad_questions_to_maps(kind, tmp_path):
    maps, _ = filled(kind, tmp_path, n=5)
    with pytest.raises(InputError, match=r"hold layers \[1, 3\], not 2"):
        maps.moments(2, "x/2x3/tiles1x1")
    with pytest.raises(InputError, match="no image of layout"):
        maps.moments(1, "x/9x9/tiles1x1")
    with pytest.raises(InputError, match="folds 0 to 2"):
        maps.moments(1, "x/2x3/tiles1x1", fold=3)


def test_stored_images_read_back(tmp_path):
    _, put = filled("stored", tmp_path)
    maps = StoredMaps(tmp_path / "maps")
    for i in (0, 7, -1):
        record, values = put[i]
        for at, layer in enumerate(maps.layers):
            assert np.array_equal(maps.image(i, layer), values[at])
        assert maps.record(i).id == record.id and maps.record(i).layout.key == record.layout.key
    with pytest.raises(InputError, match="image 40 does not exist"):
        maps.image(40, 1)
    with pytest.raises(InputError, match="read-only"):
        maps.add(*put[0])
    with pytest.raises(UnsupportedError, match="out='FOLDER'"):
        filled("streamed", tmp_path)[0].image(0, 1)


@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_another_number_of_heads_is_refused_before_anything_is_added(kind, tmp_path):
    maps, put = filled(kind, tmp_path, n=3)
    record, values = put[0]
    other = ImageRecord("other", record.layout, "other")

    def files():
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*.f32")}

    before = files()
    with maps.writing(), pytest.raises(InputError, match="maps of 5 heads cannot take one of 2"):
        maps.add(other, values[:, :2])
    with maps.writing(), pytest.raises(InputError, match="maps of 5 heads cannot take one of 2"):
        maps.add_batch([(other, torch.from_numpy(values[:, :2].copy()))])
    assert maps.n == 3 and files() == before
    assert maps.moments(1, record.layout.key).n == sum(r.layout.key == record.layout.key for r, _ in put)


def test_provenance_names_the_set_not_its_order(tmp_path):
    maps, put = filled("streamed", tmp_path, n=6)
    stored, _ = filled("stored", tmp_path, n=6)
    other = StreamedMaps(dict(SETTINGS))
    for record, values in reversed(put):
        other.add(record, values)
    assert maps.provenance == other.provenance == stored.provenance
    assert StoredMaps(tmp_path / "maps").provenance == maps.provenance
    assert maps.provenance["n"] == 6 and maps.provenance["model"] == "m"
    other.add(put[0][0], put[0][1])
    assert other.provenance["calibration"] != maps.provenance["calibration"]
