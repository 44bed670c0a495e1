"""The command line that is being run, for those who write where a file comes from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePath

__all__ = ["current_command", "running"]

_command: ContextVar[str | None] = ContextVar("biaslab_command_line", default=None)


@contextmanager
def running(arguments: Sequence[str]) -> Iterator[None]:
    """Let :func:`current_command` name a command line inside the block.

    Of absolute paths the last part alone is kept: a figure may be handed in without its author's name, which is part
    of most home folders.

    Parameters
    ----------
    arguments : sequence of str
        Those behind the name of the program.

    Examples
    --------
    >>> from biaslab._util.command_line import current_command, running
    >>> with running(["figures", "/home/jo/runs/k4", "--label", "fastv=Fast V"]):
    ...     current_command()
    "biaslab figures k4 --label 'fastv=Fast V'"
    >>> current_command() is None
    True
    """
    token = _command.set(shlex.join(["biaslab", *map(_without_home, arguments)]))
    try:
        yield
    finally:
        _command.reset(token)


def current_command() -> str | None:
    """Return the command line that is being run; None where biaslab is used from Python."""
    return _command.get()


def _without_home(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return f"{option}{equals}{PurePath(value).name}" if value.startswith(("/", "~")) else argument
