"""The layout of some of an image's tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout

__all__ = ["sub_layout"]

_EACH = ("tile", "row", "col", "thumbnail", "boxes", "in_image", "placeholder_index")


def sub_layout(layout: TokenLayout, indices: np.ndarray) -> TokenLayout:
    """Make the layout of some tokens; each lies where it lay.

    Parameters
    ----------
    layout : TokenLayout
    indices : (n,) int ndarray
        Ascending positions among its tokens, at least one.

    Returns
    -------
    TokenLayout
        Of the same image, grid and tiles; its key is another's.

    Examples
    --------
    >>> layout = TokenLayout.raster(2, 3, size=(300, 200), family="toy")
    >>> some = sub_layout(layout, np.array([1, 5]))
    >>> some.n, some.centers_px.round(1).tolist()
    (2, [[150.0, 50.0], [250.0, 150.0]])
    """
    names = (*_EACH, "frame") if isinstance(layout, FramesLayout) else _EACH
    return replace(layout, **{name: getattr(layout, name)[indices] for name in names})
