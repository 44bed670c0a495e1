"""The verb ``biaslab merge``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit, summary

logger = logging.getLogger(__name__)


@app.command("merge", epilog="Example: biaslab merge runs/node1 runs/node2 --out runs/all")
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one model, data set, seed and decoding.")],
    out: Annotated[Path, typer.Option(help="The new run folder.")],
    json: opt.Json = False,
) -> None:
    """Merge run folders of `evaluate`, with configurations and samples that are apart or overlap, into a new one."""
    from biaslab.evaluation.merging import merge_runs

    results = merge_runs(runs, out)
    if results.lacking:
        logger.warning("%s", results.lacking)
    record, files = {"rows": results.table.to_dict("records")}, [out / "results.csv"]
    emit(json, record, summary(results), files, results.run["identity"]["model"])
