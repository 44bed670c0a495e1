"""Which token of the thumbnail shows a token of a tile, against a search over boxes."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from methods import layout_of

from biaslab.core.frames import frames_layout
from biaslab.core.layout import TokenLayout
from biaslab.core.sub_layout import sub_layout
from biaslab.core.thumbnails import thumbnail_tokens


def search(layout, small):
    """The last of ``small`` whose cell, borders included, holds a token's centre; its own in the thumbnail."""
    found = []
    for i, (x, y) in enumerate(layout.centers):
        holding = [
            j for j in small
            if layout.boxes[j, 0] - 1e-9 <= x <= layout.boxes[j, 2] + 1e-9
            and layout.boxes[j, 1] - 1e-9 <= y <= layout.boxes[j, 3] + 1e-9
        ]  # fmt: skip
        found.append(i if layout.thumbnail[i] else max(holding, default=-1))
    return found


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_by_search(family):
    layout = layout_of(family)
    small = np.flatnonzero(layout.thumbnail)
    want = search(layout, small) if small.size else list(range(layout.n))
    assert thumbnail_tokens(layout).tolist() == want
    assert small.size or family not in ("internvl", "idefics3", "llava_next", "llava_onevision")


@pytest.mark.parametrize(("tiles", "grid"), [((2, 3), (4, 4)), ((1, 5), (3, 2)), ((3, 1), (16, 16))])
def test_whole_tilings_by_arithmetic(tiles, grid):
    layout = TokenLayout.tiled(*tiles, grid, size=(640, 480), family="internvl", thumbnail=True)
    first = tiles[0] * tiles[1] * grid[0] * grid[1]
    for i, found in enumerate(thumbnail_tokens(layout)[:first]):
        down, across = divmod(int(layout.tile[i]), tiles[1])
        row, col = (down * grid[0] + layout.row[i]) // tiles[0], (across * grid[1] + layout.col[i]) // tiles[1]
        assert found == first + row * grid[1] + col


def test_a_missing_token_is_nobodys():
    whole = TokenLayout.tiled(1, 2, (2, 2), size=(128, 64), family="internvl", thumbnail=True)
    left = np.array([0, 2, 4, 7, 9, 10])  # of the thumbnail the upper right and the lower left
    assert thumbnail_tokens(sub_layout(whole, left)).tolist() == [-1, 5, 4, -1, 4, 5]
    only = sub_layout(whole, np.arange(8))
    assert thumbnail_tokens(only).tolist() == list(range(8))


def test_frames_have_thumbnails_of_their_own():
    tiled = TokenLayout.tiled(1, 2, (2, 2), size=(128, 64), family="internvl", thumbnail=True)
    single = TokenLayout.tiled(1, 1, (2, 2), size=(64, 64), family="internvl", thumbnail=False)
    own = thumbnail_tokens(tiled)
    both = thumbnail_tokens(frames_layout([tiled, single, tiled]))
    assert both.tolist() == [*own, *range(12, 16), *(own + 16)]
