"""The rows of ``results.csv``, and of tables of differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab.evaluation.configurations import UNPRUNED
from biaslab.evaluation.layer_tokens import mean_share_of
from biaslab.evaluation.paired import MEANS, MEDIANS, Paired, without_box
from biaslab.evaluation.schema import KEY_FIELDS
from biaslab.stats.hit_rate import hit_rate
from biaslab.stats.paired_hits import paired_hits
from biaslab.stats.resampling import ImageBootstrap
from biaslab.stats.yes_no import YesNo

__all__ = [
    "COLUMNS",
    "QUESTION_COLUMNS",
    "accuracy_column",
    "columns_of",
    "difference_rows",
    "summary_columns",
    "table_rows",
]

COLUMNS = [
    "dataset", "split", "expression_type", "model", "method", "options_hash", "profile_hash", "keep", "layer", "seed",
    "n", "errors", "unparsed", "truncated", "acc50", "acc50_lo", "acc50_hi", "miou",
    "retention", "retention_lo", "retention_hi", "p_vs_reference", "target_auroc", "target_kept", "mean_share",
    "tflops_vision", "tflops_projector", "tflops_decoder", "prefill_ms", "decode_ms", "peak_mb",
]  # fmt: skip

_YES_NO = ("yes_precision", "yes_recall", "yes_f1", "yes_f1_lo", "yes_f1_hi", "yes_share")
#: of a run on questions: ``accuracy`` is the share of right answers, and there is no IoU
QUESTION_COLUMNS = [
    column.replace("acc50", "accuracy")
    for name in COLUMNS
    if name != "miou"
    for column in (list(_YES_NO) if name == "p_vs_reference" else []) + [name]
]
_SUMMARY = (
    "method", "keep", "layer", "n", "errors", "unparsed", "truncated", "acc50", "acc50_lo", "acc50_hi",
    "accuracy", "accuracy_lo", "accuracy_hi", "yes_f1", "yes_share", "retention", "p_vs_reference", "target_auroc",
    "target_kept",
)  # fmt: skip


def columns_of(run: Mapping[str, Any]) -> list[str]:
    """List the columns of a run's table."""
    return QUESTION_COLUMNS if run["identity"]["dataset"].get("task") == "questions" else COLUMNS


def accuracy_column(run: Mapping[str, Any]) -> str:
    """Name the column of a run's accuracy: ``acc50`` (IoU of at least 0.5), of questions ``accuracy``."""
    return "accuracy" if columns_of(run) is QUESTION_COLUMNS else "acc50"


def summary_columns(table: pd.DataFrame) -> list[str]:
    """List the main columns of a table; mean_share where there are several layers, of questions those with a value."""
    columns = [name for name in _SUMMARY if name in table]
    if "accuracy" in table:
        said = ("yes_f1", "yes_share", "target_auroc", "target_kept")
        columns = [name for name in columns if name not in said or table[name].notna().any()]
    if table["layer"].nunique() > 1:  # a keep is another cost at another layer
        columns.insert(columns.index("layer") + 1, "mean_share")
    return columns


def table_rows(
    run: dict[str, Any],
    expression_type: str,
    paired: Paired,
    reference: str | None,
    yes_no: Callable[[pd.Index], tuple[Sequence[bool | None], Sequence[bool]] | None],
) -> Iterator[dict[str, Any]]:
    """Make the rows of one type of expression (category of question), one per configuration.

    ``yes_no`` tells of some rows of the samples, where all are yes/no questions, what was said and what is right.
    """
    identity, bootstrap = run["identity"], paired.bootstrap
    n_layers = run["settings"].get("n_layers")  # earlier versions did not note it
    accuracy = hit_rate(paired.hits, paired.images, bootstrap=bootstrap)
    unpruned = paired.find(UNPRUNED)
    retention = None if unpruned is None else bootstrap.ratio(paired.hits, paired.hits[:, [unpruned]])
    pairs = paired.pairs(reference)
    p_values = dict(zip((i for i, _ in pairs), paired.p_values(pairs), strict=True))
    name = accuracy_column(run)
    for i, config in enumerate(paired.configs):
        lines = paired.lines(i)
        row: dict[str, Any] = {
            "dataset": identity["dataset"]["name"],
            "split": identity["dataset"]["split"],
            "expression_type": expression_type,
            "model": identity["model"]["name"],
            **{field: config[field] for field in KEY_FIELDS},
            "seed": identity["options"]["seed"],
            "n": len(lines),
            "errors": paired.errors[i],
            **without_box(lines),
            "miou": lines["iou"].mean(),
            "mean_share": mean_share_of(lines, config, n_layers),
            "p_vs_reference": p_values.get(i, float("nan")),
            **dict(zip((name, f"{name}_lo", f"{name}_hi"), (np.asarray(part)[i] for part in accuracy), strict=True)),
            **{column: lines[column].mean() for column in MEANS},
            **{column: lines[column].median() for column in MEDIANS},
            "peak_mb": lines["peak_mb"].max(),
        }
        if retention is not None:
            row |= zip(
                ("retention", "retention_lo", "retention_hi"),
                (np.asarray(part)[i] for part in retention),
                strict=True,
            )
        if name == "accuracy" and (answers := yes_no(lines.index)) is not None:
            row |= _yes_no_row(*answers, bootstrap)
        yield row


def _yes_no_row(said: Sequence[bool | None], right: Sequence[bool], bootstrap: ImageBootstrap) -> dict[str, Any]:
    counts = YesNo.of(said, right)
    f1 = bootstrap.ratio(*YesNo.f1_parts(said, right))
    return {
        "yes_precision": counts.precision, "yes_recall": counts.recall, "yes_share": counts.yes_share,
        **dict(zip(("yes_f1", "yes_f1_lo", "yes_f1_hi"), f1, strict=True)),
    }  # fmt: skip


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
