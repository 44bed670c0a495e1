"""The verb ``biaslab heads``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab._util.jsonable import records
from biaslab._util.output_place import check_output_folder
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.completion import dataset_names
from biaslab.cli.data_set import open_data_set
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit, table

_SHOWN = 5  # heads of a criterion


@app.command(
    "heads", epilog="Example: biaslab heads --model grounder --criterion quality,auroc,ablation --out runs/heads"
)
@with_model
def heads(
    out: Annotated[Path, typer.Option(help="Folder of maps, tables, figure and card; its maps are resumed.")],
    model: ModelChoice,
    criterion: Annotated[
        str,
        typer.Option(
            help="Criteria separated by commas: quality and localization (no labels), auroc (of the target's tokens), "
            "ablation (the model's own answer without a head: a forward per head and batch), ippro (a step of "
            "gradient: needs backward passes)."
        ),
    ] = "quality,localization,auroc",
    dataset: Annotated[
        str | None,
        typer.Option(autocompletion=dataset_names, help="Images, expressions and boxes, as evaluate takes them."),
    ] = None,
    split: opt.Split = None,
    columns: opt.Columns = None,
    image_root: opt.ImageRoot = None,
    data_root: opt.DataRoot = None,
    n: Annotated[int, typer.Option(min=4, help="First n expressions.")] = 50,
    layers: Annotated[str | None, typer.Option(help='Decoder layers, e.g. "1,5" or "0-11". Default: all.')] = None,
    lam: Annotated[float, typer.Option(help="Step of ippro; unverified.")] = 1.0,
    top: Annotated[int, typer.Option(min=1, help="Best heads whose overlap between criteria is counted.")] = 5,
    batch_size: opt.Batch = 8,
    workers: opt.Workers = None,
    json: opt.Json = False,
) -> None:
    """Rank decoder heads on calibration images by several criteria, with intervals, and say how far they agree."""
    from biaslab.datasets.base import take
    from biaslab.diagnostics.heads.ratings import groups_of
    from biaslab.errors import InputError
    from biaslab.workflows.rank_heads import check_criteria, rank_heads

    names = check_criteria([part.strip() for part in criterion.split(",")])
    if "ippro" in names and not lam > 0:
        raise InputError(f"--lam is above 0, got {lam}")
    numbers = model.layers(layers)
    data = open_data_set(
        dataset, n=n, split=split, columns=columns, image_root=image_root, data_root=data_root, model=model.name,
        drawn_split="calibration",
    )  # fmt: skip
    samples = take(data, n)
    groups_of([sample.image_id for sample in samples])  # refuses too few images
    check_output_folder(out)
    vlm = model.load(False, max(numbers or [0]))
    found = rank_heads(
        vlm, samples, out=out, criteria=names, layers=numbers, batch_size=batch_size, lam=lam, top=top, workers=workers,
    )  # fmt: skip
    best = found.ratings.sort_values("rank", kind="stable")
    parts = [table(best[best["criterion"] == name].drop(columns=["criterion", "rank"])[:_SHOWN]) for name in names]
    text = "\n".join([f"{name}:\n{part}" for name, part in zip(names, parts, strict=True)] + found.sentences)
    record = {"ratings": records(found.ratings), "agreement": records(found.agreement), "sentences": found.sentences}
    emit(json, record, text, found.files, vlm)
