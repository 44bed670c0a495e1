"""The application, its verbs, and how errors become one line and an exit status."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated

import typer

from biaslab import __version__
from biaslab.errors import BiaslabError, InputError

app = typer.Typer(
    name="biaslab",
    help="Attention positional bias in multimodal LLMs: capture it, fit it, remove it, prune with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_INTERRUPTED = "interrupted: what was finished is kept, the same command goes on from there"
_INFRASTRUCTURE = {"app", "completion", "model_options", "options", "output", "repeat"}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def biaslab(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Attention positional bias in multimodal LLMs: capture it, fit it, remove it, prune with it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and exit: 0 done, 1 the work failed, 2 bad arguments, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # `--debug` may stand anywhere; typer knows it in front of the verb only.
    arguments = [a for a in arguments if a != "--debug"]
    package = import_module(__package__)
    for module in iter_modules(package.__path__):
        if module.name not in _INFRASTRUCTURE:
            import_module(f"{__package__}.{module.name}")
    try:
        with warnings.catch_warnings():
            _quiet(debug)
            app(arguments, obj={"arguments": arguments})
    except KeyboardInterrupt:
        _fail(_INTERRUPTED, 130)
    except SystemExit as end:
        if end.code == 130:  # typer turns an interruption into a silent exit
            _fail(_INTERRUPTED, 130)
        raise
    except (BiaslabError, OSError) as error:
        if debug:
            raise
        _fail(_one_line(error), 2 if isinstance(error, InputError) else 1)
    except Exception as error:
        if debug:
            raise
        _fail(f"{type(error).__name__}: {_one_line(error)} (run again with --debug for the traceback)", 1)
    return 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _fail(message: str, status: int) -> None:
    typer.echo(f"biaslab: {message}", err=True)
    raise SystemExit(status)


def _quiet(debug: bool) -> None:
    """Libraries keep quiet, biaslab's own warnings are one line each on stderr."""
    logging.basicConfig(format="biaslab: %(message)s", level=logging.WARNING)
    if debug:
        return
    for name in ("transformers", "huggingface_hub", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"biaslab: warning: {_one_line(message)}", err=True)
