"""The study of tilings, on maps with a planted bias over the tiles."""

import argparse

import numpy as np
import pandas as pd
import pytest

from benchmarks.tilings import SEEN, SEEN_BY_MEAN, TRANSPORTED, OneRow, Study, pruned_rows
from biaslab import TokenLayout
from biaslab.maps.simulate import simulate


@pytest.fixture(scope="module")
def study():
    layouts = {
        TokenLayout.tiled(rows, columns, grid=(4, 4), size=(56 * columns, 56 * rows), family="demo", thumbnail=True): 40
        for rows, columns in ((1, 2), (1, 3), (2, 2))
    }
    study = Study.__new__(Study)
    study.options = argparse.Namespace(layers=[1])
    study.maps = simulate("tile-ordered", layouts, strength=1.5).maps
    return study


@pytest.mark.slow
def test_unseen_tilings_are_predicted_by_what_carries_over(study):
    *rows, whole = study.explained(0)
    assert [row["tiling"] for row in rows] == ["2 x 1", "3 x 1", "2 x 2"] and whole["tiling"] == "all"
    assert [row["n"] for row in rows] == [40, 40, 40] and whole["n"] == 120
    for row in (*rows, whole):
        assert all(row[f"{name}, unseen"] <= row[f"{name}, seen"] + 0.02 for name in TRANSPORTED)
        assert row["factorised, unseen"] > row["tile, unseen"] + 0.1  # tiles differ in order, which `tile` cannot know
        assert all(row[f"{name}, seen"] <= row["mean, seen"] + 0.02 for name in SEEN)


@pytest.mark.slow
def test_an_unseen_prediction_knows_nothing_of_the_tiling(study, monkeypatch):
    """Other attention to one tiling changes what is seen of it, not what the others predict for it."""
    before = {row["tiling"]: row for row in study.explained(0)}
    asked = []
    from biaslab.profiles.estimators.tile import TileProfile

    log_map = TileProfile.log_map

    def noted(self, parts, layout):
        asked.append((layout.key, {part.layout.key for part in parts}))
        return log_map(self, parts, layout)

    monkeypatch.setattr(TileProfile, "log_map", noted)
    again = {row["tiling"]: row for row in study.explained(0)}
    assert before == again
    alone = [key not in others for key, others in asked]
    assert sum(alone) == 3 and len(alone) > 3


def test_regions_and_trend_of_planted_tiles(study):
    rows = study.regions()
    assert [row["layer"] for row in rows] == list(study.maps.layers)
    low = float(rows[0]["trend"].split("[")[1].split(",")[0])
    assert low > 0.2 and {"thumbnail", "tile_border", "border"} <= rows[0].keys()
    assert np.isfinite(float(rows[0]["thumbnail"].split()[0]))


def test_a_trend_of_the_sequence_is_seen_in_one_row_of_tiles(study):
    assert sorted(layout.tiles for layout in OneRow(study.maps).layouts.values()) == [(1, 2), (1, 3)]
    assert OneRow(study.maps).layers == study.maps.layers
    low = float(study.regions()[0]["flat"].split("[")[1].split(",")[0])
    assert low > 0.2


def test_profiles_are_held_against_that_of_all_tilings():
    rng = np.random.default_rng(0)
    good, bad = (rng.random(300) < 0.9).astype(float), (rng.random(300) < 0.5).astype(float)
    columns = {(k, "relative", name): good for k in (1, 4) for name in (SEEN_BY_MEAN, "tile, seen")}
    columns |= {(1, "relative", "tile, unseen"): bad, (1, "fastv", "-"): bad}
    rows = pruned_rows(pd.DataFrame(columns), [str(i) for i in range(300)])
    p = {(row["layer"], row["profile"]): row.get("p") for row in rows}
    assert p[1, "tile, unseen"] < 0.01 and p[4, "tile, seen"] == 1
    assert p[1, "-"] is None and p[1, SEEN_BY_MEAN] is None
