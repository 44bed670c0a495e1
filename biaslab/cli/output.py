"""How verbs print: tables for people, one JSON object for scripts, and the files written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import typer

from biaslab._util.watermark import note_of
from biaslab.cli.streams import drop_output
from biaslab.errors import BiaslabError

if TYPE_CHECKING:
    from biaslab.evaluation import Results


def _is_p(column: str) -> bool:
    return column == "p" or column.startswith(("p_", "p ")) or column.endswith(("_p", "_p_adjusted"))


def emit(
    as_json: bool, record: dict[str, Any], text: str = "", files: Iterable[Path] = (), provenance: Any = None
) -> None:
    """Print `record` (plus the files) as one JSON object, or `text` and the files' names; a rehearsal's both say so.

    `provenance` is where the numbers come from: the model, or settings.
    """
    try:
        _print(as_json, record, text, [str(file) for file in files], note_of(provenance))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough; the work is done
        drop_output()
    except OSError as error:
        drop_output()
        raise BiaslabError(
            f"stdout cannot be written ({error.strerror or error}): send it elsewhere; the files of this command are "
            "written"
        ) from None


def _print(as_json: bool, record: dict[str, Any], text: str, names: list[str], note: str | None) -> None:
    if as_json:
        typer.echo(json.dumps(record | ({"note": note} if note else {}) | {"files": names}, default=str))
        return
    if note:
        typer.echo(f"{note}: the numbers mean nothing")
    if text:
        typer.echo(text)
    for name in names:
        typer.echo(f"wrote {name}")


def table(frame: pd.DataFrame, decimals: int = 3) -> str:
    """Format a data frame as plain text, numbers rounded; TFLOPs to 3 significant digits, p-values never as 0."""
    counts = frame.select_dtypes("Int64").columns  # a missing count would be printed as <NA>
    frame = frame.assign(**{c: frame[c].astype(object).where(frame[c].notna(), "-") for c in counts})
    wide: dict[Any, Any] = {c: significant for c in frame.columns if str(c).startswith("tflops")}
    wide |= {c: p_value for c in frame.select_dtypes("number").columns if _is_p(str(c))}
    return frame.to_string(index=False, formatters=wide, float_format=lambda v: f"{v:.{decimals}f}", na_rep="-")


def p_value(value: float) -> str:
    """Format a p-value with three decimals; a smaller one as ``<.001``, never as 0."""
    if value != value:
        return "-"
    return "<.001" if value < 0.001 else f"{value:.3f}"


def summary(results: Results) -> str:
    """Format the summary of an evaluation: p-values under the name of their reference, with a line on the test."""
    frame = results.summary()
    if results.reference is None:  # nothing was tested
        return table(frame.drop(columns="p_vs_reference"))
    name = f"p vs {results.reference}"
    text = table(frame.rename(columns={"p_vs_reference": name}))
    if frame["p_vs_reference"].isna().all():
        return text
    measured = "accuracy" if results.accuracy == "accuracy" else "Acc@0.5"
    return (
        f"{text}\n{name}: {measured} against {results.reference} at the same keep and layer, paired sign-flip test "
        "over images, two-sided, not adjusted for the number of rows"
    )


def significant(value: float, digits: int = 3) -> str:
    """Format a number with so many significant digits, never in exponents: 0.00512, 53.7, 1230."""
    if value != value:
        return "-"
    return np.format_float_positional(float(f"{value:.{digits - 1}e}"), trim="-") if value else "0"
