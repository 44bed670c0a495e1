"""Share of the most attended tokens of a video that lies in its first and in its last frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.arguments import at_least_one
from biaslab.core.frames import FramesLayout
from biaslab.core.layers import resolve_layers
from biaslab.diagnostics.log_maps import check_readable, head_names, not_finite
from biaslab.diagnostics.registry import register
from biaslab.errors import InputError
from biaslab.maps.base import picture_of
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.stats.resampling import ImageBootstrap

__all__ = ["frame_top"]


@register("frame_top", "Most attended tokens in the first and last frames", stored=True, frames=True)
def frame_top(
    maps: Maps,
    *,
    layers: int | Iterable[int] | None = None,
    confidence: float = 0.95,
    top: float = 0.1,
    ends: int | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure which share of the most attended tokens of a prompt lies in its first and in its last frames.

    Of every prompt the ``top`` share of the tokens of all its frames with most attention are counted (of equal ones at
    the margin each counts in part), then averaged over prompts. Unlike `frame_mass` it hears nothing of how much more
    these tokens draw than others, so that a few sinks do not decide it. It is what pruning by attention keeps of these
    frames under one budget for all. Videos of different numbers of frames have rows apart.

    Intervals: percentile bootstrap over videos; questions on one video are drawn together.

    Parameters
    ----------
    maps : Maps
        Stored, of ``collect(..., frames=True, out=folder)``.
    layers : int or iterable of int, optional
        Default all that ``maps`` holds.
    confidence : float
        Of the intervals, in (0, 1).
    top : float
        Share of the tokens that count, in (0, 1).
    ends : int, optional
        Frames at each end; default an eighth of them, one at least: 4 of 32, as published.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Two rows per layer, head and number of frames: layer, head, frames, end ("first" or "last"), span (frames
        counted), share, share_lo, share_hi (of the most attended tokens), even (share of all tokens), ratio, ratio_lo,
        ratio_hi (share over even), n (prompts).

    Raises
    ------
    InputError
        Streamed maps, no prompt of several frames, or an option out of its range.

    References
    ----------
    AdaTP, arXiv 2505.20100: in layer 1 of LLaVA-OneVision-7B 86.8 % of the most attended tenth lie in the last 4 of 32
    frames.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab import TokenLayout
    >>> from biaslab.core.frames import frames_layout
    >>> from biaslab.maps.base import ImageRecord
    >>> from biaslab.maps.stored import StoredMaps
    >>> video = frames_layout([TokenLayout.raster(4, 4, size=(64, 64), family="internvl")] * 4)
    >>> rng = np.random.default_rng(0)
    >>> with TemporaryDirectory() as folder:
    ...     maps = StoredMaps.create(folder + "/maps", {"layers": [0], "heads": "mean", "folds": 5, "model": "toy"})
    ...     with maps.writing():
    ...         for i in range(30):
    ...             attention = np.exp(rng.standard_normal(video.n) + 2 * (video.frame == 3))
    ...             maps.add(ImageRecord(f"v{i}", video, str(i)), attention[None, None].astype(np.float32))
    ...     frame_top(maps)[["frames", "end", "span", "share", "share_lo", "share_hi", "even"]].round(2)
       frames    end  span  share  share_lo  share_hi  even
    0       4  first     1   0.03      0.01      0.06  0.25
    1       4   last     1   0.92      0.89      0.96  0.25
    """
    expect_maps(maps)
    check_readable(maps)
    if isinstance(top, bool) or not isinstance(top, (int, float)) or not 0 < top < 1:
        raise InputError(f"top is a share of the tokens in (0, 1), got {top!r}")
    if ends is not None:
        at_least_one("ends", ends)
    readable: Any = maps
    records = [readable.record(i) for i in range(maps.n)]
    groups: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        if isinstance(record.layout, FramesLayout):
            groups.setdefault(record.layout.n_frames, []).append(i)
    if not groups:
        raise InputError("the most attended frames need prompts of several frames: collect with frames=True")
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        for count, which in sorted(groups.items()):
            span = max(1, count // 8) if ends is None else min(ends, count)
            layouts = [records[i].layout for i in which]
            shares = np.stack([_shares(readable, i, layer, top) for i in which])  # (n, H, F)
            tokens = np.stack([_tokens(layout) for layout in layouts])  # (n, F)
            bootstrap = ImageBootstrap(
                [picture_of(records[i].id) for i in which], n_resamples=n_resamples, confidence=confidence, seed=seed
            )
            each = {"first": slice(0, span), "last": slice(count - span, count)}
            found = {
                end: _interval(bootstrap, shares[..., at].sum(-1), tokens[:, at].sum(-1)) for end, at in each.items()
            }
            rows += [
                {"layer": layer, "head": head, "frames": count, "end": end, "span": span,
                 **{name: values[h] for name, values in found[end].items()}, "n": len(which)}
                for h, head in enumerate(head_names(maps)) for end in each
            ]  # fmt: skip
    return pd.DataFrame(rows)


def _interval(bootstrap: ImageBootstrap, drawn: np.ndarray, even: np.ndarray) -> dict[str, np.ndarray]:
    """Estimate shares of (n, H) and their ratio to the share under uniform attention (n,): arrays (H,)."""
    flat = np.repeat(even[:, None], drawn.shape[1], axis=1)
    share, ratio = bootstrap.mean(drawn), bootstrap.ratio(drawn, flat)
    return {
        "share": np.asarray(share.value), "share_lo": np.asarray(share.lo), "share_hi": np.asarray(share.hi),
        "even": flat.mean(0), "ratio": np.asarray(ratio.value), "ratio_lo": np.asarray(ratio.lo),
        "ratio_hi": np.asarray(ratio.hi),
    }  # fmt: skip


def _shares(maps: Any, index: int, layer: int, top: float) -> np.ndarray:
    """Share of the most attended tokens in each frame of a prompt: (H, F)."""
    values, layout = np.asarray(maps.image(index, layer), np.float64), maps.record(index).layout
    if not np.isfinite(values).all():
        raise not_finite(layer)
    counted = max(1, round(top * layout.n))
    least = np.partition(values, layout.n - counted, axis=1)[:, layout.n - counted, None]
    above, equal = values > least, values == least
    weight = above + equal * ((counted - above.sum(1)) / equal.sum(1))[:, None]
    return np.stack([weight[:, layout.frame == k].sum(1) for k in range(layout.n_frames)], axis=1) / counted


def _tokens(layout: FramesLayout) -> np.ndarray:
    """Share of the tokens in each frame: (F,)."""
    return np.bincount(layout.frame, minlength=layout.n_frames) / layout.n
