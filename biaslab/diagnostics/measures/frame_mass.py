"""Attention that each frame of a video draws, relative to uniform attention."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from biaslab.core.frames import FramesLayout, parts_of_frames
from biaslab.core.layers import resolve_layers
from biaslab.diagnostics.log_maps import fold_means, head_names
from biaslab.diagnostics.registry import register
from biaslab.errors import InputError
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.stats.jackknife import jackknife_interval

__all__ = ["frame_mass"]


@register("frame_mass", "Attention share of each frame over that under uniform attention", frames=True)
def frame_mass(maps: Maps, *, layers: int | Iterable[int] | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Measure the share of visual attention that each frame draws, over the share of the tokens that it has.

    1 is even attention. A ratio of sums over prompts: one that draws more attention as a whole counts more. Videos of
    different numbers of frames have rows apart.

    Intervals: delete-one-fold jackknife over prompts of the log ratio with Student's t; streamed moments are enough.

    Parameters
    ----------
    maps : Maps
        Stored or streamed, of ``collect(..., frames=True)``.
    layers : int or iterable of int, optional
        Default all that ``maps`` holds.
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row per layer, head, number of frames and frame: layer, head, frames, frame (from 0), share, even, ratio,
        ratio_lo, ratio_hi, n (prompts), folds.

    Raises
    ------
    InputError
        No prompt of several frames.

    References
    ----------
    AdaTP, arXiv 2505.20100, finds that in LLaVA-OneVision the last 4 of 32 frames draw most attention.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.core.frames import frames_layout
    >>> from biaslab.diagnostics.measures.frame_mass import frame_mass
    >>> from biaslab.maps.simulate import simulate
    >>> video = frames_layout([TokenLayout.raster(4, 4, size=(64, 64), family="internvl")] * 3)
    >>> maps = simulate("none", [(video, 40)], frames=1.0).maps
    >>> frame_mass(maps)[["frames", "frame", "even", "ratio", "ratio_lo", "ratio_hi", "n"]].round(2)
       frames  frame  even  ratio  ratio_lo  ratio_hi   n
    0       3      0  0.33   0.74      0.68      0.81  40
    1       3      1  0.33   0.92      0.75      1.12  40
    2       3      2  0.33   1.34      1.21      1.48  40
    """
    expect_maps(maps)
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        folds = [_sums(layouts) for layouts in fold_means(maps, layer, log=False)]
        counts = sorted({count for sums in folds for count in sums})
        if not counts:
            raise InputError("frame mass needs prompts of several frames: collect with frames=True")
        for count in counts:
            drawn, even, whole = (np.stack([sums[count][k] for sums in folds if count in sums]) for k in range(3))
            n = sum(sums[count][3] for sums in folds if count in sums)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.log(drawn.sum(0) / even.sum(0))  # (H, F)
                without = np.log((drawn.sum(0) - drawn) / (even.sum(0) - even))
                share, fair = drawn.sum(0) / whole.sum(0), even.sum(0) / whole.sum(0)
            lo, hi = jackknife_interval(ratio, without, confidence=confidence)
            for h, head in enumerate(head_names(maps)):
                rows += [
                    {"layer": layer, "head": head, "frames": count, "frame": k, "share": share[h, k],
                     "even": fair[h, k], "ratio": np.exp(ratio[h, k]), "ratio_lo": np.exp(lo[h, k]),
                     "ratio_hi": np.exp(hi[h, k]), "n": n, "folds": len(drawn)}
                    for k in range(count)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def _sums(layouts: list) -> dict[int, tuple]:
    """Give by number of frames: (H, F) attention on each frame, the same if even, attention on all; prompts."""
    found: dict[int, list[tuple]] = {}
    for layout, n, mean in layouts:
        if not isinstance(layout, FramesLayout):
            continue
        frames = parts_of_frames(layout)
        drawn = n * np.stack([mean[:, at].sum(1) for _, at in frames], axis=1)
        whole = np.repeat(drawn.sum(1, keepdims=True), len(frames), axis=1)
        tokens = np.array([part.n for part, _ in frames]) / layout.n
        found.setdefault(len(frames), []).append((drawn, whole * tokens, whole, n))
    return {count: tuple(sum(column) for column in zip(*rows, strict=True)) for count, rows in found.items()}
