"""How verbs print: tables for people, one JSON object for scripts, and the files written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import typer


def emit(as_json: bool, record: dict[str, Any], text: str = "", files: Iterable[Path] = ()) -> None:
    """Print `record` (plus the files) as one JSON object, or `text` and the files' names."""
    files = [str(f) for f in files]
    if as_json:
        typer.echo(json.dumps(record | {"files": files}, default=str))
        return
    if text:
        typer.echo(text)
    for name in files:
        typer.echo(f"wrote {name}")


def table(frame: pd.DataFrame, decimals: int = 3) -> str:
    """A data frame as aligned plain text, numbers rounded."""
    return frame.to_string(index=False, float_format=lambda v: f"{v:.{decimals}f}", na_rep="-")
