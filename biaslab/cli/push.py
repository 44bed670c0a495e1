"""The verb ``biaslab push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit


@app.command(
    "push",
    epilog="Example: biaslab push bias.safetensors me/internvl2.5-8b-bias --license cc-by-4.0 --file runs/k4/tables",
)
def push(
    profile: Annotated[Path, typer.Argument(help="A profile file made by `fit-bias`.")],
    repository: Annotated[
        str, typer.Argument(help="Repository of the hub, owner/name or owner/name@branch; made where there is none.")
    ],
    files: Annotated[
        list[Path] | None, typer.Option("--file", help="A file or folder to push along; may be given several times.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the repository, such as cc-by-4.0.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Id on the hub of the model. Default: its name, where that is an id.")
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="Id on the hub of the calibration images; may be given several times."),
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who can see a repository that is made.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit. Default: the profile's hash.")] = None,
    json: opt.Json = False,
) -> None:
    """Push a profile to the hub, with a model card and its image; --profile owner/name then names it anywhere."""
    from biaslab.profiles.file import load
    from biaslab.workflows.push_profile import push_profile

    fitted = load(profile)
    card = profile.with_suffix(".md")
    of_it = card.is_file() and fitted.hash in card.read_text(encoding="utf-8", errors="replace")
    pushed = push_profile(
        fitted, repository, files=files or (), card=card if of_it else None, base_model=base_model,
        datasets=datasets or (), license=license, private=private, commit_message=message,
    )  # fmt: skip
    repo = repository.partition("@")[0]
    text = f"pushed {fitted.name} profile {fitted.hash}: {pushed.commit_url}\nuse it as --profile {repo}@{pushed.oid}"
    record = {"profile": fitted.hash, "repository": repo, "revision": pushed.oid, "url": pushed.commit_url}
    emit(json, record, text, [], fitted.provenance_)
