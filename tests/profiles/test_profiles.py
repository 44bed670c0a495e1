"""Estimators, refusal, and the profile file: contract tests over the registry."""

import json
import pickle
from inspect import signature

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError as SklearnNotFittedError
from sklearn.utils.validation import check_is_fitted

from biaslab import profiles
from biaslab.core.layout import TokenLayout
from biaslab.errors import BiaslabError, InputError, ProfileMismatchError
from biaslab.maps.base import ImageRecord
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import ESTIMATORS, MeanProfile, TileProfile
from biaslab.profiles.fitted import NotFittedError
from biaslab.profiles.registry import positional_names
from biaslab.profiles.strength import choose_strength

ONE = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
TILED = TokenLayout.tiled(1, 2, (4, 4), size=(128, 64), family="internvl", thumbnail=True)
SETTINGS = {
    "model": "tiny",
    "revision": "r1",
    "family": "internvl",
    "queries": "last",
    "heads": "mean",
    "prompt": "Describe it.",
    "score": "attention",
    "folds": 5,
    "layers": [1, 3],
    "rotary": {"inv_freq": [1.0, 0.1, 0.01], "axes": None, "head_dim": 6, "scaling": 0.4, "attention_scaling": 1.0},
}
EVERY = pytest.mark.parametrize("name", positional_names())


def make_maps(images=((ONE, 12), (TILED, 7)), heads=1, seed=0, **settings):
    """(maps, {layout key: (n, L, H, N) attention}) of random attention with a positional bias."""
    rng = np.random.default_rng(seed)
    settings = {**SETTINGS, "heads": "mean" if heads == 1 else "all", **settings}
    maps, raw = StreamedMaps(settings), {}
    for layout, n in images:
        bias = np.exp(2 * layout.centers[:, 1])
        x = rng.gamma(2.0, size=(n, len(settings["layers"]), heads, layout.n)) * bias
        raw[layout.key] = (0.3 * x / x.sum(-1, keepdims=True)).astype(np.float32)
        for i, one in enumerate(raw[layout.key]):
            maps.add(ImageRecord(f"{layout.key}-{i}", layout, f"{seed}-{i}", 12), one)
    return maps, raw


def expected(profile, layout, layer):
    return profile.expected(layout, layer).double().numpy()


def test_mean_profile_is_the_mean_and_std_of_each_position():
    maps, raw = make_maps(heads=2)
    profile = MeanProfile().fit(maps)
    for layout in (ONE, TILED):
        for at, layer in enumerate((1, 3)):
            x = raw[layout.key][:, at].astype(np.float64)
            np.testing.assert_allclose(expected(profile, layout, layer), x.mean(0), rtol=1e-5)
            np.testing.assert_allclose(profile.std(layout, layer).numpy(), x.std(0), rtol=1e-4)


@pytest.mark.parametrize("call", [
    profiles.Profile.fit, profiles.Profile.score, profiles.Profile.save, profiles.variance_explained,
    profiles.variance_table, profiles.select_estimator, profiles.map_interval, choose_strength,
    *ESTIMATORS.values(),
], ids=lambda call: call.__qualname__)  # fmt: skip
def test_only_subject_and_data_are_positional(call):
    names = [n for n, p in signature(call).parameters.items() if p.kind is not p.KEYWORD_ONLY]
    assert names in ([], ["maps"], ["self", "maps"], ["self", "path"])


@EVERY
def test_contract_every_estimator(name, tmp_path):
    maps, _ = make_maps(heads=2)
    estimator = profiles.make(name)
    assert isinstance(clone(estimator), type(estimator)) and estimator.set_params(**estimator.get_params()) is estimator
    assert estimator.fit(maps) is estimator and estimator.layers_ == [1, 3]
    for layout in (ONE, TILED):
        values, spread = estimator.expected(layout, 3), estimator.std(layout, 3)
        assert values.shape == spread.shape == (2, layout.n) and values.dtype == spread.dtype == torch.float32
        assert (values > 0).all() and (spread >= 0).all() and values.isfinite().all()
        # what all visual tokens draw together is kept, so that subtraction has the right unit
        total = maps.moments(3, layout.key).mean.sum(1)
        np.testing.assert_allclose(values.sum(1), total, rtol=1e-5)
    for key in (
        "model",
        "revision",
        "family",
        "queries",
        "prompt",
        "calibration",
        "n",
        "estimator",
        "params",
        "biaslab",
    ):
        assert key in estimator.provenance_
    assert estimator.provenance_["heads"] == 2 and estimator.provenance_["layers"] == [1, 3]

    path = estimator.save(tmp_path / "p")
    loaded = profiles.load(path)
    assert path.name == "p.safetensors" and type(loaded) is type(estimator)
    assert loaded.hash == estimator.hash and loaded.provenance_ == estimator.provenance_
    assert loaded.counts_ == estimator.counts_ == {ONE.key: 12, TILED.key: 7}
    assert torch.equal(loaded.expected(TILED, 1), estimator.expected(TILED, 1))
    card = path.with_suffix(".md").read_text()
    assert loaded.hash in card and "Describe it." in card and TILED.key in card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.md", "p.safetensors"]


