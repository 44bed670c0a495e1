"""The application, its verbs, and how errors become one line and an exit status."""

from __future__ import annotations

import errno
import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, NoReturn

import typer

from biaslab import __version__
from biaslab._util.command_line import running
from biaslab._util.files import is_disk_full, why_not_written
from biaslab._util.launch import Launch
from biaslab._util.processes import end_with_launcher
from biaslab.cli.help_page import Verb
from biaslab.cli.logs import Verbosity, logging_as_asked, name_rank, one_line
from biaslab.cli.streams import drop_output
from biaslab.cli.wording import empty_option, in_options, options_of, shortened
from biaslab.errors import BiaslabError, InputError

app = typer.Typer(
    name="biaslab",
    help="Attention positional bias in multimodal LLMs: capture it, fit it, remove it, prune with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_VERBS = app.registered_commands  # grows as verbs are imported

_INTERRUPTED = "interrupted: what was finished is kept, the same command goes on from there"
_INTERRUPTED_WITHOUT_TRACE = "interrupted: nothing is kept, the same command starts anew"
_RESUMED = {"demo", "evaluate", "fit-bias", "heads", "probe", "train-grounder", "train-observer"}
# what several ranks would do or write several times
_ONE_PROCESS = {
    "bench", "check", "demo", "figures", "heads", "merge", "prune", "push", "report", "sinks", "train-grounder",
    "train-observer",
}  # fmt: skip
_INFRASTRUCTURE = {
    "app", "completion", "help_page", "logs", "model_options", "options", "output", "repeat", "streams", "wording",
}  # fmt: skip
# typer's own errors on a command line, by a name that it exports: the class above its BadParameter
_UsageError: Any = typer.BadParameter.__mro__[1]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def biaslab(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on stderr but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Name every phase of the work on stderr.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="Write phases, progress, warnings and errors to a file too.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Attention positional bias in multimodal LLMs: capture it, fit it, remove it, prune with it."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    The exit status is 0 if the work is done, 1 if it failed, 2 for bad arguments, 130 if it was interrupted, 143 if it
    was asked to end (SIGTERM).
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks is printed with escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with ExitStack() as stack:
        try:
            asked, arguments = Verbosity.taken_from(sys.argv[1:] if arguments is None else arguments)
            logger = stack.enter_context(logging_as_asked(asked))
        except InputError as error:
            typer.echo(f"biaslab: {one_line(error)}", err=True)
            raise SystemExit(2) from None
        status, message = _flushed(*_run(arguments, debug=asked.debug))
        if message:
            logger.error(message)
    raise SystemExit(status)


def import_verbs() -> None:
    """Import every module that holds a verb, which puts it into the application."""
    package = import_module(__package__)
    for module in iter_modules(package.__path__):
        if module.name not in _INFRASTRUCTURE:
            import_module(f"{__package__}.{module.name}")
    for verb in _VERBS:
        verb.cls = Verb


def _run(arguments: list[str], *, debug: bool) -> tuple[int, str]:
    """Run a verb; gives the exit status and what is said of an error."""
    verb = next((word for word in arguments if not word.startswith("-")), "")
    with _ended_as_interrupted() as received:
        try:
            import_verbs()
            if empty := empty_option(app, arguments):
                return 2, f"{empty} is empty: give a value, or leave it out (is a variable of the shell not set?)"
            own = {"arguments": arguments, "launch": _launched(verb)}
            # typer answers an interruption with the status 130
            with running(arguments):
                status = app(arguments, prog_name="biaslab", standalone_mode=False, obj=own) or 0
        except KeyboardInterrupt:
            status = 130
        except _UsageError as error:
            return error.exit_code, _usage(error)
        except (BiaslabError, OSError) as error:
            if debug:
                raise
            if is_disk_full(error):  # where nobody expected it, as in a temporary folder
                return 1, why_not_written(error.filename or "some file", error, "")
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                return 2, f"the path {shortened(error.filename)} is too long for this file system: use a shorter one"
            return 2 if isinstance(error, InputError) else 1, in_options(one_line(error), options_of(app, verb))
        except Exception as error:
            if debug:
                raise
            return 1, f"{type(error).__name__}: {one_line(error)} (run again with --debug for the traceback)"
    if status == 130:
        said = _INTERRUPTED if verb in _RESUMED else _INTERRUPTED_WITHOUT_TRACE
        return (128 + received[0] if received else status), said
    return int(status), ""


def _launched(verb: str) -> Launch:
    """Find out which process of how many this one is, and whether the verb is work for several.

    Raises
    ------
    InputError
        It is not.
    """
    launch = Launch.from_environment()
    if not launch.alone and verb in _ONE_PROCESS:
        raise InputError(
            f"`biaslab {verb}` is one process, and this is {launch}: start it without torchrun, accelerate or srun"
        )
    if not launch.alone:
        if launch.id:  # a shell that set the variables may close
            end_with_launcher()
        name_rank(launch)
    return launch


def _flushed(status: int, message: str) -> tuple[int, str]:
    """Hand over the rest of what was printed; that stdout does not take it (a full disk) is said in a line."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        drop_output()
        if not isinstance(error, BrokenPipeError):  # head has seen enough
            return status or 1, message or f"stdout cannot be written ({one_line(error.strerror)}): send it elsewhere"
    return status, message


def _usage(error: Any) -> str:
    """Say what was wrong with the command line and where it is described; "" where typer shows the help instead."""
    if not error.format_message():  # no verb was named
        error.show()
        return ""
    verb = error.ctx.command_path if error.ctx is not None else "biaslab"
    said = one_line(error.format_message()).rstrip(".")
    if "unexpected extra argument" in said:
        said += ": put what has several words in quotes"
    return f"{said} (see `{verb} --help`)"


@contextmanager
def _ended_as_interrupted() -> Iterator[list[int]]:
    """Treat SIGTERM, by which schedulers end a job, as Ctrl-C; gives the list of such signals received."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def end(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
