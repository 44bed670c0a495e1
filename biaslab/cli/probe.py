"""The verb ``biaslab probe``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from biaslab._util.jsonable import records
from biaslab._util.number_text import is_number
from biaslab._util.output_place import check_output_folder
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit, table


@app.command(
    "probe",
    epilog="Example: biaslab probe --model grounder --profile grounder.safetensors --pairs 12 --layers 0-9 "
    "--out runs/probe",
)
@with_model
def probe(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on with an interrupted run.")],
    model: ModelChoice,
    profile: opt.ProfileFile = None,
    pairs: Annotated[
        int, typer.Option(min=1, help="Pairs of object and background, 6 or more; each is shown at every place.")
    ] = 12,
    layers: Annotated[
        str | None, typer.Option(help='Decoder layers, e.g. "1,5" or "0-9". Default: the profile\'s, or all.')
    ] = None,
    heads: Annotated[str, typer.Option(help="mean, or all for one map per head.")] = "mean",
    queries: Annotated[
        str, typer.Option(help="Query rows: last (prompt token) or text (all after the image).")
    ] = "last",
    locate: Annotated[
        bool, typer.Option("--locate", help="Also generate the answers: accuracy as a function of place (slower).")
    ] = False,
    size: Annotated[str, typer.Option(help="Pixels of the images: 448, or 896x448 (width x height).")] = "224",
    grid: Annotated[
        str | None, typer.Option(help="Places, rows x columns, e.g. 8x8. Default: the model's grid of tokens.")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Long side of the objects in cells of the grid: smallest,largest.")
    ] = "1.5,2.5",
    repetitions: Annotated[int, typer.Option(min=1, help="Images per pair and place, with other jitter.")] = 1,
    distractors: Annotated[int, typer.Option(min=0, help="Other objects on every background.")] = 0,
    objects: Annotated[
        Path | None, typer.Option(help="Folder of RGBA cut-outs, named after the object, e.g. apple.png.")
    ] = None,
    backgrounds: Annotated[Path | None, typer.Option(help="Folder of background images.")] = None,
    expression: Annotated[str, typer.Option(help="Referring expression; {} is the object's name.")] = "the {}",
    batch_size: opt.Batch = 16,
    workers: opt.Workers = None,
    seed: opt.Seed = 0,
    rehearse: opt.Rehearse = False,
    json: opt.Json = False,
) -> None:
    """Measure the effect of place alone on attention: the same objects at every place, compared with a profile."""
    from biaslab.datasets.image_sources import require_images
    from biaslab.diagnostics.probe import design_for
    from biaslab.diagnostics.probe.stimuli import raster_grid
    from biaslab.errors import InputError
    from biaslab.workflows.before_loading import check_probe_profile
    from biaslab.workflows.probe import probe as run

    opt.check_rows(heads, queries)
    numbers = model.layers(layers, rehearse=rehearse)
    low_high = opt.numbers(scale, "scale")
    if len(low_high) != 2:
        raise InputError(f"--scale takes two numbers of cells, as in 1.5,2.5, got {scale!r}")
    sides, cells = _two(size, "size"), None if grid is None else _two(grid, "grid")
    fitted = opt.one_profile(profile)
    for folder in (objects, backgrounds):
        if folder is not None:
            require_images(folder.expanduser())  # before the model is loaded
    known = model.known(rehearse=rehearse)
    designed = partial(
        design_for, size=sides, pairs=pairs, seed=seed, scale=tuple(low_high), repetitions=repetitions,
        distractors=distractors, objects=objects, backgrounds=backgrounds, expression=expression,
    )  # fmt: skip
    if known is not None:
        designed(known.vlm, grid=cells or raster_grid(known.tokens(sides, "the object").layout))  # refuses
    if fitted is not None:
        check_probe_profile(known, fitted, heads=heads, queries=queries, layers=numbers)
    check_output_folder(out)
    vlm = model.load(rehearse, max(numbers or [0]))
    design = designed(vlm, grid=cells)
    report = run(
        vlm, design, layers=numbers, heads=heads, queries=queries, profile=fitted,
        batch_size=batch_size, out=out, progress=True, workers=workers, locate=locate,
        launch=(context.obj or {}).get("launch"),
    )  # fmt: skip
    if report.result is None:  # another rank has the findings
        return
    record: dict[str, Any] = {"images": len(design), "comparison": None, "accuracy": None}
    text = report.card
    if report.comparison is not None:
        record["comparison"] = records(report.comparison)
        # three decimals would show 0.000
        exact = {c: [f"{v:.2g}" if is_number(v) else "-" for v in report.comparison[c]] for c in "pq"}
        text += "\n" + table(report.comparison[_SHOWN].assign(**exact))
    if locate:
        record["accuracy"] = records(report.result.accuracy_by_zone())
    emit(json, record, text, report.files, vlm)


_SHOWN = "layer head region slope slope_lo slope_hi r r_lo r_hi ceiling r_disattenuated p q".split()


def _two(text: str, what: str) -> tuple[int, int]:
    """Read "448" or "896x448" as two positive integers.

    Raises
    ------
    InputError
        For anything else.
    """
    from biaslab.errors import InputError

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.strip().isdecimal() and int(p) for p in parts):
        raise InputError(f"--{what} takes one positive number or two with an x between them, got {text!r}")
    return int(parts[0]), int(parts[-1])
