"""``biaslab inspect``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .app import app
from .output import emit, table


@app.command("inspect", epilog="Example: biaslab inspect grounder.safetensors --out figures/profile")
def inspect(
    profile: Annotated[
        Path, typer.Argument(metavar="PROFILE|MAPS", help="A profile file, or a folder of maps (`fit-bias --maps`).")
    ],
    layers: Annotated[str | None, typer.Option(help='Layers to show, e.g. "1,5". Default: all.')] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Of a profile: draw it to OUT.pdf, .png, .csv; of maps: a table per diagnostic, OUT-*.csv."),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Say what a profile was fitted on and draw it, or run every diagnostic of positional bias on stored maps."""
    shown = None if layers is None else opt.numbers(layers, "layers", int)
    if profile.is_dir():
        _maps(profile, shown, out, json)
        return
    from ..profiles import load
    from ..profiles.file import card

    read = load(profile)
    files = []
    if out is not None:
        from ..figures import ProfileDisplay, save

        files = save(ProfileDisplay.from_profile(read, shown).plot(), out, close=True)
    emit(json, {"hash": read.hash, "provenance": read.provenance_}, card(read, profile.name), files)


def _maps(folder: Path, layers: list[int] | None, out: Path | None, json: bool) -> None:
    from ..bias import DIAGNOSTICS, diagnose
    from ..maps import AttentionMaps
    from ..rehearsed import NOTE, is_rehearsal, mark, noted

    maps = AttentionMaps.open(folder)
    tables, skipped = diagnose(maps, layers=layers)
    files = []
    for name, found in tables.items():
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            files.append(out.with_name(f"{out.name}-{name}.csv"))
            noted(mark(found, maps.settings)).to_csv(files[-1], index=False)
    text = [f"{maps.n} images of {maps.settings['model']}, heads {maps.heads}"]
    text += [f"\n{DIAGNOSTICS[name].title}\n{table(found)}" for name, found in tables.items()]
    text += [f"\n{DIAGNOSTICS[name].title}: {why}" for name, why in skipped.items()]
    record = {"n": maps.n, "provenance": maps.provenance, "skipped": skipped,
              "diagnostics": {name: found.to_dict("records") for name, found in tables.items()}}  # fmt: skip
    emit(json, record, "\n".join(text), files, NOTE if is_rehearsal(maps.settings) else None)
