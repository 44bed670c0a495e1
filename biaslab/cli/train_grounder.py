"""The verb ``biaslab train-grounder``."""

from __future__ import annotations

from dataclasses import replace
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
    vision_steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of the vision stage. Default: the recipe's.")
    ] = None,
    decoder_steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of the decoder stage. Default: the recipe's.")
    ] = None,
    test: Annotated[
        int, typer.Option(min=0, help="Test expressions to measure accuracy on for the card; 0: none.")
    ] = 2000,
    json: opt.Json = False,
) -> None:
    """Train the embedded grounder from scratch on the scenes, measure it, write folder, card and learning curve.

    Needs torch 2.9 or newer.
    """
    from biaslab.grounder.recipe import Recipe
    from biaslab.workflows.train_grounder import build_grounder

    recipe = Recipe(seed=seed, processes=processes)
    recipe = replace(
        recipe,
        vision_steps=recipe.vision_steps if vision_steps is None else vision_steps,
        decoder_steps=recipe.decoder_steps if decoder_steps is None else decoder_steps,
    )
    report = build_grounder(out, recipe=recipe, n_test=test)
    emit(json, {"accuracy": report.accuracy}, report.summary, report.files)
