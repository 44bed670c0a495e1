"""What a command says on stderr while it works, and in its log file."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from biaslab._util import progress
from biaslab._util.launch import Launch
from biaslab.errors import InputError

__all__ = ["Verbosity", "logging_as_asked", "name_rank", "one_line"]

# what every log of ours begins with
_LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ biaslab")
_FILE_LINE = "%(asctime)s %(levelname)s %(name)s"
_LIBRARIES = ("transformers", "huggingface_hub", "matplotlib", "accelerate", "torch")


@dataclass
class Verbosity:
    """What is asked for by ``--debug``, ``--quiet``, ``--verbose`` and ``--log-file``, which may stand anywhere."""

    debug: bool = False
    quiet: bool = False
    verbose: bool = False
    log_file: Path | None = None

    @classmethod
    def taken_from(cls, arguments: list[str]) -> tuple[Verbosity, list[str]]:
        """Take the options out of a command line; typer knows such ones in front of the verb only.

        Raises
        ------
        InputError
            ``--log-file`` without a file; ``--quiet`` beside ``--verbose``.
        """
        asked, others, words = cls(), [], iter(arguments)
        for word in words:
            name, _, value = word.partition("=")
            if word in ("--debug", "--quiet", "--verbose"):
                setattr(asked, word[2:], True)
            elif name == "--log-file":
                value = value or next(words, "")
                if not value or value.startswith("--"):
                    raise InputError("--log-file takes a file, as in --log-file run.log")
                asked.log_file = Path(value)
            else:
                others.append(word)
                if word == "--":
                    others += words
        if asked.quiet and asked.verbose:
            raise InputError("--quiet and --verbose exclude each other")
        return asked, others


def one_line(text: object) -> str:
    """Join the lines of a message; an error without words is called by its name."""
    return " ".join(str(text).split()) or type(text).__name__


@contextmanager
def logging_as_asked(asked: Verbosity) -> Iterator[logging.Logger]:
    """Send what biaslab logs and warns of to stderr and to the log file while a command runs.

    Warnings and errors always go to stderr (errors alone with ``--quiet``); phases with ``--verbose``; the lines on how
    far the work has come where there is no terminal to draw a bar on. The log file gets all of it. Other libraries keep
    quiet, except with ``--debug``.

    Raises
    ------
    InputError
        The log file cannot be written, or is a file of another kind: a log is added to what is there.
    """
    logger, levels = logging.getLogger("biaslab"), {}
    handlers: list[logging.Handler] = [_stderr(asked)]
    if asked.log_file is not None:
        try:
            asked.log_file.parent.mkdir(parents=True, exist_ok=True)
            if not _takes_a_log(asked.log_file):
                raise InputError(f"--log-file {asked.log_file} is a file that is no log of biaslab: name another")
            handlers.append(_LogFile(asked.log_file, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise InputError(
                f"--log-file {asked.log_file} cannot be written ({error.strerror}): name another"
            ) from None
        handlers[-1].setFormatter(logging.Formatter(f"{_FILE_LINE}: %(message)s"))
    progress_level = logging.CRITICAL if asked.quiet else logging.INFO
    for name, level in {"biaslab": logging.INFO, progress.__name__: progress_level}.items():
        levels[name] = logging.getLogger(name).level
        logging.getLogger(name).setLevel(level)
    for name in () if asked.debug else _LIBRARIES:
        levels[name] = logging.getLogger(name).level
        logging.getLogger(name).setLevel(logging.ERROR)
    propagated, logger.propagate = logger.propagate, asked.debug
    for handler in handlers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            if not asked.debug:
                warnings.showwarning = _said_once(logger)
            yield logger
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = propagated
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def name_rank(launch: Launch) -> None:
    """Begin the lines of this command with its rank: several write to one stderr, and to one log file."""
    for handler in logging.getLogger("biaslab").handlers:
        if isinstance(handler, _Echo):
            handler.setFormatter(logging.Formatter(f"biaslab, {launch}: %(message)s"))
        elif isinstance(handler, _LogFile):
            handler.setFormatter(logging.Formatter(f"{_FILE_LINE}, {launch}: %(message)s"))


def _said_once(logger: logging.Logger) -> Callable[..., None]:
    """Show a warning as a line, once in a command: a figure that is drawn three times lacks a letter three times."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if (line := one_line(message)) not in said:
            said.add(line)
            logger.warning("warning: %s", line)

    return show


def _takes_a_log(path: Path) -> bool:
    """Whether a file is new, empty, a device or a log of ours: a log that is added to any other would damage it."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        head = file.read(64)
    return not head or _LOG_LINE.match(head) is not None


def _stderr(asked: Verbosity) -> logging.Handler:
    def shown(record: logging.LogRecord) -> bool:
        if asked.quiet:
            return record.levelno >= logging.ERROR
        if record.name == progress.__name__:
            return sys.stderr is not None and not sys.stderr.isatty()
        return asked.verbose or record.levelno >= logging.WARNING

    handler = _Echo()
    handler.setFormatter(logging.Formatter("biaslab: %(message)s"))
    handler.addFilter(shown)
    return handler


class _Echo(logging.Handler):
    """Writes to what is stderr at that moment, with a replacement for what its encoding lacks."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # who read stderr is gone: no reason to end the work
            typer.echo(self.format(record), err=True)


class _LogFile(logging.FileHandler):
    """A log file that may become unwritable (a full disk) without ending the work: that is said once, on stderr."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            with suppress(OSError):
                typer.echo(
                    f"biaslab: {self.baseFilename} cannot be written any more ({one_line(sys.exception())}): lines of "
                    "the log are lost, the work goes on",
                    err=True,
                )

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before
            super().close()