@EVERY
def test_maps_are_cached_per_device_and_the_cache_is_bounded(name):
    maps, _ = make_maps()
    profile = profiles.make(name).fit(maps)
    first = profile.expected(ONE, 1)
    same_place = TokenLayout.raster(4, 4, size=(640, 480), family="internvl")  # equal key, other image size
    assert profile.expected(same_place, 1, device=torch.device("cpu")) is first
    assert profile.expected(ONE, 1, device="meta").device.type == "meta"
    if "layout" in profile.transports:
        for n in range(1, 90):
            profile.expected(TokenLayout.raster(1, n, size=(64, 64), family="internvl"), 1)
        assert len(profile._maps) <= 128
    assert not pickle.loads(pickle.dumps(profile))._maps
    assert torch.equal(pickle.loads(pickle.dumps(profile)).expected(ONE, 1), first)


def test_tile_profile_of_one_tile_is_the_mean_profile():
    maps, _ = make_maps([(ONE, 12)], heads=3)
    mean, tile = MeanProfile().fit(maps), TileProfile().fit(maps)
    for get in ("expected", "std"):
        np.testing.assert_allclose(getattr(tile, get)(ONE, 1), getattr(mean, get)(ONE, 1), rtol=1e-5)


def test_tile_profile_averages_all_tiles_of_all_images():
    maps, raw = make_maps()
    cells = []  # slow reference: every tile of every image, relative to its layout's mean attention
    for layout in (ONE, TILED):
        x = raw[layout.key][:, 0, 0].astype(np.float64)
        x = x / x.mean(0).mean()
        cells += [image[layout.tile == t].reshape(4, 4) for image in x for t in np.unique(layout.tile)]
    cells = np.array(cells)
    profile = TileProfile(thumbnail="shared").fit(maps)
    got = expected(profile, TILED, 1)[0].reshape(3, 4, 4)
    assert np.array_equal(got[0], got[1]) and np.array_equal(got[0], got[2])
    shape = cells.mean(0) / cells.mean()
    np.testing.assert_allclose(got[0] / got[0].mean(), shape, rtol=1e-5)
    relative = profile.std(TILED, 1)[0].double().numpy().reshape(3, 4, 4)[0] / got[0].mean()
    np.testing.assert_allclose(relative, cells.std(0) / cells.mean(), rtol=1e-4)


def test_tile_profile_keeps_the_thumbnail_apart(tmp_path):
    maps, raw = make_maps()
    tiles, thumbs = [], []  # slow reference, as above
    for layout in (ONE, TILED):
        x = raw[layout.key][:, 0, 0].astype(np.float64)
        x = x / x.mean(0).mean()
        for image in x:
            for t in np.unique(layout.tile):
                at = layout.tile == t
                (thumbs if layout.thumbnail[at][0] else tiles).append(image[at].reshape(4, 4))
    assert len(thumbs) == 7 and len(tiles) == 12 + 2 * 7
    profile = TileProfile().fit(maps)
    got = expected(profile, TILED, 1)[0].reshape(3, 4, 4)
    assert np.array_equal(got[0], got[1])
    np.testing.assert_allclose(got[2] / got[0], np.mean(thumbs, 0) / np.mean(tiles, 0), rtol=1e-5)
    assert got.sum() == pytest.approx(raw[TILED.key][:, 0, 0].mean(0).sum(), rel=1e-5)
    spread = profile.std(TILED, 1)[0].double().numpy().reshape(3, 4, 4)
    np.testing.assert_allclose(spread[2] / got[2], np.std(thumbs, 0) / np.mean(thumbs, 0), rtol=1e-4)
    more = TokenLayout.tiled(2, 2, (4, 4), size=(9, 9), family="internvl", thumbnail=True)
    other = expected(profile, more, 1)[0].reshape(5, 4, 4)
    np.testing.assert_allclose(other[4] / other[0], got[2] / got[0], rtol=1e-5)
    back = profiles.load(profile.save(tmp_path / "p.safetensors"))
    assert torch.equal(back.expected(more, 1), profile.expected(more, 1))
    without = TileProfile().fit(make_maps([(ONE, 9)])[0])
    same = expected(without, TILED, 1)[0].reshape(3, 4, 4)
    assert np.array_equal(same[2], same[0]), "no thumbnail was fitted: the tiles' map serves"
    with pytest.raises(InputError, match="'apart' or 'shared'"):
        TileProfile(thumbnail="both").fit(maps)


