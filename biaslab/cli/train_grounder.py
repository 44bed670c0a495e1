"""The verb ``biaslab train-grounder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit


@app.command(
    "train-grounder",
    epilog="Example: biaslab train-grounder --out runs/grounder   (about two hours on two cores; resumable)",
)
def train_grounder(
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on with an interrupted run.")],
    seed: opt.Seed = 0,
    processes: opt.Processes = 2,
    vision_steps: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    decoder_steps: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    test: Annotated[int, typer.Option(min=0, help="Test expressions to measure for the card; 0: none.")] = 2000,
    json: opt.Json = False,
) -> None:
    """Train the embedded grounder from scratch on the scenes, measure it, write folder, card and learning curve.

    Needs torch 2.9 or newer.
    """
    from biaslab.grounder.recipe import Recipe
    from biaslab.workflows.train_grounder import build_grounder

    changed = {"vision_steps": vision_steps, "decoder_steps": decoder_steps}
    recipe = Recipe(seed=seed, processes=processes, **{k: v for k, v in changed.items() if v is not None})
    made = build_grounder(out, recipe=recipe, n_test=test)
    emit(json, {"accuracy": made.accuracy}, made.summary, made.files)
