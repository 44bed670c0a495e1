"""The verb ``biaslab figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab._util.progress import phase
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit


@app.command(
    "figures",
    epilog="Example: biaslab figures runs/k4 --venue cvpr --methods d2pruner,divprune,fastv "
    '--label "d2pruner=D2Pruner (ours)"',
)
def figures(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders of `evaluate` or `demo`: several of one model and data set are one comparison, others "
            "stand side by side.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder that gets figures/ and tables/. Default: the run folder; needed for several runs."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods separated by commas, in the order of the figure. Default: all.")
    ] = None,
    label: opt.Labels = None,
    keep: Annotated[str | None, typer.Option(help="Keep ratios or counts separated by commas. Default: all.")] = None,
    layer: Annotated[str | None, typer.Option(help="Prune layers separated by commas. Default: all.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="acc50, retention, miou or target_kept; default: the run's accuracy.")
    ] = None,
    venue: Annotated[
        str | None,
        typer.Option(
            help="Whose widths and font: cvpr, eccv, icml, neurips, iclr, aaai, aistats, uai, acl, colm, tmlr or jmlr. "
            "Default: the widths of cvpr, without serifs."
        ),
    ] = None,
    font: Annotated[str | None, typer.Option(help="serif, sans, or an installed family. Default: the venue's.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Of pdf, png and svg, separated by commas.")] = "pdf,png",
    json: opt.Json = False,
) -> None:
    """Draw accuracy against keep ratio and against FLOPs, and write the LaTeX table, from run folders."""
    from biaslab.workflows.run_figures import draw_run

    chosen = None if methods is None else [word.strip() for word in methods.split(",") if word.strip()]
    ratios, names = None if keep is None else opt.keeps(keep), opt.labels(label)
    kinds = [kind.strip().lower() for kind in formats.split(",") if kind.strip()]
    with phase("draw the figures"):
        files = draw_run(
            runs, methods=chosen, keep=ratios, layer=opt.layers(layer), metric=metric, labels=names, venue=venue,
            font=font, formats=kinds, out=out,
        )  # fmt: skip
    emit(json, {}, "", files)
