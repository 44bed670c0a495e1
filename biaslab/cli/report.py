"""The verb ``biaslab report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from biaslab._util.output_place import check_output_file, check_page_name
from biaslab._util.progress import phase
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.data_set import open_data_set
from biaslab.cli.output import emit
from biaslab.errors import InputError


@app.command("report", epilog="Example: biaslab report runs/k4")
def report(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder of `evaluate`, `demo` or `probe`, or an atlas.")],
    other: Annotated[
        Path | None, typer.Argument(help="A second run of `evaluate` on the same samples: the two in pairs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file. Default: report.html in the (first) run folder.")] = None,
    n: Annotated[
        int, typer.Option(min=1, help="Samples of each kind: where methods disagree most, misses, at random.")
    ] = 20,
    attention: Annotated[
        str | None,
        typer.Option(
            help='Load the run\'s model and show the attention of the shown samples in these layers ("3,5"), and what '
            "each stage of a schedule has left."
        ),
    ] = None,
    label: opt.Labels = None,
    device: Annotated[str | None, typer.Option(help="Where the model of --attention loads.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The run's data set, where it is not any more where run.json says.")
    ] = None,
    split: opt.Split = None,
    columns: opt.Columns = None,
    image_root: opt.ImageRoot = None,
    data_root: opt.DataRoot = None,
    json: opt.Json = False,
) -> None:
    """Write one HTML file of a run: findings, charts, tables, samples to click through; it needs no network."""
    from biaslab.evaluation.run_folder import read_run
    from biaslab.figures.report.folder_page import is_measured
    from biaslab.workflows.make_report import report as write
    from biaslab.workflows.moved_data import moved_dataset

    data = vlm = layers = None
    labels = opt.labels(label)
    if out is not None:
        check_page_name("--out", out)
    if device is not None and attention is None:
        raise InputError("--device is where the model of --attention loads: add --attention LAYERS, or leave it out")
    given: dict[str, Any] = {"--dataset": dataset, "--split": split, "--columns": columns, "--image-root": image_root}
    source = context.get_parameter_source("data_root")
    if source is not None and source.name == "COMMANDLINE":  # BIASLAB_DATA is for all verbs
        given["--data-root"] = data_root
    named = [option for option, value in {**given, "--attention": attention}.items() if value is not None]
    if named and is_measured(run):
        raise InputError(f"{run} is no run of evaluate and shows no samples: leave out {named[0]}")
    if dataset is not None:
        data = open_data_set(
            dataset, n=None, split=split, columns=columns, image_root=image_root, data_root=data_root
        )  # fmt: skip
    elif any(value is not None for value in given.values()):
        data = moved_dataset(
            read_run(run), split=split, columns=columns, images=image_root, data_root=given.get("--data-root")
        )
    if attention is not None:
        from biaslab.cli.model_options import ModelChoice
        from biaslab.workflows.run_sources import model_options_of

        if other is not None:
            raise InputError("--attention is shown of one run: report each of the two alone, or leave it out")
        check_output_file(run / "report.html" if out is None else out, suffix=".html")
        layers = opt.numbers(attention, "attention", int)
        vlm = ModelChoice(**model_options_of(read_run(run)), device=device).load()
    with phase("write the report"):
        file = write(run, other, dataset=data, vlm=vlm, layers=layers, n=n, labels=labels, out=out)
    emit(json, {}, "", [file])
