"""Layouts against loops that walk tokens one by one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

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
    layout = TokenLayout.tiled(
        tile_rows, tile_cols, (rows, cols), size=(640, 480), family="internvl", thumbnail=thumbnail
    )
    expected = list(walk(tile_rows, tile_cols, rows, cols, thumbnail))
    assert layout.n == len(layout) == len(expected)
    for k, (tile, row, col, thumb, cell) in enumerate(expected):
        assert (layout.tile[k], layout.row[k], layout.col[k], layout.thumbnail[k]) == (tile, row, col, thumb)
        assert layout.boxes[k] == pytest.approx(cell)
    assert layout.in_image.all()
    assert layout.centers_px[0] == pytest.approx([320 / cols / tile_cols, 240 / rows / tile_rows])


def test_raster_of_a_padded_square():
    # a 300x100 image in a 300x300 square: it fills the middle third of six rows
    layout = TokenLayout.raster(6, 6, size=(300, 100), family="llava", region=(0, -1, 1, 2))
    assert layout.in_image.reshape(6, 6).tolist() == [[r in (2, 3)] * 6 for r in range(6)]
    assert layout.centers_px.reshape(6, 6, 2)[2, 0] == pytest.approx([25, 25])
    assert layout.boxes.reshape(6, 6, 4)[0, 0, 1] == pytest.approx(-1)


def test_cells_cut_by_padding_are_inside():
    layout = TokenLayout.raster(3, 1, size=(10, 5), family="llava", region=(0, -0.5, 1, 1.5))
    assert layout.in_image.tolist() == [True, True, True]


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(-50, 700)] * 2),
    st.tuples(*[st.floats(1, 300)] * 2),
    st.booleans(),
)
def test_overlap_covers_the_box_area(corner, extent, thumbnail):
    layout = TokenLayout.tiled(2, 3, (4, 5), size=(640, 480), family="internvl", thumbnail=thumbnail)
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
    a = TokenLayout.tiled(2, 2, (4, 4), size=(640, 480), family="internvl", thumbnail=True)
    b = TokenLayout.tiled(2, 2, (4, 4), size=(123, 99), family="internvl", thumbnail=True)
    assert a.key == b.key == "internvl/4x4/tiles2x2+thumb"
    others = [
        TokenLayout.tiled(2, 2, (4, 4), size=(640, 480), family="internvl", thumbnail=False),
        TokenLayout.tiled(1, 4, (4, 4), size=(640, 480), family="internvl", thumbnail=True),
        TokenLayout.tiled(2, 2, (2, 8), size=(640, 480), family="internvl", thumbnail=True),
        TokenLayout.tiled(2, 2, (4, 4), size=(640, 480), family="other", thumbnail=True),
        TokenLayout.raster(4, 4, size=(640, 480), family="internvl"),
    ]
    assert len({a.key, *(o.key for o in others)}) == 6


def irregular():
    """A raster whose tokens come column by column."""
    base = TokenLayout.raster(2, 3, size=(60, 40), family="odd")
    order = [0, 3, 1, 4, 2, 5]
    arrays = {name: getattr(base, name)[order] for name in ("tile", "row", "col", "thumbnail", "boxes")}
    return TokenLayout(**arrays, grid=(2, 3), tiles=(1, 1), size=(60, 40), family="odd")


def test_another_order_of_tokens_has_another_key():
    assert irregular().key.startswith("odd/2x3/tiles1x1#")


def unpadded():
    return TokenLayout.unpadded(
        (2, 2), (4, 4), size=(200, 150), family="next", window=(1, 7, 0, 8), region=(0, -1 / 6, 1, 7 / 6)
    )


@settings(deadline=None)
@given(small, small, st.integers(2, 4), st.integers(2, 4), st.data())
def test_unpadded_against_a_walk(tile_rows, tile_cols, rows, cols, data):
    high, wide = tile_rows * rows, tile_cols * cols
    top, left = data.draw(st.integers(0, high - 1)), data.draw(st.integers(0, wide - 1))
    bottom, right = data.draw(st.integers(top + 1, high)), data.draw(st.integers(left + 1, wide))
    layout = TokenLayout.unpadded(
        (tile_rows, tile_cols),
        (rows, cols),
        size=(640, 480),
        family="next",
        window=(top, bottom, left, right),
        region=(-0.5, 0, 1.5, 1),
        thumbnail_grid=(2, 3),
    )
    k = slot = 0
    for r in range(2):  # the thumbnail
        for c in range(3):
            assert (layout.tile[k], layout.row[k], layout.col[k]) == (tile_rows * tile_cols, r, c)
            assert layout.thumbnail[k] and layout.placeholder_index[k] == slot
            assert layout.boxes[k] == pytest.approx((c / 3, r / 2, (c + 1) / 3, (r + 1) / 2))
            k, slot = k + 1, slot + 1
    for y in range(top, bottom):
        for x in range(left, right):
            tile = y // rows * tile_cols + x // cols
            assert (layout.tile[k], layout.row[k], layout.col[k]) == (tile, y % rows, x % cols)
            assert not layout.thumbnail[k] and layout.placeholder_index[k] == slot
            cell = (2 * x / wide - 0.5, y / high, 2 * (x + 1) / wide - 0.5, (y + 1) / high)
            assert layout.boxes[k] == pytest.approx(cell)
            k, slot = k + 1, slot + 1
        slot += 1  # the newline
    assert (layout.n, layout.placeholders) == (k, slot)
    back = TokenLayout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert back.key == layout.key and "arrays" not in layout.to_dict()


def test_cover_leaves_a_margin_in_every_tile():
    layout = TokenLayout.tiled(1, 2, (2, 2), size=(200, 100), family="x", thumbnail=True, coverage=0.9)
    assert layout.boxes[3].tolist() == pytest.approx([0.225, 0.45, 0.45, 0.9])
    assert layout.boxes[4].tolist() == pytest.approx([0.5, 0, 0.725, 0.45])
    assert layout.boxes[-1].tolist() == pytest.approx([0.45, 0.45, 0.9, 0.9])
    with pytest.raises(InputError, match="coverage"):
        TokenLayout.tiled(1, 2, (2, 2), size=(200, 100), family="x", thumbnail=True, coverage=1.1)


def test_slots_are_part_of_the_arrangement():
    plain = TokenLayout.raster(2, 2, size=(10, 10), family="x")
    assert plain.placeholder_index.tolist() == [0, 1, 2, 3] and plain.placeholders == 4
    newline = replace(plain, placeholders=5)
    shifted = replace(plain, placeholders=5, placeholder_index=[1, 2, 3, 4])
    gap = replace(plain, placeholders=5, placeholder_index=[0, 1, 3, 4])
    cut = [
        TokenLayout.unpadded((2, 2), (4, 4), size=(9, 9), family="next", window=window)
        for window in ((1, 7, 0, 8), *WINDOWS)
    ]
    keys = [x.key for x in (plain, newline, shifted, gap, *cut)]
    assert len(set(keys)) == len(keys)
    assert cut[0].key == unpadded().key == "next/4x4/tiles2x2+thumb/rows1-7/cols0-8"
    for bad in (
        {"placeholder_index": [0, 1, 1, 2]},
        {"placeholder_index": [0, 1, 2, 4]},
        {"placeholder_index": [-1, 0, 1, 2]},
        {"placeholders": 3},
    ):
        with pytest.raises(InputError, match="placeholder_index"):
            replace(plain, **bad)
    with pytest.raises(InputError, match="placeholder_index"):
        replace(plain, placeholder_index=[0, 1, 2])
    with pytest.raises(InputError, match="window"):
        TokenLayout.unpadded((1, 1), (4, 4), size=(9, 9), family="next", window=(0, 5, 0, 4))


WINDOWS = [(0, 8, 0, 8), (1, 7, 0, 7), (2, 8, 0, 8)]


@pytest.mark.parametrize(
    "layout",
    [
        TokenLayout.tiled(2, 3, (4, 4), size=(300, 200), family="internvl", thumbnail=True),
        TokenLayout.raster(3, 5, size=(51, 33), family="llava", region=(-0.1, 0, 1.1, 1)),
        irregular(),
        unpadded(),
        replace(unpadded(), placeholders=99),
        TokenLayout.unpadded(
            (1, 1),
            (5, 7),
            size=(99, 9),
            family="ov",
            window=(0, 5, 0, 7),
            region=(0, 0, 1.02, 1.02),
            thumbnail_grid=(4, 4),
            coverage=0.98,
        ),
        replace(
            TokenLayout.raster(3, 3, size=(51, 33), family="ov", region=(-0.1, 0, 1.1, 1), coverage=0.9),
            placeholders=10,
        ),
        TokenLayout.tiled(2, 1, (3, 3), size=(51, 33), family="idefics3", thumbnail=True, coverage=0.9),
    ],
    ids=["tiled", "padded", "irregular", "unpadded", "more", "scaled", "single", "margin"],
)
def test_json_round_trip(layout):
    back = TokenLayout.from_dict(json.loads(json.dumps(layout.to_dict())))
    for name in ("tile", "row", "col", "thumbnail", "boxes", "in_image", "placeholder_index"):
        assert np.array_equal(getattr(back, name), getattr(layout, name)), name
    for name in ("grid", "tiles", "size", "family", "region", "key", "placeholders", "thumbnail_grid", "coverage"):
        assert getattr(back, name) == getattr(layout, name), name


def test_arrays_cannot_be_changed():
    layout = TokenLayout.raster(2, 2, size=(10, 10), family="x")
    with pytest.raises(ValueError, match="read-only"):
        layout.row[0] = 5


def test_bad_layouts_are_refused():
    with pytest.raises(InputError, match="grid"):
        TokenLayout.raster(0, 3, size=(10, 10), family="x")
    with pytest.raises(InputError, match="size"):
        TokenLayout.raster(2, 2, size=(10,), family="x")
    with pytest.raises(InputError, match="not a token layout"):
        TokenLayout.from_dict({"grid": [2, 2]})
    with pytest.raises(InputError, match="row"):
        TokenLayout([0, 0], [0], [0, 1], [False] * 2, np.zeros((2, 4)), (1, 2), (1, 1), (9, 9), "x")
