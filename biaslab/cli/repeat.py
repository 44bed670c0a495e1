"""Command lines that are noted in ``run.json``, and ``--config``, which repeats them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from biaslab.errors import InputError

__all__ = ["Config", "command_of", "repeat_earlier"]

#: of one call, not of the run
_NOT_REPEATED = {"out", "json", "config", "retry_errors", "dry_run"}
_PATHS = {"image_root", "data_root"}
_MODELS = {"name", "adapter"}  # of --model and --adapter: a folder, or a name as it is


def command_of(context: typer.Context) -> dict[str, Any]:
    """Note the command line of a verb: as it was typed, and every option with its value."""
    options = {name: value for name, value in context.params.items() if name not in _NOT_REPEATED and value is not None}
    for name, value in options.items():
        if name == "profile":
            options[name] = [str(Path(file).absolute()) for file in value]
        elif isinstance(value, Path) or name in _PATHS or (name == "dataset" and Path(value).exists()):
            options[name] = str(Path(value).absolute())
        elif name in _MODELS:
            options[name] = _from_anywhere(value)
    arguments = (context.obj or {}).get("arguments", [])
    return {"line": shlex.join(["biaslab", *arguments]), "options": options}


def _from_anywhere(model: str) -> str:
    """Return the absolute path of a model that is a folder, and any other name as it is."""
    from biaslab.models.registry import EMBEDDED, resolve

    checkpoint = resolve(model)
    return model if checkpoint.folder is None or checkpoint.name in EMBEDDED else str(checkpoint.folder)


def _read(context: typer.Context, config: Path | None) -> Path | None:
    """Take the options of the last command of a ``run.json`` as defaults, and remember the commands before it."""
    if config is None:
        return None
    try:
        record = json.loads((config / "run.json" if config.is_dir() else config).read_text(encoding="utf-8"))
        commands = [_with_profile(command["options"], record, config) for command in record.get("commands", [])]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"--config {config} is no run.json of `biaslab evaluate`: pass RUN/run.json") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"--config {config} is no run.json of `biaslab evaluate` ({error}): pass RUN/run.json"
        ) from None
    known = {parameter.name for parameter in context.command.params}
    if unknown := sorted({name for options in commands for name in options} - known):
        raise InputError(
            f"--config {config} holds {', '.join(unknown)}, which is no option here: it is of another version; "
            "write the command line anew"
        )
    if not commands:
        made = f"by `{record['made_by']}`; run that" if record.get("made_by") else "in Python; repeat that call"
        raise InputError(f"--config {config} holds no command line of evaluate: the run was made {made}")
    context.default_map = commands[-1]
    context.meta["earlier"] = commands[:-1]
    return config


def _with_profile(options: dict[str, Any], record: dict[str, Any], config: Path) -> dict[str, Any]:
    """Take the run folder's copies of profiles that are not where they were."""
    given = options.get("profile")
    if given is None:
        return dict(options)
    given = [given] if isinstance(given, str) else list(given)  # earlier versions took one
    files = [entry["file"] for entry in record.get("profiles", {}).values()]
    if not all(Path(file).exists() for file in given) and len(files) == len(given):
        folder = config if config.is_dir() else config.parent
        given = [str(folder / file) for file in files]
    return {**options, "profile": given}


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read,
        is_eager=True,
        help="Repeat the commands of a RUN/run.json; what else the command line says has precedence.",
    ),
]


def repeat_earlier(context: typer.Context) -> None:
    """Run the commands that a ``run.json`` holds before its last one, with this command line's own options."""
    arguments = (context.obj or {}).get("arguments", [])[1:]
    own = [
        argument
        for i, argument in enumerate(arguments)
        if not argument.startswith("--config") and (i == 0 or arguments[i - 1] != "--config")
    ]
    for options in context.meta.pop("earlier", []):
        with context.command.make_context(context.info_name, list(own), context.parent, default_map=options) as earlier:
            context.command.invoke(earlier)
