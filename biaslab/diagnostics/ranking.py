"""How well attention ranks the target's tokens, layer by layer, without generating anything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from biaslab._util.progress import progress_bar
from biaslab.attention import debiasing
from biaslab.attention.capture import capture
from biaslab.attention.heads import HEADS
from biaslab.attention.scores import resolve, score_name
from biaslab.core.images import load_image
from biaslab.core.layers import resolve_layers
from biaslab.datasets.base import take
from biaslab.datasets.sample import Sample
from biaslab.diagnostics.ranking_table import RAW, RankingValues, ranking_table
from biaslab.errors import InputError
from biaslab.evaluation.metrics import auroc, target_tokens
from biaslab.pruning.base import budget, check_keep

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.datasets import Dataset
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["best_heads", "centre_of", "ranking_values", "score_ranking"]

logger = logging.getLogger(__name__)


def score_ranking(
    vlm: VLM,
    dataset: Dataset,
    *,
    layers: int | Sequence[int] | None = None,
    heads: str | Mapping[int, int] = "mean",
    score: str | Callable = "attention",
    profile: Profile | None = None,
    debias: Sequence[str] | None = None,
    keep: Sequence[float | int] = (0.1,),
    n: int | None = None,
    batch_size: int = 8,
    progress: bool = True,
    strength: float | Mapping[int, float] = 1.0,
    n_resamples: int = 2000,
    n_sign_flips: int = 10_000,
) -> pd.DataFrame:
    """AUROC of the last prompt token's attention for the target's tokens, raw and debiased, per layer.

    Runs :func:`ranking_values` and makes the table from what it measured.

    Parameters
    ----------
    vlm : VLM
        The model.
    dataset : Dataset
        Expressions with the boxes of their targets; other images than the profile was fitted on.
    layers, heads, score, profile, debias, keep, n, batch_size, progress, strength
        As in :func:`ranking_values`.
    n_resamples : int
        Resamples of images for the intervals.
    n_sign_flips : int
        Sign flips of images for the p-values of the gains.

    Returns
    -------
    DataFrame
        As :func:`~biaslab.diagnostics.ranking_table.ranking_table`: one row per layer, debias and head with AUROC and
        kept shares, their intervals, and the paired gains over "raw" with p-values, each alone and family-wise over
        the table.

    Raises
    ------
    InputError, ProfileMismatchError
        Before any work.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = bl.load_dataset("scenes", split="test", n=4)
    >>> table = bl.score_ranking(bl.load("grounder"), scenes, layers=[2, 5], n_resamples=100, progress=False)
    >>> list(table.columns)[:7]
    ['layer', 'debias', 'head', 'n', 'errors', 'auroc', 'auroc_lo']
    >>> table[["layer", "debias", "head", "n"]].values.tolist()
    [[2, 'raw', 'mean', 4], [5, 'raw', 'mean', 4]]
    """
    values = ranking_values(
        vlm, dataset, layers=layers, heads=heads, score=score, profile=profile, debias=debias, keep=keep, n=n,
        batch_size=batch_size, progress=progress, strength=strength,
    )  # fmt: skip
    return ranking_table(values, n_resamples=n_resamples, n_sign_flips=n_sign_flips)


def ranking_values(
    vlm: VLM,
    dataset: Dataset,
    *,
    layers: int | Sequence[int] | None = None,
    heads: str | Mapping[int, int] = "mean",
    score: str | Callable = "attention",
    profile: Profile | None = None,
    debias: Sequence[str] | None = None,
    keep: Sequence[float | int] = (0.1,),
    n: int | None = None,
    batch_size: int = 8,
    progress: bool = True,
    strength: float | Mapping[int, float] = 1.0,
) -> RankingValues:
    """Measure AUROC and kept share of every sample, layer, operation and head; tables are made from them.

    One forward per batch, unpruned, in which every layer's row is captured.

    Parameters
    ----------
    vlm : VLM
        The model.
    dataset : Dataset
        Expressions with the boxes of their targets.
    layers : int or sequence of int, optional
        Decoder layers whose attention is scored; default all. (A pruning method at layer K reads layer K - 1.)
    heads : "mean", "all" or mapping of int to int
        ``"mean"``: the mean over heads, as pruning methods score. ``"all"``: every head for itself. A mapping of layer
        to head: that one only, chosen on *other* data by :func:`best_heads`.
    score : str or callable
        What is captured, as in :func:`biaslab.capture`. The profile must be fitted on the same.
    profile : Profile, optional
        Expected attention of each position; required by every operation but ``"raw"``.
    debias : sequence of str, optional
        ``"raw"`` and names of debias operations; default ``("raw", "ratio")`` with a profile, else ``("raw",)``.
    keep : sequence of float or int
        Ratios or counts at which the share of the target's tokens among the best-scored is measured.
    n : int, optional
        The first samples only.
    batch_size : int
        Samples per forward.
    progress : bool
        Draw a progress bar.
    strength : float or mapping of int to float
        How much of the expectation is removed, in [0, 1], as in :func:`biaslab.debias`; or a mapping that has one for
        every layer, chosen on *other* data by :func:`biaslab.profiles.strength.choose_strength`.

    Returns
    -------
    RankingValues
        Samples that fail are NaN there, and marked.

    Raises
    ------
    InputError, ProfileMismatchError
        Before any work.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.diagnostics.ranking import ranking_values
    >>> scenes = bl.load_dataset("scenes", split="test", n=3)
    >>> measured = ranking_values(bl.load("grounder"), scenes, layers=5, keep=[0.1, 0.25], progress=False)
    >>> measured.values.shape, measured.debias, measured.measures
    ((3, 1, 1, 1, 3), ['raw'], ['auroc', 'kept@0.1', 'kept@0.25'])
    """
    layers = resolve_layers(layers, vlm.n_layers, "the decoder")
    if batch_size < 1:
        raise InputError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    for ratio in keep:  # refused here, because an error inside the loop would count as a failed sample
        check_keep(ratio)
    operations = _operations(debias, profile)
    config: Any = vlm.model.config
    n_heads = config.get_text_config().num_attention_heads
    head_of = _head_of_layer(heads, layers, n_heads)
    strengths = _strengths(strength, layers)
    resolve(score)
    if profile is not None and set(operations) != {RAW}:
        asked = {"model": vlm.name, "revision": vlm.revision, "fingerprint": vlm.fingerprint,
                 "family": vlm.family.name, "score": score_name(score)}  # fmt: skip
        for layer in layers:
            profile.check(**asked, layer=layer, queries="last", heads="mean" if heads == "mean" else n_heads)

    def measure(batch: Sequence[Sample]) -> list[np.ndarray]:
        encoded = vlm.encode_grounding([load_image(s) for s in batch], [s.expression for s in batch])
        with capture(vlm, layers, queries="last", heads="mean" if heads == "mean" else "all", score=score) as rows:
            vlm.forward(encoded, logits_to_keep=1, use_cache=False)
        measures = []
        # one transfer per batch; what follows ranks and sorts on the CPU
        for sample, (layout, attention) in zip(batch, rows.per_image(encoded, layers, device="cpu"), strict=True):
            target = target_tokens(layout, sample.box)
            scores = [
                _scores(own, layout, layer, operations, profile, strengths[layer])
                for layer, own in zip(layers, attention, strict=True)
            ]
            if head_of is not None:
                scores = [s[:, [head_of[layer]]] for layer, s in zip(layers, scores, strict=True)]
            measures.append(np.stack([_measures(s, target, keep) for s in scores]))
        return measures

    samples = take(dataset, n)
    labels: list[list[int | str]] = [
        [head_of[layer]] if head_of else ["mean"] if heads == "mean" else list(range(n_heads)) for layer in layers
    ]
    values = np.full((len(samples), len(layers), len(operations), len(labels[0]), 1 + len(keep)), np.nan)
    failed = np.zeros(len(samples), bool)
    with progress_bar("rank", total=len(samples), show=progress) as advance:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            for i, measures in enumerate(_one_by_one_if_need_be(batch, measure), start):
                failed[i] = measures is None
                values[i] = np.nan if measures is None else measures
            advance(len(batch))
    return RankingValues(
        values=values,
        layers=layers,
        debias=operations,
        heads=labels,
        measures=["auroc", *(f"kept@{ratio:g}" for ratio in keep)],
        ids=np.array([s.id for s in samples]),
        images=np.array([s.image_id for s in samples], dtype=str),
        centres=np.array([centre_of(s) for s in samples]),
        failed=failed,
    )


def centre_of(sample: Sample) -> tuple[float, float]:
    """Give the centre of the target's box, x and y as shares of the image's width and height."""
    x, y = sample.box.center
    return x / sample.width, y / sample.height


def best_heads(ranking: pd.DataFrame, *, debias: str = RAW) -> dict[int, int]:
    """Choose the head with the highest AUROC of each layer, from ``score_ranking(..., heads='all')``.

    Choose on one split and report on another: the best of many heads is flattered by its own choice.

    Parameters
    ----------
    ranking : DataFrame
        Columns layer, head, debias and auroc.
    debias : str
        The operation by whose AUROC heads are chosen.

    Returns
    -------
    dict of int to int
        Layer -> head.

    Raises
    ------
    InputError
        No rows of single heads with this operation.

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab.diagnostics.ranking import best_heads
    >>> auroc = {"layer": [3, 3, 4, 4], "head": [0, 1, 0, 1], "auroc": [0.6, 0.8, 0.7, 0.5]}
    >>> best_heads(pd.DataFrame(auroc).assign(debias="raw"))
    {3: 1, 4: 0}
    """
    rows = ranking[(ranking["debias"] == debias) & (ranking["head"] != "mean")].dropna(subset="auroc")
    if rows.empty:
        raise InputError(
            f"no heads with debias {debias!r} in this ranking: make it with score_ranking(..., heads='all')"
        )
    best = rows.loc[rows.groupby("layer")["auroc"].idxmax()]
    return {int(layer): int(head) for layer, head in zip(best["layer"], best["head"], strict=True)}


def _operations(debias: Sequence[str] | None, profile: Profile | None) -> list[str]:
    if debias is None:
        debias = (RAW,) if profile is None else (RAW, "ratio")
    for operation in debias:
        if operation != RAW and operation not in debiasing.DEBIAS:
            raise InputError(f"unknown operation {operation!r}: choose among {', '.join([RAW, *debiasing.DEBIAS])}")
        if operation != RAW and profile is None:
            raise InputError(f"operation {operation!r} needs a profile: pass profile=, or debias=['raw']")
    return list(debias)


def _head_of_layer(heads: Any, layers: Sequence[int], n_heads: int) -> Mapping[int, int] | None:
    """Layer -> head where one head per layer is asked for."""
    if isinstance(heads, str) and heads in HEADS:
        return None
    if not isinstance(heads, Mapping) or not set(layers) <= set(heads):
        raise InputError("heads must be 'mean', 'all', or a mapping that has a head for every layer")
    if unknown := [heads[layer] for layer in layers if not 0 <= heads[layer] < n_heads]:
        raise InputError(f"no head {unknown[0]}: this model has heads 0 .. {n_heads - 1}")
    return heads


def _strengths(strength: float | Mapping[int, float], layers: Sequence[int]) -> dict[int, float]:
    """Layer -> strength; refused here for the same reason as ``keep``."""
    if isinstance(strength, Mapping):
        if missing := [layer for layer in layers if layer not in strength]:
            raise InputError(f"strength has no layer {missing[0]}: give one for every layer, or one number for all")
        strengths = {layer: float(strength[layer]) for layer in layers}
    else:
        strengths = dict.fromkeys(layers, float(strength))
    if wrong := [value for value in strengths.values() if not 0 <= value <= 1]:
        raise InputError(f"strength must lie in [0, 1], got {wrong[0]}: 1 removes the expectation fully")
    return strengths


def _one_by_one_if_need_be(
    batch: Sequence[Sample], work: Callable[[Sequence[Sample]], list[np.ndarray]]
) -> Iterator[np.ndarray | None]:
    """Results of a batch; if it fails, of each sample alone, None for the samples that fail."""
    try:
        yield from work(batch)
        return
    except Exception as error:
        if len(batch) == 1:
            logger.warning("sample %s has no ranking: %s: %s", batch[0].id, type(error).__name__, error)
            yield None
            return
    for sample in batch:
        yield from _one_by_one_if_need_be([sample], work)


def _scores(
    attention: Tensor,
    layout: TokenLayout,
    layer: int,
    operations: Sequence[str],
    profile: Profile | None,
    strength: float,
) -> np.ndarray:
    """(operations, heads, tokens) scores of one sample and layer."""
    values = [
        attention if profile is None or name == RAW else _debiased(attention, layout, layer, name, profile, strength)
        for name in operations
    ]
    return torch.stack(values).numpy()


def _debiased(
    attention: Tensor, layout: TokenLayout, layer: int, operation: str, profile: Profile, strength: float
) -> Tensor:
    std = profile.std(layout, layer) if debiasing.DEBIAS[operation].needs_std else None
    return debiasing.debias(attention, profile.expected(layout, layer), std, operation=operation, strength=strength)


def _measures(scores: np.ndarray, target: np.ndarray, keep: Sequence[float | int]) -> np.ndarray:
    """(operations, heads, 1 + keeps): AUROC, then the kept share at each keep."""
    best = target[np.argsort(-scores, axis=-1, kind="stable")]
    total = target.sum() or np.nan  # a target without tokens has no share
    kept = [best[..., : budget(ratio, target.size)].sum(-1) / total for ratio in keep]
    return np.stack([auroc(scores, target), *kept], axis=-1)
