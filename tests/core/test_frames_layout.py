"""Layouts of several frames: each token is where it is in its own frame, and the file says the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from biaslab.core.frames import FramesLayout, frames_layout, parts_of_frames
from biaslab.core.layout import TokenLayout
from biaslab.core.neighbours import neighbours
from biaslab.errors import InputError

ONE = TokenLayout.raster(2, 3, size=(30, 20), family="toy")
TILED = TokenLayout.tiled(1, 2, (2, 2), size=(80, 40), family="toy", thumbnail=True)
NEWLINES = TokenLayout.unpadded((1, 1), (2, 3), size=(90, 60), family="toy", window=(0, 2, 0, 3), thumbnail_grid=(1, 1))


@pytest.mark.parametrize("parts", [[ONE] * 3, [TILED, TILED], [ONE, TILED, ONE], [NEWLINES, NEWLINES]])
def test_every_token_is_where_it_is_in_its_own_frame(parts):
    layout = frames_layout(parts)
    assert layout.n == sum(part.n for part in parts) == len(layout.frame)
    walked = [(k, i) for k, part in enumerate(parts) for i in range(part.n)]
    for at, (k, i) in enumerate(walked):
        assert layout.frame[at] == k
        for name in ("tile", "row", "col", "thumbnail"):
            assert getattr(layout, name)[at] == getattr(parts[k], name)[i]
        assert layout.boxes[at] == pytest.approx(parts[k].boxes[i])
        assert layout.centers_px[at] == pytest.approx(parts[k].centers_px[i])
        before = sum(part.placeholders for part in parts[:k])
        assert layout.placeholder_index[at] == before + parts[k].placeholder_index[i]
    assert layout.placeholders == sum(part.placeholders for part in parts)
    assert [at.tolist() for _, at in parts_of_frames(layout)] == [
        [at for at, (k, _) in enumerate(walked) if k == frame] for frame in range(len(parts))
    ]
    back = TokenLayout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert isinstance(back, FramesLayout) and back.key == layout.key
    assert np.array_equal(back.frame, layout.frame) and np.array_equal(back.boxes, layout.boxes)


def test_the_key_tells_number_and_kind_of_the_frames():
    assert frames_layout([ONE] * 2).key == "toy/2x3/tiles1x1/frames2"
    keys = {frames_layout(p).key for p in ([ONE] * 2, [ONE] * 3, [ONE, TILED], [TILED, ONE])}
    assert len(keys) == 4


def test_a_single_frame_is_its_own_layout():
    assert frames_layout([ONE]) is ONE
    assert [(part is ONE, at.tolist()) for part, at in parts_of_frames(ONE)] == [(True, list(range(6)))]


def test_split_is_the_inverse_of_putting_frames_together():
    layout = frames_layout([ONE, TILED])
    assert [x.tolist() for x in layout.split([0, 5, 6, 17])] == [[0, 5], [0, 11]]


def test_frames_of_two_families_or_none_are_refused():
    other = TokenLayout.raster(2, 3, size=(30, 20), family="other")
    for parts in ([], [ONE, other]):
        with pytest.raises(InputError, match="at least one, all of one family"):
            frames_layout(parts)


def test_cells_of_two_frames_do_not_touch():
    first, second = neighbours(frames_layout([TILED, TILED]))
    one = {tuple(pair) for pair in np.stack(neighbours(TILED), 1)}
    want = one | {(a + TILED.n, b + TILED.n) for a, b in one}
    assert {tuple(pair) for pair in np.stack([first, second], 1)} == want
