"""Trend of attention from the first frame of a video to the last."""

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

__all__ = ["frame_order"]


@register("frame_order", "Slope of log attention from the first frame to the last", frames=True)
def frame_order(maps: Maps, *, layers: int | Iterable[int] | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Fit the least-squares slope of log attention, centred per prompt, against the frame's place in the video.

    The place of frame k of F is (k + 1/2) / F, so that videos of many frames and of few are pooled; the slope is what
    separates the very beginning from the very end. Every prompt has its own level.

    Intervals: delete-one-fold jackknife over prompts with Student's t; streamed moments are enough.

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
        One row per layer and head: layer, head, slope (log attention per video), slope_lo, slope_hi, per_video (factor,
        ``exp(slope)``), share (of the variance between frame means that the line explains), n (prompts), folds.

    Raises
    ------
    InputError
        No prompt of several frames.

    References
    ----------
    The bias that AdaTP calls global: arXiv 2505.20100.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.core.frames import frames_layout
    >>> from biaslab.diagnostics.measures.frame_order import frame_order
    >>> from biaslab.maps.simulate import simulate
    >>> video = frames_layout([TokenLayout.raster(4, 4, size=(64, 64), family="internvl")] * 8)
    >>> maps = simulate("none", [(video, 40)], frames=2.0).maps
    >>> frame_order(maps)[["slope", "slope_lo", "slope_hi", "share", "n"]].round(2)
       slope  slope_lo  slope_hi  share   n
    0   1.46      1.32       1.6   0.81  40
    """
    expect_maps(maps)
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        sums = [totals for layouts in fold_means(maps, layer, log=True) if (totals := _sums(layouts)) is not None]
        if not sums:
            raise InputError("frame order needs prompts of several frames: collect with frames=True")
        cross, power, around = (np.stack([s[k] for s in sums]) for k in range(3))  # (folds, H)
        slope = cross.sum(0) / power.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            without = (cross.sum(0) - cross) / (power.sum(0) - power)
            share = slope**2 * power.sum(0) / around.sum(0)
        lo, hi = jackknife_interval(slope, without, confidence=confidence)
        for h, head in enumerate(head_names(maps)):
            rows.append(
                {"layer": layer, "head": head, "slope": slope[h], "slope_lo": lo[h], "slope_hi": hi[h],
                 "per_video": np.exp(slope[h]), "share": share[h], "n": sum(s[3] for s in sums), "folds": len(sums)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _sums(layouts: list) -> tuple | None:
    """(H,) products of place and frame means, squares of place, squares of frame means; prompts."""
    columns = []
    for layout, n, mean in layouts:
        if not isinstance(layout, FramesLayout):
            continue
        frames = parts_of_frames(layout)
        level = np.stack([mean[:, at[part.in_image]].mean(1) for part, at in frames], axis=1)  # (H, F)
        place = (np.arange(len(frames)) + 0.5) / len(frames)
        x, y = place - place.mean(), level - level.mean(1, keepdims=True)
        columns.append((n * (y @ x), np.full(len(mean), n * float(x @ x)), n * (y**2).sum(1), n))
    return tuple(sum(column) for column in zip(*columns, strict=True)) if columns else None
