"""Boxes against a count of pixels, spaces against their inverse, and the first box of an answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import from_pixels

from biaslab.core.boxes import Box, BoxSpace, box_iou, find_box
from biaslab.errors import InputError

corner = st.integers(0, 12)
boxes = st.tuples(corner, corner, corner, corner)


def pixels(box, n=12):
    """Mask of the unit pixels a box with integer corners covers."""
    grid = np.zeros((n, n), bool)
    x0, y0, x1, y1 = box
    if x1 > x0 and y1 > y0:
        grid[y0:y1, x0:x1] = True
    return grid


@settings(deadline=None)
@given(boxes, boxes)
def test_iou_counts_pixels(a, b):
    pa, pb = pixels(a), pixels(b)
    union = (pa | pb).sum()
    expected = (pa & pb).sum() / union if union else 0.0
    assert box_iou(np.array(a), np.array(b)) == pytest.approx(expected)
    assert Box(*a).iou(Box(*b)) == pytest.approx(expected)


def test_iou_broadcasts_to_all_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 10, (3, 4)), rng.uniform(0, 10, (5, 4))
    pairs = box_iou(a[:, None], b[None])
    assert pairs.shape == (3, 5)
    for i, j in np.ndindex(3, 5):
        assert pairs[i, j] == pytest.approx(Box(*a[i]).iou(Box(*b[j])))
    with pytest.raises(InputError, match="last axis of 4"):
        box_iou(np.zeros(3), np.zeros(4))


def test_edges_are_continuous():
    box = Box.from_xywh(10, 20, 30, 40)
    assert box == Box(10, 20, 40, 60)
    assert (box.width, box.height, box.area, box.center) == (30, 40, 1200, (25, 40))
    # shifted by half its width: 15 of 45 columns are shared; a +1 convention would say 16 of 46
    assert box.iou(Box(25, 20, 55, 60)) == pytest.approx(1 / 3)


def test_reversed_box_is_kept_and_misses():
    box = Box(40, 10, 10, 40)
    assert box.as_tuple() == (40, 10, 10, 40)
    assert box.area == 0 and box.iou(Box(10, 10, 40, 40)) == 0 and box.iou(box) == 0
    # reversed in both directions: a product of two negative lengths must not count as an area
    assert Box(40, 40, 10, 10).iou(Box(40, 40, 10, 10)) == 0


def test_clip():
    assert Box(-5, 3, 120, 90).clip((100, 50)) == Box(0, 3, 100, 50)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "x", None])
def test_bad_coordinates_are_refused(bad):
    with pytest.raises(InputError, match="y1"):
        Box(0, 0, 1, bad)


@pytest.mark.parametrize(
    ("space", "values", "expected"),
    [
        (BoxSpace.PIXEL, (10, 20, 30, 40), (10, 20, 30, 40)),
        (BoxSpace.NORM1000, (100, 200, 500, 1000), (40, 40, 200, 200)),
        (BoxSpace.NORM1, (0.1, 0.2, 0.5, 1.0), (40, 40, 200, 200)),
        # 400x200 in a 400x400 square: 100 rows of padding above
        (BoxSpace.PADDED_SQUARE, (0.1, 0.25, 0.5, 0.75), (40, 0, 200, 200)),
        # seen at 100x100
        (BoxSpace.RESIZED, (10, 20, 50, 100), (40, 40, 200, 200)),
    ],
)
def test_spaces(space, values, expected):
    box = space.to_pixels(values, size=(400, 200), resized=(100, 100))
    assert box.as_tuple() == pytest.approx(expected)
    assert from_pixels(space, box, (400, 200), resized=(100, 100)) == pytest.approx(values)


@settings(deadline=None)
@given(
    st.sampled_from(list(BoxSpace)),
    st.tuples(*[st.floats(0, 500)] * 4),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_spaces_invert(space, values, size, resized):
    box = Box(*values)
    back = space.to_pixels(from_pixels(space, box, size, resized), size=size, resized=resized)
    assert back.as_tuple() == pytest.approx(values, abs=1e-6)


def test_padding_uses_whole_pixels():
    # 3 pixels of padding in all: 1 on the left
    assert BoxSpace.PADDED_SQUARE.to_pixels((0, 0, 1, 1), size=(7, 10)).as_tuple() == (-1, 0, 9, 10)


def test_spaces_need_sizes():
    with pytest.raises(InputError, match="resized="):
        BoxSpace.RESIZED.to_pixels((0, 0, 1, 1), size=(10, 10))
    with pytest.raises(InputError, match="positive"):
        BoxSpace.NORM1.to_pixels((0, 0, 1, 1), size=(0, 10))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[120, 40, 580, 990]]", (120, 40, 580, 990)),
        ("<ref>the cat</ref><box>[[1,2,3,4]]</box>", (1, 2, 3, 4)),
        ('```json\n[{"bbox_2d": [17, 5.5, 90, 101], "label": "cat"}]\n```', (17, 5.5, 90, 101)),
        ("It is at [0.12, .5, 0.62, 1.00].", (0.12, 0.5, 0.62, 1.0)),
        ("[1, 2] then [ -3 , 4 , 5 , 6 ] and [7, 8, 9, 10]", (-3, 4, 5, 6)),
        ("[[1, 2, 3, 4], [5, 6, 7, 8]]", (1, 2, 3, 4)),
        ("[1, 2, 3]", None),
        ("[1, 2, 3, 4, 5]", None),
        ("[1, 2, 3, four]", None),
        ("[[120, 40, 58", None),
        ("", None),
    ],
)
def test_find_box(text, expected):
    assert find_box(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat(176,106),(232,160)", (176, 106, 232, 160)),
        ("<|box_start|>( 1 , 2.5 ) , (3, 4)<|box_end|>", (1, 2.5, 3, 4)),
        ("(1,2),(3,4) and (5,6),(7,8)", (1, 2, 3, 4)),
        ("[9, 8, 7, 6] or (1,2),(3,4)", (9, 8, 7, 6)),
        ("(1,2),(3,4) or [9, 8, 7, 6]", (1, 2, 3, 4)),
        ("(1,2)(3,4)", None),
        ("(1,2),(3", None),
        ("(1,2,3,4)", None),
    ],
)
def test_find_corners(text, expected):
    assert find_box(text, corners=True) == expected
    if "[" not in text:
        assert find_box(text) is None, "only families that write corners are read so"
