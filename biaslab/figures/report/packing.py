"""What the viewer reads, in few bytes: images, token layouts and maps of attention as text in base64."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from biaslab.core.layout import TokenLayout
from biaslab.evaluation.kept_tokens import token_mask

__all__ = ["packed_layout", "packed_map", "picture_uri"]

#: longest side of an image in a report, pixels
SIDE = 448
#: bytes of an image in a report, before base64
PICTURE_BYTES = 11_000
_QUALITIES = (82, 70, 58, 46, 34, 22)


def picture_uri(image: Image.Image, *, side: int = SIDE, limit: int = PICTURE_BYTES) -> str:
    """Write an image as a ``data:`` address, small enough for a page with many.

    Parameters
    ----------
    image : PIL image
    side : int
        Longest side, pixels; larger images are scaled down.
    limit : int
        Bytes; the quality is lowered, then the size, until the file has no more.

    Returns
    -------
    str
        JPEG.

    Examples
    --------
    >>> from PIL import Image
    >>> from biaslab.figures.report.packing import picture_uri
    >>> picture_uri(Image.new("RGB", (64, 48)))[:23]
    'data:image/jpeg;base64,'
    """
    image = image.convert("RGB")
    while True:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            file = io.BytesIO()
            small.save(file, "JPEG", quality=quality, optimize=True)
            if file.tell() <= limit:
                return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
        side = 3 * max(small.size) // 4  # noise that no quality makes small


def packed_layout(layout: TokenLayout) -> dict[str, Any]:
    """Write where each visual token lies: the distinct columns and rows of cells, and which of them each token has.

    Parameters
    ----------
    layout : TokenLayout

    Returns
    -------
    dict
        JSON-ready. ``n`` tokens; ``xs``, ``ys``: ends of the distinct columns and rows, in fractions of the image,
        pair after pair; ``at``: column and row of each token, numbers of 16 bits; ``thumbnail``: mask of the tokens
        that show the whole image once more, or None; ``tiles``: outline of each tile but the thumbnail.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.figures.report.packing import packed_layout
    >>> layout = TokenLayout.tiled(1, 2, (1, 1), size=(128, 64), family="demo", thumbnail=True)
    >>> packed = packed_layout(layout)
    >>> packed["xs"], packed["ys"], packed["at"], packed["thumbnail"]
    ([0.0, 0.5, 0.0, 1.0, 0.5, 1.0], [0.0, 1.0], 'AAAAAAIAAAABAAAA', 'BA==')
    >>> packed["tiles"]
    [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    """
    boxes = layout.boxes.round(5)
    columns, column = np.unique(boxes[:, [0, 2]], axis=0, return_inverse=True)
    rows, row = np.unique(boxes[:, [1, 3]], axis=0, return_inverse=True)
    at = np.stack([column.reshape(-1), row.reshape(-1)], axis=1).astype("<u2")
    tiles = [boxes[(layout.tile == tile) & ~layout.thumbnail] for tile in np.unique(layout.tile[~layout.thumbnail])]
    return {
        "n": layout.n,
        "xs": columns.reshape(-1).tolist(),
        "ys": rows.reshape(-1).tolist(),
        "at": base64.b64encode(at.tobytes()).decode("ascii"),
        "thumbnail": token_mask(np.flatnonzero(layout.thumbnail), layout.n) if layout.thumbnail.any() else None,
        "tiles": [[*cells[:, :2].min(0).tolist(), *cells[:, 2:].max(0).tolist()] for cells in tiles],
        "key": layout.key,
    }


def packed_map(values: np.ndarray) -> dict[str, Any]:
    """Write maps of attention in 8 bits a token, each map relative to its own largest value.

    Parameters
    ----------
    values : (maps, N) array
        Not negative.

    Returns
    -------
    dict
        ``max``: largest value of each map; ``data``: the bytes, map after map. A value is off by at most 1/510 of the
        largest of its map.

    Examples
    --------
    >>> from biaslab.figures.report.packing import packed_map
    >>> packed_map([[0.0, 0.1, 0.2]])
    {'max': [0.2], 'data': 'AID/'}
    """
    values = np.asarray(values, np.float64)
    largest = values.max(axis=1)
    scaled = np.divide(values, largest[:, None], out=np.zeros_like(values), where=largest[:, None] > 0)
    data = np.round(255 * scaled).astype(np.uint8)
    return {
        "max": [float(f"{value:.5g}") for value in largest],
        "data": base64.b64encode(data.tobytes()).decode("ascii"),
    }
