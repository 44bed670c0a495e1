"""The verb ``biaslab models``."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit, table
from biaslab.errors import InputError

_TOKENS = "most tokens per image"
_FOOT = "tokens: most of an image; -: not known here; hub ids: --checkpoints"


@app.command("models", epilog="Example: biaslab models --family qwen2_5_vl --checkpoints")
def models(
    family: Annotated[str | None, typer.Option(help="Only the models of one family.")] = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Show the hub ids in place of sizes.")] = False,
    json: opt.Json = False,
) -> None:
    """List the models known by a short name; any hub id or folder of a supported family works as well."""
    from biaslab.models import known_models

    rows = known_models()
    names = list(dict.fromkeys(row["family"] for row in rows))
    family = None if family is None else family.lower()
    if family is not None and family not in names:
        raise InputError(f"--family {family!r} is unknown: choose one of {', '.join(names)}")
    rows = [row for row in rows if family in (None, row["family"])]
    columns = ["alias", "checkpoint"] if checkpoints else ["alias", "family", "layers", _TOKENS, "on disk"]
    shown = table(pd.DataFrame(rows, columns=columns).convert_dtypes().rename(columns={_TOKENS: "tokens"}))
    emit(json, {"models": rows}, shown if checkpoints else f"{shown}\n{_FOOT}")
