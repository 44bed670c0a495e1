"""Metrics of referring-expression comprehension and of how well a token score finds the target.

Pure numpy: one sample at a time, or many score vectors of one sample at once.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

HIT_IOU = 0.5


def grounding_iou(predicted: Box | None, target: Box) -> float:
    """Measure the IoU of an answer with its target; an answer without a box (``None``) has IoU 0.

    Edges are continuous (no ``+1`` pixel), as in the published RefCOCO tables.

    Examples
    --------
    >>> grounding_iou(Box(0, 0, 10, 10), Box(0, 0, 10, 20)), grounding_iou(None, Box(0, 0, 10, 20))
    (0.5, 0.0)
    """
    if predicted is None:
        return 0.0
    return predicted.iou(target)


def is_hit(iou: float, threshold: float = HIT_IOU) -> bool:
    """Tell whether an IoU counts as a hit: ``iou >= threshold`` (the RefCOCO convention, the edge included)."""
    return bool(iou >= threshold)


def accuracy(ious: np.ndarray, threshold: float = HIT_IOU) -> float:
    """Compute Acc@threshold, the share of IoUs that are hits; NaN for no samples. A miss without a box is IoU 0."""
    ious = np.asarray(ious, float)
    return float((ious >= threshold).mean()) if ious.size else float("nan")


def target_tokens(layout: TokenLayout, target: Box, min_share: float = 0.0) -> np.ndarray:
    """Tell which visual tokens look at the target.

    Parameters
    ----------
    layout : TokenLayout
        Where each of the N visual tokens lies in the image.
    target : Box
        In pixels of the original image.
    min_share : float
        A token belongs to the target when *more* than this share of its cell is covered by the box. The
        default 0 takes every cell the box reaches into; thumbnail cells count like tile cells.

    Returns
    -------
    (N,) bool

    Examples
    --------
    >>> layout = TokenLayout.raster(2, 3, size=(300, 200), family="toy")
    >>> target_tokens(layout, Box(0, 0, 120, 90)).reshape(2, 3).astype(int)
    array([[1, 1, 0],
           [0, 0, 0]])
    """
    return layout.overlap(target) > max(min_share, 1e-9)  # a shared edge is no overlap, whatever its rounding


def auroc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve of scores for the positive tokens, ties counted as one half.

    The Mann-Whitney statistic: the probability that a random positive outranks a random negative.

    Parameters
    ----------
    scores : (..., N)
        Any number of score vectors over the same N tokens; higher means more important. Infinite scores are
        ranked as such; a vector that holds a NaN has no AUROC (NaN).
    positive : (N,) bool
        The target's tokens.

    Returns
    -------
    (...) float64
        NaN everywhere when there is no positive or no negative token: nothing can be ranked.

    Raises
    ------
    InputError
        The shapes do not match.

    Examples
    --------
    >>> auroc(np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]]), np.array([True, False, False]))
    array([1. , 0.5])
    """
    scores = np.asarray(scores, float)
    positive = np.asarray(positive, bool)
    if positive.ndim != 1 or scores.shape[-1:] != positive.shape:
        raise InputError(
            f"auroc: scores {scores.shape} and target {positive.shape} do not match; pass scores (..., N) "
            "and a boolean target (N,)"
        )
    n_pos = int(positive.sum())
    n_neg = positive.size - n_pos
    if n_pos == 0 or n_neg == 0:
        return np.full(scores.shape[:-1], np.nan)
    ranks = rankdata(scores, axis=-1, nan_policy="propagate")  # ties share their mean rank
    below = ranks[..., positive].sum(-1) - n_pos * (n_pos + 1) / 2  # negatives below each positive, summed
    return below / (n_pos * n_neg)


def kept_share(indices: np.ndarray, positive: np.ndarray) -> float:
    """Compute the share of the target's tokens that are kept; NaN when the target has no token.

    Parameters
    ----------
    indices : (n,) int
        Kept visual tokens, indices into the layout.
    positive : (N,) bool
        The target's tokens.
    """
    positive = np.asarray(positive, bool)
    total = int(positive.sum())
    if total == 0:
        return float("nan")
    return float(positive[np.asarray(indices, int)].sum() / total)
