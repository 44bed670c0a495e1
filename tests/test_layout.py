"""Layouts against loops that walk tokens one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.boxes import Box
from biaslab.errors import InputError
from biaslab.layout import TokenLayout

small = st.integers(1, 4)


def walk(tile_rows, tile_cols, rows, cols, thumbnail):
    """Token by token in sequence order: tile, row, column, thumbnail flag, cell in fractions."""
    tiles = [(r, c) for r in range(tile_rows) for c in range(tile_cols)]
    for number, (tr, tc) in enumerate(tiles):
        for r in range(rows):
            for c in range(cols):
                x, y = (tc + c / cols) / tile_cols, (tr + r / rows) / tile_rows
                cell = (x, y, x + 1 / cols / tile_cols, y + 1 / rows / tile_rows)
                yield number, r, c, False, cell
    if thumbnail:
        for r in range(rows):
            for c in range(cols):
                yield len(tiles), r, c, True, (c / cols, r / rows, (c + 1) / cols, (r + 1) / rows)


@settings(deadline=None)
@given(small, small, small, small, st.booleans())
def test_tiled_against_a_walk(tile_rows, tile_cols, rows, cols, thumbnail):
    layout = TokenLayout.tiled(tile_rows, tile_cols, (rows, cols), (640, 480), "internvl", thumbnail)
    expected = list(walk(tile_rows, tile_cols, rows, cols, thumbnail))
    assert layout.n == len(layout) == len(expected)
    for k, (tile, row, col, thumb, cell) in enumerate(expected):
        assert (layout.tile[k], layout.row[k], layout.col[k], layout.thumbnail[k]) == (tile, row, col, thumb)
        assert layout.boxes[k] == pytest.approx(cell)
    assert layout.inside.all()
    assert layout.centers_px[0] == pytest.approx([320 / cols / tile_cols, 240 / rows / tile_rows])


def test_raster_of_a_padded_square():
    # a 300x100 picture in a 300x300 square: it fills the middle third of six rows
    layout = TokenLayout.raster(6, 6, (300, 100), "llava", region=(0, -1, 1, 2))
    assert layout.inside.reshape(6, 6).tolist() == [[r in (2, 3)] * 6 for r in range(6)]
    assert layout.centers_px.reshape(6, 6, 2)[2, 0] == pytest.approx([25, 25])
    assert layout.boxes.reshape(6, 6, 4)[0, 0, 1] == pytest.approx(-1)


def test_cells_cut_by_padding_are_inside():
    layout = TokenLayout.raster(3, 1, (10, 5), "llava", region=(0, -0.5, 1, 1.5))
    assert layout.inside.tolist() == [True, True, True]


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(-50, 700)] * 2),
    st.tuples(*[st.floats(1, 300)] * 2),
    st.booleans(),
)
def test_overlap_covers_the_box_area(corner, extent, thumbnail):
    layout = TokenLayout.tiled(2, 3, (4, 5), (640, 480), "internvl", thumbnail)
    box = Box.from_xywh(*corner, *extent)
    share = layout.overlap(box)
    assert ((share >= 0) & (share <= 1 + 1e-12)).all()
    tiles = ~layout.thumbnail
    areas = np.where(tiles, 640 * 480 / 120, 640 * 480 / 20)
    inside = box.clip((640, 480)).area
    assert (share * areas)[tiles].sum() == pytest.approx(inside, abs=1e-6)
    if thumbnail:
        assert (share * areas)[~tiles].sum() == pytest.approx(inside, abs=1e-6)


def test_key_means_equal_arrangement():
    a = TokenLayout.tiled(2, 2, (4, 4), (640, 480), "internvl", True)
    b = TokenLayout.tiled(2, 2, (4, 4), (123, 99), "internvl", True)
    assert a.key == b.key == "internvl/4x4/tiles2x2+thumb"
    others = [
        TokenLayout.tiled(2, 2, (4, 4), (640, 480), "internvl", False),
        TokenLayout.tiled(1, 4, (4, 4), (640, 480), "internvl", True),
        TokenLayout.tiled(2, 2, (2, 8), (640, 480), "internvl", True),
        TokenLayout.tiled(2, 2, (4, 4), (640, 480), "other", True),
        TokenLayout.raster(4, 4, (640, 480), "internvl"),
    ]
    assert len({a.key, *(o.key for o in others)}) == 6


def irregular():
    """A raster whose tokens come column by column."""
    base = TokenLayout.raster(2, 3, (60, 40), "odd")
    order = [0, 3, 1, 4, 2, 5]
    arrays = {name: getattr(base, name)[order] for name in ("tile", "row", "col", "thumbnail", "boxes")}
    return TokenLayout(**arrays, grid=(2, 3), tiles=(1, 1), size=(60, 40), family="odd")


def test_another_order_of_tokens_has_another_key():
    assert irregular().key.startswith("odd/2x3/tiles1x1#")


@pytest.mark.parametrize(
    "layout",
    [
        TokenLayout.tiled(2, 3, (4, 4), (300, 200), "internvl", True),
        TokenLayout.raster(3, 5, (51, 33), "llava", region=(-0.1, 0, 1.1, 1)),
        irregular(),
    ],
    ids=["tiled", "padded", "irregular"],
)
def test_json_round_trip(layout):
    back = TokenLayout.from_dict(json.loads(json.dumps(layout.to_dict())))
    for name in ("tile", "row", "col", "thumbnail", "boxes", "inside"):
        assert np.array_equal(getattr(back, name), getattr(layout, name)), name
    for name in ("grid", "tiles", "size", "family", "region", "key"):
        assert getattr(back, name) == getattr(layout, name), name


def test_arrays_cannot_be_changed():
    layout = TokenLayout.raster(2, 2, (10, 10), "x")
    with pytest.raises(ValueError, match="read-only"):
        layout.row[0] = 5


def test_bad_layouts_are_refused():
    with pytest.raises(InputError, match="grid"):
        TokenLayout.raster(0, 3, (10, 10), "x")
    with pytest.raises(InputError, match="size"):
        TokenLayout.raster(2, 2, (10,), "x")
    with pytest.raises(InputError, match="not a token layout"):
        TokenLayout.from_dict({"grid": [2, 2]})
    with pytest.raises(InputError, match="row"):
        TokenLayout([0, 0], [0], [0, 1], [False] * 2, np.zeros((2, 4)), (1, 2), (1, 1), (9, 9), "x")
