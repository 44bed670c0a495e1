"""The rows of ``results.csv``, and of tables of differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from biaslab.evaluation.configurations import UNPRUNED
from biaslab.evaluation.layer_tokens import mean_share_of
from biaslab.evaluation.paired import MEANS, MEDIANS, Paired, without_box
from biaslab.evaluation.schema import KEY_FIELDS
from biaslab.stats.hit_rate import hit_rate
from biaslab.stats.paired_hits import paired_hits

__all__ = ["COLUMNS", "difference_rows", "table_rows"]

COLUMNS = [
    "dataset", "split", "expression_type", "model", "method", "options_hash", "profile_hash", "keep", "layer", "seed",
    "n", "errors", "unparsed", "truncated", "acc50", "acc50_lo", "acc50_hi", "miou",
    "retention", "retention_lo", "retention_hi", "p_vs_reference", "target_auroc", "target_kept", "mean_share",
    "tflops_vision", "tflops_projector", "tflops_decoder", "prefill_ms", "decode_ms", "peak_mb",
]  # fmt: skip


def table_rows(
    run: dict[str, Any], expression_type: str, paired: Paired, reference: str | None
) -> Iterator[dict[str, Any]]:
    """Make the rows of one type of expression, one per configuration."""
    identity, bootstrap = run["identity"], paired.bootstrap
    n_layers = run["settings"].get("n_layers")  # earlier versions did not note it
    accuracy = hit_rate(paired.hits, paired.images, bootstrap=bootstrap)
    unpruned = paired.find(UNPRUNED)
    retention = None if unpruned is None else bootstrap.ratio(paired.hits, paired.hits[:, [unpruned]])
    pairs = paired.pairs(reference)
    p_values = dict(zip((i for i, _ in pairs), paired.p_values(pairs), strict=True))
    for i, config in enumerate(paired.configs):
        lines = paired.lines(i)
        row = {
            "dataset": identity["dataset"]["name"],
            "split": identity["dataset"]["split"],
            "expression_type": expression_type,
            "model": identity["model"]["name"],
            **{name: config[name] for name in KEY_FIELDS},
            "seed": identity["options"]["seed"],
            "n": len(lines),
            "errors": paired.errors[i],
            **without_box(lines),
            "miou": lines["iou"].mean(),
            "mean_share": mean_share_of(lines, config, n_layers),
            "p_vs_reference": p_values.get(i, float("nan")),
            **dict(zip(("acc50", "acc50_lo", "acc50_hi"), (np.asarray(part)[i] for part in accuracy), strict=True)),
            **{name: lines[name].mean() for name in MEANS},
            **{name: lines[name].median() for name in MEDIANS},
            "peak_mb": lines["peak_mb"].max(),
        }
        if retention is not None:
            row |= zip(
                ("retention", "retention_lo", "retention_hi"),
                (np.asarray(part)[i] for part in retention),
                strict=True,
            )
        yield row


def difference_rows(paired: Paired, reference: str, expression_type: str) -> Iterator[dict[str, Any]]:
    """Make the rows of the differences to a reference method."""
    pairs = paired.pairs(reference)
    if not pairs:
        return
    mine, others = ([pair[side] for pair in pairs] for side in (0, 1))
    found = paired_hits(paired.hits[:, mine], paired.hits[:, others], paired.images, bootstrap=paired.bootstrap)
    numbers = np.column_stack([*(np.asarray(part) for part in found), paired.p_values(pairs)])
    for i, row in zip(mine, numbers.tolist(), strict=True):
        yield {
            **{name: paired.configs[i][name] for name in KEY_FIELDS},
            "reference": reference,
            "expression_type": expression_type,
            "n": len(paired.hits),
            **dict(zip(("difference", "difference_lo", "difference_hi", "p"), row, strict=True)),
        }