def test_tile_profile_of_rasters_without_padding():
    # LLaVA-NeXT: the thumbnail first, then rows of the raster, which misses the padding; a linear ramp stays linear
    def ramp(layout):
        return ((1 + layout.row + 10 * layout.thumbnail) / 1000).astype(np.float32)

    cut = TokenLayout.unpadded(
        (2, 1), (6, 6), size=(60, 90), family="next", window=(2, 10, 0, 6), thumbnail_grid=(3, 3)
    )
    whole = TokenLayout.unpadded(
        (1, 2), (6, 6), size=(120, 60), family="next", window=(0, 6, 0, 12), thumbnail_grid=(3, 3)
    )
    maps = StreamedMaps({**SETTINGS, "layers": [1], "family": "next"})
    for i in range(4):
        layout = (cut, whole)[i % 2]
        maps.add(ImageRecord(str(i), layout, str(i)), ramp(layout)[None, None])
    profile = TileProfile().fit(maps)
    shapes = {part: values["expected"].shape for part, values in profile.arrays_[1].items() if "expected" in values}
    assert shapes == {"tile": (1, 6, 6), "thumbnail": (1, 3, 3)}
    scaled = TokenLayout.unpadded(
        (1, 1), (12, 4), size=(9, 9), family="next", window=(0, 12, 0, 4), thumbnail_grid=(6, 6)
    )
    for layout in (cut, whole, scaled):
        got = expected(profile, layout, 1)[0]
        for t in np.unique(layout.tile[~layout.thumbnail]):
            rows = layout.row[layout.tile == t]
            assert np.corrcoef(rows, got[layout.tile == t])[0, 1] > 0.9
        assert got[layout.thumbnail].min() > got[~layout.thumbnail].max()


def test_tile_profile_transports_to_other_tilings_and_grids():
    ramp = TokenLayout.raster(8, 8, size=(64, 64), family="internvl")
    maps = StreamedMaps({**SETTINGS, "layers": [1]})
    values = (1 + ramp.row).astype(np.float32) / 1000  # linear in y: interpolation must keep it linear
    for i in range(3):
        maps.add(ImageRecord(str(i), ramp, str(i)), values[None, None])
    profile = TileProfile().fit(maps)
    more = TokenLayout.tiled(2, 3, (8, 8), size=(9, 6), family="internvl", thumbnail=True)
    got = expected(profile, more, 1)[0]
    assert got.sum() == pytest.approx(values.sum(), rel=1e-5)  # same mass over more tokens
    for t in range(7):
        np.testing.assert_allclose(got[more.tile == t] / got.mean(), values / values.mean(), rtol=1e-5)
    finer = expected(profile, TokenLayout.raster(16, 4, size=(64, 64), family="internvl"), 1)[0].reshape(16, 4)
    centres = (np.arange(16) + 0.5) / 2 - 0.5  # of the finer rows, in coarse rows
    np.testing.assert_allclose(finer[1:-1, 0] / finer.mean(), (1 + centres[1:-1]) / 4.5, rtol=1e-4)
    assert (np.ptp(finer, axis=1) < 1e-8).all()
    coarser = expected(profile, TokenLayout.raster(2, 2, size=(64, 64), family="internvl"), 1)[0].reshape(2, 2)
    assert coarser[0, 0] < coarser[1, 0] and coarser[0, 0] == pytest.approx(coarser[0, 1])


