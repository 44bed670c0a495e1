"""Profiles of prompts of several frames: a planted bias over frames is found, transported and refused."""

from __future__ import annotations

import numpy as np
import pytest

from biaslab import profiles
from biaslab.core.frames import frames_layout, parts_of_frames
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.simulate import planted_bias, simulate
from biaslab.profiles import ESTIMATORS, FactorisedProfile, MeanProfile, TileProfile, variance_explained
from biaslab.profiles.parts import logs, parts_of
from biaslab.profiles.registry import positional_names

ONE = TokenLayout.raster(6, 6, size=(66, 66), family="toy")
TILED = TokenLayout.tiled(1, 2, (4, 4), size=(80, 40), family="toy", thumbnail=True)
VIDEO = {n: frames_layout([ONE] * n) for n in (2, 4, 8, 16)}
ABLE = ("exponential", "factorised", "geometric", "mean", "tile")


def centred_log(profile, layout, layer=0):
    logs = np.log(profile.predict(layout, layer))
    return logs - logs.mean(axis=1, keepdims=True)


def by_frame(values, layout):
    return np.array([values[at].mean() for _, at in parts_of_frames(layout)])


def test_a_planted_bias_over_frames_is_recovered_beside_that_within_a_frame():
    made = simulate("u-shaped", {VIDEO[4]: 60, VIDEO[8]: 60}, frames=2.0)
    profile = FactorisedProfile().fit(made.maps)
    for n in (4, 8):
        found, planted = centred_log(profile, VIDEO[n])[0], made.truth[VIDEO[n].key]
        assert np.corrcoef(found, planted)[0, 1] > 0.99
        np.testing.assert_allclose(by_frame(found, VIDEO[n]), by_frame(planted, VIDEO[n]), atol=0.1)
    none = FactorisedProfile().fit(simulate("u-shaped", {VIDEO[4]: 60, VIDEO[8]: 60}).maps)
    assert np.ptp(by_frame(centred_log(none, VIDEO[8])[0], VIDEO[8])) < 0.2


def test_it_transports_to_other_numbers_of_frames_by_relative_place():
    made = simulate("u-shaped", {VIDEO[4]: 80, VIDEO[8]: 80}, frames=2.0)
    profile = FactorisedProfile().fit(made.maps)
    for n in (2, 16):
        found, planted = centred_log(profile, VIDEO[n])[0], planted_bias("u-shaped", VIDEO[n], frames=2.0)
        np.testing.assert_allclose(by_frame(found, VIDEO[n]), by_frame(planted, VIDEO[n]), atol=0.15)
    # a single image is a video of one frame: its own map, which every frame has
    alone = centred_log(profile, ONE)[0]
    for _, at in parts_of_frames(VIDEO[8]):
        frame = centred_log(profile, VIDEO[8])[0][at]
        np.testing.assert_allclose(alone, frame - frame.mean(), atol=1e-5)


def test_frames_of_several_tiles_have_both_trends():
    video = {n: frames_layout([TILED] * n) for n in (3, 6)}
    made = simulate("tile-ordered", {video[3]: 80, video[6]: 80}, frames=1.5, strength=1.0)
    found = centred_log(FactorisedProfile().fit(made.maps), video[6])[0]
    planted = made.truth[video[6].key]
    np.testing.assert_allclose(by_frame(found, video[6]), by_frame(planted, video[6]), atol=0.15)
    assert np.corrcoef(found, planted)[0, 1] > 0.98
    grid = FactorisedProfile(grid=(2, 2)).fit(made.maps)  # maps on another grid are interpolated frame by frame
    np.testing.assert_allclose(
        by_frame(centred_log(grid, video[6])[0], video[6]), by_frame(planted, video[6]), atol=0.15
    )


def test_least_squares_is_that_of_a_dense_design():
    """With next to no penalty the fit is plain least squares on one-hot columns of cell and frame, prompt by prompt."""
    made = simulate("u-shaped", {VIDEO[4]: 30}, frames=2.0, seed=3)
    (part,) = logs(parts_of(made.maps, 0))
    layout, y = VIDEO[4], part.mean[0]
    cell = np.eye(ONE.n)[layout.row * 6 + layout.col]
    frame = np.eye(4)[layout.frame]
    design = np.hstack([cell, frame])
    want = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    found = FactorisedProfile().log_map([part], layout)[0]
    np.testing.assert_allclose(found, want - want.mean(), atol=0.03)


@pytest.mark.parametrize("name", positional_names())
def test_an_estimator_serves_frames_or_says_so(name, tmp_path):
    maps = simulate("bottom-heavy", {VIDEO[4]: 40}, frames=1.0).maps
    if name not in ABLE:
        assert not ESTIMATORS[name].frames
        for use in (lambda: profiles.make(name).fit(maps), lambda: variance_explained(maps, estimator=name)):
            with pytest.raises(InputError, match=f"'{name}' knows no frames: choose among exponential, factorised"):
                use()
        return
    fitted = profiles.make(name).fit(maps)
    values = fitted.expected(VIDEO[4], 0)
    assert values.shape == (1, VIDEO[4].n) and (values > 0).all()
    again = profiles.load(fitted.save(tmp_path / "p"))
    assert again.hash == fitted.hash and (again.expected(VIDEO[4], 0) == values).all()
    assert variance_explained(maps, estimator=name).r2 > 0.05


def test_a_frame_trend_explains_what_a_map_of_the_frame_alone_cannot():
    maps = simulate("u-shaped", {VIDEO[4]: 60, VIDEO[8]: 60}, frames=2.0).maps
    trend, alike = (variance_explained(maps, estimator=name).r2 for name in ("factorised", "tile"))
    assert trend > alike + 0.1
    within = TileProfile().fit(maps).predict(VIDEO[8])[0]  # one map for all frames
    np.testing.assert_allclose(within[VIDEO[8].frame == 0], within[VIDEO[8].frame == 7], rtol=1e-6)


def test_layouts_that_a_profile_was_not_fitted_for_are_refused():
    pictures = simulate("u-shaped", {ONE: 30}).maps
    with pytest.raises(ProfileMismatchError, match="frames4"):
        MeanProfile().fit(pictures).expected(VIDEO[4], 0)
    with pytest.raises(ProfileMismatchError, match="not 'toy/6x6/tiles1x1'"):
        MeanProfile().fit(simulate("u-shaped", {VIDEO[4]: 30}).maps).expected(ONE, 0)
    with pytest.raises(ProfileMismatchError, match="knows no frames: prune with budget='separate'"):
        profiles.make("smooth").fit(pictures).expected(VIDEO[4], 0)
    # one that carries over and saw no frames has no trend over them
    flat = FactorisedProfile().fit(pictures).predict(VIDEO[4])[0]
    np.testing.assert_allclose(flat[VIDEO[4].frame == 0], flat[VIDEO[4].frame == 3], rtol=1e-6)
