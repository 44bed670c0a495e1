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
from biaslab.profiles import DEBIAS, debias
from biaslab.pruning.base import budget, check_keep

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.datasets import Dataset
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

logger = logging.getLogger(__name__)


def score_ranking(
    vlm: VLM,
    dataset: Dataset,
    layers: int | Sequence[int] | None = None,
    profile: Profile | None = None,
    ops: Sequence[str] | None = None,
    batch_size: int = 8,
    n: int | None = None,
    heads: str | Mapping[int, int] = "mean",
    keep: Sequence[float | int] = (0.1,),
    n_resamples: int = 2000,
    progress: bool = True,
    *,
    strength: float | Mapping[int, float] = 1.0,
    score: str | Callable = "attention",
    n_sign_flips: int = 10_000,
) -> pd.DataFrame:
    """AUROC of the last prompt token's attention for the target's tokens, raw and debiased, per layer.

    :func:`ranking_values` and the table made of them; the parameters are explained there.

    Parameters
    ----------
    n_resamples
        Resamples of images for the intervals.
    n_sign_flips
        Sign flips of images for the p-values of the gains.

    Returns
    -------
    DataFrame
        As `ranking_table`: one row per layer, op and head with AUROC and kept shares, their
        intervals, and the paired gains over "raw" with p-values, each alone and family-wise over the table.

    Raises
    ------
    InputError, ProfileMismatchError
        Before any work.
    """
    measured = ranking_values(
        vlm, dataset, layers, profile, ops, batch_size, n, heads, keep, progress, strength=strength, score=score
    )
    return ranking_table(measured, n_resamples=n_resamples, n_sign_flips=n_sign_flips)


def ranking_values(
    vlm: VLM,
    dataset: Dataset,
    layers: int | Sequence[int] | None = None,
    profile: Profile | None = None,
    ops: Sequence[str] | None = None,
    batch_size: int = 8,
    n: int | None = None,
    heads: str | Mapping[int, int] = "mean",
    keep: Sequence[float | int] = (0.1,),
    progress: bool = True,
    *,
    strength: float | Mapping[int, float] = 1.0,
    score: str | Callable = "attention",
) -> RankingValues:
    """AUROC and kept share of every sample, layer, operation and head, from which tables are made.

    One forward per batch, unpruned, in which every layer's row is captured.

    Parameters
    ----------
    layers
        Decoder layers whose attention is scored; default all. (A pruning method at layer K reads layer K - 1.)
    profile
        Expected attention of each position; needed by every operation but ``"raw"``.
    ops
        ``"raw"`` and names of debias operations; default ``("raw", "ratio")`` with a profile, else ``("raw",)``.
    n
        The first samples only.
    heads
        ``"mean"``: the mean over heads, as pruning methods score. ``"all"``: every head for itself. A mapping of layer
        to head: that one only, chosen on *other* data by :func:`best_heads`.
    keep
        Ratios or counts at which the share of the target's tokens among the best-scored is measured.
    strength
        How much of the expectation is removed, in [0, 1], as in :func:`biaslab.profiles.debias`; or a mapping that has
        one for every layer, chosen on *other* data by :func:`biaslab.profiles.strength.choose_strength`.
    score
        What is captured, as in :func:`biaslab.capture`: a name or a callable. The profile must be fitted on the same.

    Returns
    -------
    RankingValues
        Samples that fail are NaN there, and marked.

    Raises
    ------
    InputError, ProfileMismatchError
        Before any work.
    """
    layers = resolve_layers(layers, vlm.n_layers, "the decoder")
    if batch_size < 1:
        raise InputError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    for ratio in keep:  # refused here, because an error inside the loop would count as a failed sample
        check_keep(ratio)
    ops = _operations(ops, profile)
    n_heads = vlm.model.config.get_text_config().num_attention_heads
    chosen = _chosen_heads(heads, layers, n_heads)
    strengths = _strengths(strength, layers)
    resolve(score)
    if profile is not None and set(ops) != {RAW}:
        asked = {"model": vlm.name, "revision": vlm.revision, "family": vlm.family.name, "score": score_name(score)}
        for layer in layers:
            profile.check(**asked, layer=layer, queries="last", heads="mean" if heads == "mean" else n_heads)

    def measure(batch: Sequence[Sample]) -> list[np.ndarray]:
        encoded = vlm.encode_grounding([load_image(s) for s in batch], [s.expression for s in batch])
        with capture(vlm, layers, queries="last", heads="mean" if heads == "mean" else "all", score=score) as rows:
            vlm.forward(encoded, logits_to_keep=1, use_cache=False)
        found = []
        # one transfer per batch; what follows ranks and sorts on the CPU
        for sample, (layout, attention) in zip(batch, rows.per_image(encoded, layers, device="cpu"), strict=True):
            target = target_tokens(layout, sample.box)
            scores = [
                _scores(own, layout, layer, ops, profile, strengths[layer])
                for layer, own in zip(layers, attention, strict=True)
            ]
            if chosen is not None:
                scores = [s[:, [chosen[layer]]] for layer, s in zip(layers, scores, strict=True)]
            found.append(np.stack([_measures(s, target, keep) for s in scores]))
        return found

    samples = take(dataset, n)
    labels = [[chosen[layer]] if chosen else ["mean"] if heads == "mean" else list(range(n_heads)) for layer in layers]
    values = np.full((len(samples), len(layers), len(ops), len(labels[0]), 1 + len(keep)), np.nan)
    failed = np.zeros(len(samples), bool)
    with progress_bar("rank", total=len(samples), show=progress) as advance:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            for i, found in enumerate(_one_by_one_if_need_be(batch, measure), start):
                failed[i] = found is None
                values[i] = np.nan if found is None else found
            advance(len(batch))
    return RankingValues(
        values=values,
        layers=layers,
        ops=ops,
        heads=labels,
        measures=["auroc", *(f"kept@{ratio:g}" for ratio in keep)],
        ids=np.array([s.id for s in samples]),
        images=np.array([s.image_id for s in samples], dtype=str),
        centres=np.array([centre_of(s) for s in samples]),
        failed=failed,
    )


