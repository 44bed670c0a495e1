"""Trend of attention from the first frame of a video to the last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from biaslab.core.frames import FramesLayout, parts_of_frames
from biaslab.diagnostics.registry import register
from biaslab.diagnostics.slopes import Sums, slope_table, sums_over
from biaslab.maps.protocol import Maps

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
    return slope_table(
        maps, _sums, unit="video", layers=layers, confidence=confidence,
        refused="frame order needs prompts of several frames: collect with frames=True",
    )  # fmt: skip


def _sums(layout: Any, n: int, mean: np.ndarray) -> Sums | None:
    if not isinstance(layout, FramesLayout):
        return None
    frames = parts_of_frames(layout)
    level = np.stack([mean[:, at[part.in_image]].mean(1) for part, at in frames], axis=1)  # (H, F)
    return sums_over((np.arange(len(frames)) + 0.5) / len(frames), level, n)
