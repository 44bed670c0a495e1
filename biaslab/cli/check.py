"""The verb ``biaslab check``."""

from __future__ import annotations

from typing import Annotated

import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit
from biaslab.errors import BiaslabError


@app.command("check", epilog="Example: biaslab check --model internvl2.5")
@with_model
def check(
    model: ModelChoice,
    images: Annotated[
        str | None,
        typer.Option(
            help="photographs (43 expressions on 12 images), scenes or gallery. Default: photographs; scenes for the "
            "grounder, gallery for the observer."
        ),
    ] = None,
    layer: opt.Layers = None,
    batch_size: opt.Batch = 8,
    max_new_tokens: opt.MaxNewTokens = None,
    json: opt.Json = False,
) -> None:
    """Check a model's set-up: are its answers boxes in its family's space, are pruning and capture right on it."""
    from biaslab.models.grounding import MAX_NEW_TOKENS
    from biaslab.workflows.before_loading import check_pruning
    from biaslab.workflows.check import check as run
    from biaslab.workflows.check import pictures_for

    where, kind = opt.one_layer(layer), pictures_for(model.name, images)
    check_pruning(model.known(), ["fastv"], 1.0, where)  # refuses
    vlm = model.load()
    report = run(
        vlm, images=kind, layer=where, batch_size=batch_size, max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
    )  # fmt: skip
    emit(json, report.record(), report.text(), provenance=vlm)
    if report.fails:
        raise BiaslabError(f"{len(report.fails)} of {1 + len(report.agreements)} checks do not hold: see above")