def centre_of(sample: Sample) -> tuple[float, float]:
    """Centre of the target's box, x and y as shares of the picture's width and height."""
    x, y = sample.box.center
    return x / sample.width, y / sample.height


def best_heads(ranking: pd.DataFrame, op: str = RAW) -> dict[int, int]:
    """The head with the highest AUROC of each layer, from ``score_ranking(..., heads='all')``.

    Choose on one split and report on another: the best of many heads is flattered by its own choice.
    """
    rows = ranking[(ranking["op"] == op) & (ranking["head"] != "mean")].dropna(subset="auroc")
    if rows.empty:
        raise InputError(f"no heads with op {op!r} in this ranking: make it with score_ranking(..., heads='all')")
    best = rows.loc[rows.groupby("layer")["auroc"].idxmax()]
    return {int(layer): int(head) for layer, head in zip(best["layer"], best["head"], strict=True)}


def _operations(ops: Sequence[str] | None, profile: Profile | None) -> list[str]:
    if ops is None:
        ops = (RAW,) if profile is None else (RAW, "ratio")
    for op in ops:
        if op != RAW and op not in DEBIAS:
            raise InputError(f"unknown operation {op!r}: choose among {', '.join([RAW, *DEBIAS])}")
        if op != RAW and profile is None:
            raise InputError(f"operation {op!r} needs a profile: pass profile=, or ops=['raw']")
    return list(ops)


def _chosen_heads(heads: Any, layers: Sequence[int], n_heads: int) -> Mapping[int, int] | None:
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
        found = {layer: float(strength[layer]) for layer in layers}
    else:
        found = dict.fromkeys(layers, float(strength))
    if wrong := [value for value in found.values() if not 0 <= value <= 1]:
        raise InputError(f"strength must lie in [0, 1], got {wrong[0]}: 1 removes the expectation fully")
    return found


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
    attention: Tensor, layout: TokenLayout, layer: int, ops: Sequence[str], profile: Profile | None, strength: float
) -> np.ndarray:
    """(ops, heads, tokens) scores of one sample and layer."""
    values = [attention if op == RAW else _debiased(attention, layout, layer, op, profile, strength) for op in ops]
    return torch.stack(values).numpy()


def _debiased(attention: Tensor, layout: TokenLayout, layer: int, op: str, profile: Profile, strength: float) -> Tensor:
    std = profile.std(layout, layer) if DEBIAS[op].needs_std else None
    return debias(attention, profile.expected(layout, layer), std, operation=op, strength=strength)


def _measures(scores: np.ndarray, target: np.ndarray, keep: Sequence[float | int]) -> np.ndarray:
    """(ops, heads, 1 + keeps): AUROC, then the kept share at each keep."""
    best = target[np.argsort(-scores, axis=-1, kind="stable")]
    total = target.sum() or np.nan  # a target without tokens has no share
    kept = [best[..., : budget(ratio, target.size)].sum(-1) / total for ratio in keep]
    return np.stack([auroc(scores, target), *kept], axis=-1)