def test_tile_profile_with_cells_that_no_tile_has():
    keep = np.arange(16) != 5
    full = ONE
    arrays = (getattr(full, name)[keep] for name in ("tile", "row", "col", "thumbnail", "boxes"))
    holes = TokenLayout(*arrays, full.grid, full.tiles, full.size, full.family)
    maps, raw = make_maps([(holes, 6)])
    profile = TileProfile().fit(maps)
    np.testing.assert_allclose(expected(profile, holes, 1)[0], raw[holes.key][:, 0, 0].mean(0), rtol=1e-5)
    carried = expected(profile, full, 1)[0]  # the unknown cell is the average one
    assert carried[5] == pytest.approx(carried[keep].mean(), rel=1e-5)
    other = TileProfile(grid=(8, 8)).fit(maps)
    assert np.isfinite(expected(other, full, 1)).all() and other.arrays_[1]["tile"]["expected"].shape == (
        1,
        8,
        8,
    )


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ({"model": "other"}, "model 'tiny', not 'other'"),
        ({"revision": "r2"}, "revision 'r1'"),
        ({"family": "llava"}, "family 'internvl'"),
        ({"layer": 2}, r"layers \[1, 3\], not 2"),
        ({"queries": "text"}, "query rule 'last'"),
        ({"heads": 8}, "head reduction 'mean'"),
        ({"score": "no_rope"}, "score 'attention'"),
        ({"layout": TokenLayout.raster(4, 4, size=(64, 64), family="llava")}, "llava"),
    ],
)
@EVERY
def test_refused_for_what_it_was_not_fitted_for(name, use, reason):
    profile = profiles.make(name).fit(make_maps()[0])
    fits = {
        "model": "tiny",
        "revision": "r1",
        "family": "internvl",
        "layer": 3,
        "queries": "last",
        "heads": "mean",
        "layout": ONE,
    }
    profile.check(**fits, prompt="Describe it.", score="attention")
    profile.check()
    with pytest.raises(ProfileMismatchError, match=reason) as caught:
        profile.check(**{**fits, **use})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mine", "other", "fits"),
    [
        ("local-0123456789ab", "local-0123456789ab", True),  # the folder was moved
        ("0" * 40, "0" * 40, True),  # a copy of the repository
        ("local-0123456789ab", "local-0123456789ac", False),
        ("rehearsal", "rehearsal", False),  # names no contents
        ("r1", "r1", False),
        (None, None, False),
    ],
)
def test_a_model_is_known_by_its_weights_not_by_its_name(mine, other, fits):
    profile = MeanProfile().fit(make_maps()[0])
    profile.provenance_.update(model="/data/mine", revision=mine)
    profile.check(model="/data/mine", revision=mine)
    if fits:
        profile.check(model="/elsewhere/mine", revision=other)
    else:
        with pytest.raises(ProfileMismatchError, match="fitted for model"):
            profile.check(model="/elsewhere/mine", revision=other)


def test_unknown_tiling_is_refused_unless_the_estimator_transports():
    maps, _ = make_maps()
    other = TokenLayout.tiled(2, 2, (4, 4), size=(64, 64), family="internvl", thumbnail=True)
    with pytest.raises(ProfileMismatchError, match="'tile' estimator"):
        MeanProfile().fit(maps).expected(other, 1)
    assert TileProfile().fit(maps).expected(other, 1).shape == (1, 80)
    with pytest.raises(ProfileMismatchError, match="layers"):
        TileProfile().fit(maps).expected(ONE, 2)


def test_another_prompt_warns():
    profile = MeanProfile().fit(make_maps()[0])
    with pytest.warns(UserWarning, match="Describe it"):
        profile.check(prompt="Where is the cat?")


def test_fit_takes_some_layers_and_refuses_missing_ones():
    maps, _ = make_maps()
    assert MeanProfile().fit(maps, layers=[3]).layers_ == [3]
    with pytest.raises(InputError, match=r"not \[2\]"):
        MeanProfile().fit(maps, layers=[2, 3])
    with pytest.raises(InputError, match="no images"):
        MeanProfile().fit(StreamedMaps(SETTINGS))
    with pytest.warns(UserWarning, match="only one image"):
        MeanProfile().fit(make_maps([(ONE, 1)])[0])


def test_use_before_fit_and_wrong_options_are_one_clear_line():
    with pytest.raises(InputError, match="not fitted"):
        MeanProfile().expected(ONE, 1)
    for use in (lambda p: p.hash, lambda p: p.layout_of(), lambda p: p.predict(ONE), lambda p: p.check()):
        with pytest.raises(NotFittedError, match="call .fit") as refusal:
            use(MeanProfile())
        assert isinstance(refusal.value, InputError) and isinstance(refusal.value, SklearnNotFittedError)
    with pytest.raises(SklearnNotFittedError):
        check_is_fitted(MeanProfile())
    with pytest.raises(InputError, match="choose one of .*mean, .*tile"):
        profiles.make("median")
    with pytest.raises(InputError, match="tile"):
        profiles.make("tile", rows=3)
    with pytest.raises(InputError, match="grid"):
        TileProfile(grid=(0, 4)).fit(make_maps()[0])


