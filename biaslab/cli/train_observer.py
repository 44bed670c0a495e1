"""The verb ``biaslab train-observer``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit


@app.command(
    "train-observer",
    epilog="Example: biaslab train-observer --out runs/observer   (hours on two cores, minutes on a GPU; resumable)",
)
def train_observer(
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on with an interrupted run.")],
    seed: opt.Seed = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that share each step's images on a CPU.")] = 2,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw images ahead; 0: none.")] = 1,
    vision_steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of the vision stage. Default: the recipe's.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Model folder of an earlier run, or observer: a further leg of the decoder stage from there."
        ),
    ] = None,
    decoder_steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of the decoder stage. Default: the recipe's.")
    ] = None,
    rates: Annotated[
        float,
        typer.Option(
            min=1e-6,
            help="Peak learning rates of the decoder stage, in parts of the recipe's: a leg that "
            "follows a whole one wants less.",
        ),
    ] = 1.0,
    tower_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Rates of the vision tower in the decoder stage, in parts of the others'; 0: it stays as it is, and "
            "steps are a third cheaper. Default: the recipe's.",
        ),
    ] = None,
    test: Annotated[
        int, typer.Option(min=0, help="Test expressions, and questions, to measure accuracy on for the card; 0: none.")
    ] = 2000,
    json: opt.Json = False,
) -> None:
    """Train the second embedded model on the gallery, from scratch or further, measure it, write folder and card.

    Needs torch 2.9 or newer.
    """
    from biaslab.grounder.observer.recipe import ObserverRecipe
    from biaslab.workflows.train_observer import build_observer

    recipe = ObserverRecipe(seed=seed)
    recipe = replace(
        recipe,
        vision_steps=recipe.vision_steps if vision_steps is None else vision_steps,
        decoder_steps=recipe.decoder_steps if decoder_steps is None else decoder_steps,
        decoder_muon=rates * recipe.decoder_muon,
        decoder_adamw=rates * recipe.decoder_adamw,
        tower_rate=recipe.tower_rate if tower_rate is None else tower_rate,
    )
    report = build_observer(
        out, recipe=recipe, start=start, device=device, threads=threads, workers=workers, n_test=test
    )
    emit(json, {"accuracy": report.accuracy}, report.summary, report.files)
