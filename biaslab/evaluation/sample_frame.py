"""All fields of every line of a run as one table of Python objects: what a person looks at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from biaslab.evaluation.paired import MEANS, MEDIANS
from biaslab.evaluation.sample_log import sample_lines
from biaslab.evaluation.schema import LINE_FIELDS, record_key

__all__ = ["keeps", "read_samples"]

# said explicitly, because many fields are null in the lines of errors; the others (texts, lists) stay objects
_DTYPES = {
    **dict.fromkeys(("index", "seed"), "int64"),
    **dict.fromkeys(("layer", "tokens", "tokens_kept", "batch"), "Int64"),
    **dict.fromkeys(("hit", "parsed", "truncated"), "boolean"),
    **dict.fromkeys(("iou", "peak_mb", *MEANS, *MEDIANS), "float64"),
}


def read_samples(folder: str | Path, run: dict[str, Any]) -> pd.DataFrame:
    """Read the sample lines of a run folder in the order of the data set and the configurations, each once.

    A sample that failed and was tried again counts as what it became.
    """
    order = {record_key(config): i for i, config in enumerate(run["identity"]["configurations"])}
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sample_lines(folder):
        name = (record["id"], record_key(record))
        if name[1] in order and (name not in latest or record["error"] is None):
            latest[name] = record | {"key": name[1]}
    records = sorted(latest.values(), key=lambda record: (record["index"], order[record["key"]]))
    frame = pd.DataFrame(records, columns=[*LINE_FIELDS, "key"], dtype=object).astype(_DTYPES)
    return frame.assign(keep=keeps(frame["keep"]))


def keeps(values: Iterable[float | int]) -> pd.Series:
    """Take ratios as numbers; with counts among them as objects, or pandas would make ratios of counts."""
    values = list(values)
    return pd.Series(values, dtype=object if any(isinstance(value, int) for value in values) else float)
