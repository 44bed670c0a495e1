"""The verb ``biaslab figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab._util.progress import phase
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit


@app.command("figures", epilog="Example: biaslab figures runs/k4 --venue cvpr")
def figures(
    run: Annotated[Path, typer.Argument(help="Run folder of `evaluate` or `demo`.")],
    metric: Annotated[
        str | None, typer.Option(help="acc50, retention, miou or target_kept; default: the run's accuracy.")
    ] = None,
    venue: Annotated[str, typer.Option(help="Whose column width: cvpr, icml, neurips, iclr or aaai.")] = "cvpr",
    json: opt.Json = False,
) -> None:
    """Draw accuracy against keep ratio and against FLOPs, and write the LaTeX table, from a run folder."""
    from biaslab.workflows.run_figures import draw_run

    with phase("draw the figures"):
        files = draw_run(run, metric=metric, venue=venue)
    emit(json, {}, "", files)
