"""How much attention each frame draws: planted and found, against sums over single prompts, and on prompts alone."""

from __future__ import annotations

import numpy as np
import pytest

from biaslab.core.frames import frames_layout, parts_of_frames
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics import diagnose
from biaslab.diagnostics.measures.frame_mass import frame_mass
from biaslab.diagnostics.measures.frame_order import frame_order
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.simulate import Content, simulate
from biaslab.maps.stored import StoredMaps

ONE = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
VIDEO = {n: frames_layout([ONE] * n) for n in (2, 4, 8)}
QUIET = Content(amplitude=0.2, target=0.5)


def test_a_planted_trend_is_found_and_none_where_none_is():
    made = simulate("bottom-heavy", {VIDEO[4]: 60, VIDEO[8]: 60, ONE: 10}, frames=2.0, content=QUIET)
    row = frame_order(made.maps).iloc[0]
    x, y = [], []  # the slope of the planted truth itself
    for n in (4, 8):
        place = (np.arange(n) + 0.5) / n
        level = np.array([made.truth[VIDEO[n].key][at].mean() for _, at in parts_of_frames(VIDEO[n])])
        x.append(place - place.mean())
        y.append(level - level.mean())
    want = np.concatenate(x) @ np.concatenate(y) / (np.concatenate(x) ** 2).sum()
    assert row["slope_lo"] < want < row["slope_hi"] and row["slope"] == pytest.approx(want, abs=0.1)
    assert row["n"] == 120 and row["per_video"] == pytest.approx(np.exp(row["slope"]))
    flat = frame_order(simulate("bottom-heavy", {VIDEO[4]: 60}, content=QUIET).maps).iloc[0]
    assert flat["slope_lo"] < 0 < flat["slope_hi"]


def test_mass_is_the_ratio_of_sums_over_prompts(tmp_path):
    rng = np.random.default_rng(0)
    settings = {"layers": [2], "heads": "all", "folds": 3, "model": "tiny"}
    maps, attention = StoredMaps.create(tmp_path / "maps", settings), {2: [], 4: []}
    with maps.writing():
        for i in range(30):
            n = 2 if i % 3 == 0 else 4
            values = rng.random((1, 2, VIDEO[n].n)).astype(np.float32) * (1 + VIDEO[n].frame)
            maps.add(ImageRecord(f"v{i}", VIDEO[n], str(i)), values)
            attention[n].append(values[0])
    table = frame_mass(maps)
    assert len(table) == 2 * (2 + 4)
    for n, prompts in attention.items():
        total = np.sum(prompts, axis=0)  # (heads, N)
        for head in range(2):
            rows = table[(table["frames"] == n) & (table["head"] == str(head))]
            share = np.array([total[head, at].sum() / total[head].sum() for _, at in parts_of_frames(VIDEO[n])])
            np.testing.assert_allclose(rows["share"], share, rtol=1e-6)
            np.testing.assert_allclose(rows["ratio"], share * n, rtol=1e-6)
            assert (rows["ratio_lo"] < rows["ratio"]).all() and (rows["n"] == len(prompts)).all()


def test_intervals_cover_an_even_share_about_as_often_as_they_say():
    covered = []
    for seed in range(30):
        table = frame_mass(simulate("none", {VIDEO[4]: 40}, seed=seed, content=QUIET).maps)
        covered += ((table["ratio_lo"] <= 1) & (table["ratio_hi"] >= 1)).tolist()
    assert 0.88 <= np.mean(covered) <= 0.99


def test_single_images_have_no_frames():
    maps = simulate("none", {ONE: 12}).maps
    for run in (frame_order, frame_mass):
        with pytest.raises(InputError, match="needs prompts of several frames: collect with frames=True"):
            run(maps)
    tables, skipped = diagnose(maps)
    assert not {"frame_order", "frame_mass"} & (set(tables) | set(skipped))
    tables, skipped = diagnose(simulate("none", {VIDEO[2]: 12}).maps)
    assert {"frame_order", "frame_mass", "mass"} <= set(tables)
    assert "frame_order" in diagnose(maps, names=["frame_order"])[1]
