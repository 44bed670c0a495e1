"""``biaslab inspect``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .app import app
from .output import emit


@app.command("inspect", epilog="Example: biaslab inspect grounder.safetensors --out figures/profile")
def inspect(
    profile: Annotated[Path, typer.Argument(help="A profile file made by `fit-bias`.")],
    layers: Annotated[str | None, typer.Option(help='Layers to draw, e.g. "1,5". Default: all.')] = None,
    out: Annotated[Path | None, typer.Option(help="Draw the profile to OUT.pdf, OUT.png and OUT.csv.")] = None,
    json: opt.Json = False,
) -> None:
    """Say what a profile was fitted on and what it shows, and draw it."""
    from ..profiles import load
    from ..profiles.file import card

    read = load(profile)
    files = []
    if out is not None:
        from ..figures import ProfileDisplay, save

        shown = None if layers is None else opt.numbers(layers, "layers", int)
        files = save(ProfileDisplay.from_profile(read, shown).plot(), out, close=True)
    emit(json, {"hash": read.hash, "provenance": read.provenance_}, card(read, profile.name), files)
