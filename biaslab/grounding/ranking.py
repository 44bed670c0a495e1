"""How well attention ranks the target's tokens, layer by layer, without generating anything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..capture import CapturedRows, capture
from ..errors import InputError
from ..images import load_image
from ..profiles import DEBIAS, debias
from ..progress import progress_bar
from ..pruning import budget
from .metrics import auroc, kept_share, target_tokens
from .runner import take
from .sample import Sample
from .statistics import ImageBootstrap

if TYPE_CHECKING:
    from ..layout import TokenLayout
    from ..models.vlm import VLM
    from ..profiles import Profile
    from .datasets import Dataset

RAW = "raw"

logger = logging.getLogger(__name__)


def score_ranking(
    vlm: VLM,
    dataset: Dataset,
    layers: int | Sequence[int] | None = None,
    profile: Profile | None = None,
    ops: Sequence[str] | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    heads: str | Mapping[int, int] | None = "mean",
    keep: Sequence[float | int] = (0.1,),
    n_boot: int = 2000,
    progress: bool = True,
) -> pd.DataFrame:
    """AUROC of the last prompt token's attention for the target's tokens, raw and debiased, per layer.

    One forward per batch, unpruned, in which every layer's row is captured.

    Parameters
    ----------
    layers
        Decoder layers whose attention is scored; default all. (A pruning method at layer K reads layer K - 1.)
    profile
        Expected attention of each position; needed by every operation but ``"raw"``.
    ops
        ``"raw"`` and names of debias operations; default ``("raw", "ratio")`` with a profile, else ``("raw",)``.
    heads
        ``"mean"``: the mean over heads, as pruning methods score. None: every head for itself. A mapping of layer to
        head: that one only, chosen on *other* data by :func:`best_heads`.
    keep
        Ratios or counts at which the share of the target's tokens among the best-scored is reported.

    Returns
    -------
    DataFrame
        One row per layer, op and head: layer, op, head ("mean" or a number), n, errors, auroc, auroc_lo, auroc_hi
        (bootstrap over images), and ``kept@<keep>`` for every ``keep``. Samples whose target covers no token or all
        of them have no AUROC and are left out of ``n``; samples that fail are counted in ``errors``.

    Raises
    ------
    InputError, ProfileMismatchError
        Before any work.
    """
    layers = list(range(vlm.n_layers)) if layers is None else [layers] if isinstance(layers, int) else list(layers)
    if batch_size < 1:
        raise InputError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    if unknown := [layer for layer in layers if not 0 <= layer < vlm.n_layers]:
        raise InputError(f"no layer {unknown[0]}: this model has layers 0 .. {vlm.n_layers - 1}")
    ops = _operations(ops, profile)
    chosen = _chosen_heads(heads, layers)
    if profile is not None and set(ops) != {RAW}:
        n_heads = vlm.model.config.get_text_config().num_attention_heads
        asked = {"model": vlm.name, "revision": vlm.revision, "family": vlm.family.name}
        for layer in layers:
            profile.check(**asked, layer=layer, queries="last", heads="mean" if heads == "mean" else n_heads)

    def score(batch: Sequence[Sample]) -> list[np.ndarray]:
        encoded = vlm.encode_grounding([load_image(s) for s in batch], [s.expression for s in batch])
        with capture(vlm, layers, queries="last", heads="mean" if heads == "mean" else None) as rows:
            vlm.forward(encoded, logits_to_keep=1, use_cache=False)
        return [
            _sample_scores(rows, b, sample, encoded.layouts[b], layers, ops, profile, keep, chosen)
            for b, sample in enumerate(batch)
        ]

    samples = take(dataset, limit)
    found: list[np.ndarray] = []
    images: list[str] = []
    with progress_bar("rank", len(samples), 0, progress) as advance:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            for sample, values in zip(batch, _one_by_one_if_need_be(batch, score), strict=True):
                if values is not None:
                    found.append(values)
                    images.append(sample.image_id)
            advance(len(batch))
    n_heads = found[0].shape[2] if found else 1
    labels = [[chosen[layer]] if chosen else ["mean"] if heads == "mean" else list(range(n_heads)) for layer in layers]
    return _table(found, images, len(samples), layers, ops, labels, keep, n_boot)


def best_heads(ranking: pd.DataFrame, op: str = RAW) -> dict[int, int]:
    """The head with the highest AUROC of each layer, from ``score_ranking(..., heads=None)``.

    Choose on one split and report on another: the best of many heads is flattered by its own choice.
    """
    rows = ranking[(ranking["op"] == op) & (ranking["head"] != "mean")].dropna(subset="auroc")
    if rows.empty:
        raise InputError(f"no heads with op {op!r} in this ranking: make it with score_ranking(..., heads=None)")
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


def _chosen_heads(heads: Any, layers: Sequence[int]) -> Mapping[int, int] | None:
    """Layer -> head where one head per layer is asked for."""
    if heads is None or heads == "mean":
        return None
    if not isinstance(heads, Mapping) or not set(layers) <= set(heads):
        raise InputError("heads must be 'mean', None (each), or a mapping that has a head for every layer")
    return heads


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


def _sample_scores(
    rows: CapturedRows,
    b: int,
    sample: Sample,
    layout: TokenLayout,
    layers: Sequence[int],
    ops: Sequence[str],
    profile: Profile | None,
    keep: Sequence[float | int],
    chosen: Mapping[int, int] | None,
) -> np.ndarray:
    """(layers, ops, heads, 1 + keeps): AUROC, then the kept share at each keep."""
    target = target_tokens(layout, sample.box)
    out = []
    for layer in layers:
        attention = rows[layer].values[b, :, 0, : layout.n]
        per_op = []
        for op in ops:
            values = attention if op == RAW else _debiased(attention, layout, layer, op, profile)
            values = values if chosen is None else values[[chosen[layer]]]
            scores = values.cpu().numpy()
            order = np.argsort(-scores, axis=-1, kind="stable")
            kept = [[kept_share(row[: budget(ratio, layout.n)], target) for ratio in keep] for row in order]
            per_op.append(np.column_stack([auroc(scores, target), np.array(kept).reshape(len(scores), -1)]))
        out.append(per_op)
    return np.array(out)


def _debiased(attention: Any, layout: TokenLayout, layer: int, op: str, profile: Profile) -> Any:
    expected = profile.expected(layout, layer, device=attention.device)
    spread = profile.spread(layout, layer, device=attention.device) if DEBIAS[op].needs_spread else None
    return debias(attention, expected, spread, op=op)


def _table(
    found: list[np.ndarray],
    images: list[str],
    n_samples: int,
    layers: Sequence[int],
    ops: Sequence[str],
    heads: Sequence[Sequence[int | str]],
    keep: Sequence[float | int],
    n_boot: int,
) -> pd.DataFrame:
    """``heads`` are the labels of the head axis, per layer."""
    values = np.stack(found) if found else np.empty((0, len(layers), len(ops), len(heads[0]), 1 + len(keep)))
    bootstrap = ImageBootstrap(images, n_boot)
    shape = values.shape[1:]
    flat = values[..., 0].reshape(len(values), int(np.prod(shape[:-1])))
    auc, low, high = (np.reshape(part, shape[:-1]) for part in bootstrap.mean(flat))
    shares = _nan_mean(values[..., 1:])
    counts = np.isfinite(values[..., 0]).sum(0)
    rows = []
    for at in np.ndindex(shape[:-1]):
        rows.append(
            {
                "layer": layers[at[0]],
                "op": ops[at[1]],
                "head": heads[at[0]][at[2]],
                "n": int(counts[at]),
                "errors": n_samples - len(found),
                "auroc": auc[at],
                "auroc_lo": low[at],
                "auroc_hi": high[at],
                **{f"kept@{ratio:g}": shares[at][k] for k, ratio in enumerate(keep)},
            }
        )
    return pd.DataFrame(rows)


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(finite, values, 0).sum(0) / finite.sum(0)
