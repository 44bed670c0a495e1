"""The verb ``biaslab models``."""

from __future__ import annotations

import pandas as pd

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit, table


@app.command("models", epilog="Example: biaslab models --json")
def models(json: opt.Json = False) -> None:
    """List the models known by a short name; any hub id or folder of a supported family works as well."""
    from biaslab.models import known_models

    rows = known_models()
    emit(json, {"models": rows}, table(pd.DataFrame(rows).convert_dtypes()))