def test_hash_names_the_content():
    fit = lambda **kw: MeanProfile().fit(make_maps(**kw)[0]).hash  # noqa: E731
    assert fit() == fit()
    assert len({fit(), fit(seed=1), fit(prompt="Other."), fit(model="other")}) == 4


def test_diagnostics_appear_in_the_card(tmp_path):
    maps, _ = make_maps([(ONE, 40)])
    table = profiles.variance_table(maps)
    path = MeanProfile().fit(maps).save(tmp_path / "a.b.safetensors", diagnostics=table)
    assert path.name == "a.b.safetensors"
    assert f"| 3 | all | {table['r2'][1]:.3f} |" in path.with_suffix(".md").read_text()


def _pickle(path):
    path.write_bytes(pickle.dumps({"a": 1}))


def _torch(path):
    torch.save({"a": torch.zeros(3)}, path)


def _checkpoint(path):
    save_file({"w": np.zeros(3, np.float32)}, path)


def _rewrite(path, change):
    """Save a good profile, then change its JSON head."""
    profile = MeanProfile().fit(make_maps()[0])
    profile.save(path)
    with safe_open(path, framework="numpy") as file:
        meta, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    head = json.loads(meta["biaslab_profile"])
    change(head, tensors)
    save_file(tensors, path, metadata={"biaslab_profile": json.dumps(head)})


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_pickle, "not a safetensors file"),
        (_torch, "not a safetensors file"),
        (lambda p: p.write_bytes(b""), "not a safetensors file"),
        (_checkpoint, "no biaslab profile"),
        (lambda p: save_file({}, p, metadata={"biaslab_profile": "{"}), "damaged"),
        (lambda p: _rewrite(p, lambda h, t: h.update(format=9)), "newer biaslab"),
        (lambda p: _rewrite(p, lambda h, t: h.update(estimator="gp")), "estimator 'gp'"),
        (lambda p: _rewrite(p, lambda h, t: h["provenance"].update(model="other")), "hash"),
        (lambda p: _rewrite(p, lambda h, t: t.update(t0=t["t0"] + 1)), "hash"),
        (lambda p: _rewrite(p, lambda h, t: t.update(t0=t["t0"] * np.float32(np.nan))), "finite"),
        (lambda p: _rewrite(p, lambda h, t: t.pop("t0")), "damaged"),
        (lambda p: _rewrite(p, lambda h, t: h["layouts"][ONE.key].update(grid=[5, 5])), "damaged"),
    ],
)
def test_unsafe_or_wrong_files_are_refused_in_one_line(write, reason, tmp_path):
    path = tmp_path / "profile.safetensors"
    write(path)
    with pytest.raises(InputError, match=reason) as caught:
        profiles.load(path)
    assert "\n" not in str(caught.value) and "profile.safetensors" in str(caught.value)


def test_layout_of_names_the_commonest_and_what_its_map_rests_on():
    maps, _ = make_maps([(ONE, 5), (TILED, 9)])
    profile = MeanProfile().fit(maps)
    assert profile.layout_of() == (maps.layouts[TILED.key], 9) and profile.layout_of(ONE.key)[1] == 5
    other = TokenLayout.raster(2, 2, size=(64, 64), family="internvl")
    assert profile.layout_of(other) == (other, 14)
    with pytest.raises(InputError, match="no layout 'x'"):
        profile.layout_of("x")


def test_a_profile_can_be_read_by_whom_other_files_can_be(tmp_path):
    (tmp_path / "plain").write_text("")
    path = MeanProfile().fit(make_maps()[0]).save(tmp_path / "a")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_file_and_unwritable_place(tmp_path):
    with pytest.raises(InputError, match="fit-bias"):
        profiles.load(tmp_path / "none.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(BiaslabError, match="cannot write"):
        MeanProfile().fit(make_maps()[0]).save(tmp_path / "file" / "p.safetensors")


def test_truncated_profile_is_refused(tmp_path):
    path = MeanProfile().fit(make_maps()[0]).save(tmp_path / "p.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="not a safetensors file"):
        profiles.load(path)
