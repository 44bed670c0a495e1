"""The verb ``biaslab inspect``."""

from __future__ import annotations

from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biaslab._util.jsonable import records
from biaslab._util.output_place import check_output_folder
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.completion import estimator_names
from biaslab.cli.output import emit, table

if TYPE_CHECKING:
    from biaslab.atlas import BiasAtlas


@app.command(
    "inspect", epilog="Example: biaslab inspect maps/ --probe runs/probe --images scenes --out runs/atlas",
)  # fmt: skip
def inspect(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PROFILE|MAPS", help="A profile file or one of the hub (owner/name), or a folder of maps."
        ),
    ],
    profile: Annotated[
        Path | None,
        typer.Option("--profile", "-p", help="For maps: a profile to draw and compare in place of one fitted on them."),
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="Folder of a finished `biaslab probe` of the same model.")] = None,
    images: Annotated[
        str | None,
        typer.Option(help="For maps: scenes, or a folder of their images, drawn with attention before and after."),
    ] = None,
    data_root: opt.DataRoot = None,
    estimator: Annotated[
        str | None,
        typer.Option(autocompletion=estimator_names, help="For maps: estimator of the profile. Default: mean."),
    ] = None,
    layers: Annotated[str | None, typer.Option(help='Decoder layers, e.g. "1,5" or "0-9". Default: all.')] = None,
    heads: Annotated[
        bool, typer.Option("--heads/--no-heads", help="Diagnostics of single heads too, where the maps hold them.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for figures/, tables/ (CSV, LaTeX) and card.md.")] = None,
    json: opt.Json = False,
) -> None:
    """Show the atlas of positional bias: how strong it is, where, in which layers and heads, and what is not known."""
    from biaslab.atlas import BiasAtlas
    from biaslab.diagnostics.probe import ProbeResult
    from biaslab.errors import InputError
    from biaslab.profiles.file import card

    shown = None if layers is None else opt.numbers(layers, "layers", int)
    if images is not None and out is None:
        raise InputError("--images draws images: say where to with --out FOLDER")
    if out is not None:
        check_output_folder(out)
    if (guess_type(source.name)[0] or "").startswith("image/"):
        raise InputError(
            f'{source} is an image: `biaslab prune {source} "the cat" --view view.html` shows where a model looks in '
            "it; inspect takes a profile or a folder of maps"
        )
    if source.is_dir():
        measured = None if probe is None else ProbeResult.load(probe)
        fitted = opt.one_profile(profile)
        atlas = _of_maps(source, estimator, fitted, measured, images, data_root, shown, heads)
        _say(atlas, out, json, {"n": None if atlas.maps is None else atlas.maps.n})
        return
    given = {"--profile": profile, "--images": images, "--estimator": estimator}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise InputError(f"{wrong[0]} needs a folder of maps, not a profile file: keep maps with `fit-bias --maps`")
    read = opt.one_profile(source)
    if read.kind == "heads":
        emit(json, {"hash": read.hash, "heads": [list(pair) for pair in read.heads_]}, card(read, name=source.name))
        return
    atlas = BiasAtlas.from_profile(read, layers=shown, probe=None if probe is None else ProbeResult.load(probe))
    _say(atlas, out, json, {"hash": read.hash}, card(read, name=source.name))


def _of_maps(
    folder: Path, estimator: str | None, profile: Any, probe: Any, images: str | None, data_root: Path | None,
    layers: list[int] | None, per_head: bool,
) -> BiasAtlas:  # fmt: skip
    from biaslab.atlas import BiasAtlas, images_behind
    from biaslab.errors import InputError
    from biaslab.maps.stored import load_maps

    if estimator is not None and profile is not None:
        raise InputError("--estimator and --profile exclude each other: the profile has its own estimator")
    maps = load_maps(folder)
    drawn = None if images is None else images_behind(maps, images, data_root=data_root)
    return BiasAtlas.from_maps(
        maps,
        layers=layers,
        profile=profile,
        estimator=estimator or "mean",
        per_head=per_head,
        probe=probe,
        images=drawn,
    )


def _say(atlas: BiasAtlas, out: Path | None, json: bool, record: dict[str, Any], before: str = "") -> None:
    from biaslab.atlas.summary import text_cells

    files = [] if out is None else atlas.save(out)
    summary, said = atlas.summary(), atlas.card()
    record = record | {
        "provenance": dict(atlas.provenance), "skipped": atlas.skipped, "summary": records(summary),
        "tables": {name: records(found) for name, found in atlas.tables.items()}, "card": said,
    }  # fmt: skip
    text = "\n".join([*([before] if before else []), said, table(text_cells(summary))])
    emit(json, record, text, files, atlas.provenance)
