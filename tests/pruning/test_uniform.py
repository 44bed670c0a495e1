"""The even grid over the true image."""

from __future__ import annotations

import math

import numpy as np
from methods import LAYOUTS, TILED, layout_of

from biaslab.core.layout import TokenLayout
from biaslab.pruning.methods.uniform import apportion, uniform_grid


def test_uniform_is_a_regular_grid_where_one_fits():
    layout = TokenLayout.raster(16, 16, size=(448, 448), family="toy")
    kept, rows = uniform_grid(layout, 64)
    assert rows == [8]
    assert sorted(set(layout.row[kept])) == sorted(set(layout.col[kept])) == list(range(1, 16, 2))


def test_uniform_spacing_follows_the_true_picture():
    """The same 16 x 16 tokens over a wide image: fewer rows than columns."""
    wide = TokenLayout.raster(16, 16, size=(1600, 400), family="toy")
    kept, rows = uniform_grid(wide, 64)
    assert rows == [4] and len(set(wide.col[kept])) == 16
    tall, rows = uniform_grid(TokenLayout.raster(16, 16, size=(400, 1600), family="toy"), 64)
    assert rows == [16]


@LAYOUTS
def test_uniform_leaves_no_hole(kind):
    """Exact for every budget; no place of the image is far from a kept token."""
    layout = layout_of(kind)
    for n in range(1, layout.n + 1):
        kept, _ = uniform_grid(layout, n)
        assert len(set(kept.tolist())) == n
        share_of_tiles = n * (~layout.thumbnail).sum() / layout.n
        if share_of_tiles < 2:
            continue
        shown = layout.centers_px[layout.in_image]
        gaps = np.linalg.norm(shown[:, None] - layout.centers_px[kept][None], axis=-1)
        cell = math.sqrt(np.prod(layout.size) / share_of_tiles)  # side of the square each kept token stands for
        assert gaps.min(1).max() < 1.6 * cell


def test_uniform_splits_between_tiles_and_thumbnail_and_spares_padding():
    kept, rows = uniform_grid(TILED, 50)
    assert TILED.thumbnail[kept].sum() == 10 and len(rows) == 2
    padded = TokenLayout.raster(8, 8, size=(400, 200), family="toy", region=(0.0, -0.5, 1.0, 1.5))
    assert padded.in_image.sum() == 32
    kept, _ = uniform_grid(padded, 32)
    assert padded.in_image[kept].all()
    kept, _ = uniform_grid(padded, 40)
    assert padded.in_image[kept].sum() == 32 and len(set(kept.tolist())) == 40


def test_apportion():
    assert apportion([144, 36], 50) == [40, 10]
    assert apportion([1, 1, 1], 2) == [1, 1, 0]
    for total in range(31):
        parts = apportion([7, 3, 20], total)
        assert sum(parts) == total and all(p <= s for p, s in zip(parts, (7, 3, 20), strict=True))
