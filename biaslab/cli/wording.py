"""Messages of the library in the words of the command line: ``profile=`` becomes ``--profile``."""

from __future__ import annotations

import re
from typing import Any

import typer

__all__ = ["empty_option", "in_options", "options_of", "shortened"]

# an argument as the library writes it: a name, an equals sign, and a value that may be quoted or in brackets
_ARGUMENT = re.compile(r"\b(?P<name>[a-z]\w*)=(?P<value>'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[\w./-]*[\w/-]|)")


def options_of(app: typer.Typer, verb: str) -> dict[str, str]:
    """Give parameter -> option of a verb, such as ``device_map`` -> ``--device-map``.

    Flags are left out; an unknown verb has none.
    """
    return {p.name: p.opts[0] for p in _valued_options(app, verb) if p.opts[0].startswith("--")}


def _valued_options(app: typer.Typer, verb: str) -> list[Any]:
    """Give the options of a verb that take a value; an unknown verb has none."""
    command: Any = typer.main.get_command(app)
    parameters = command.commands[verb].params if verb in command.commands else []
    return [p for p in parameters if p.param_type_name == "option" and not p.is_flag]


def in_options(message: str, options: dict[str, str]) -> str:
    """Say a message of the library in options of the verb that was used.

    What stands within the brackets of a call (``bl.collect(..., layers=[3])``) is Python and stays, as do arguments
    that the verb has no option for.

    Examples
    --------
    >>> options = {"profile": "--profile", "layers": "--layers", "processes": "--processes"}
    >>> in_options("method 'relative' needs a profile: pass profile=, or leave the method out", options)
    "method 'relative' needs a profile: pass --profile, or leave the method out"
    >>> in_options("use layers=[1, 3] and processes=1, or bl.collect(maps, layers=[3])", options)
    'use --layers 1,3 and --processes 1, or bl.collect(maps, layers=[3])'
    """

    def option(found: re.Match[str]) -> str:
        if found["name"] not in options or _in_a_call(message[: found.start()]):
            return found[0]
        value = found["value"].strip("'\"[]").replace(", ", ",")
        return f"{options[found['name']]} {value}".rstrip()

    return _ARGUMENT.sub(option, message)


def _in_a_call(before: str) -> bool:
    """Whether text ends within the brackets of a call, a name right before the bracket."""
    depth = 0
    for at in range(len(before) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(before[at], 0)
        if depth < 0:
            return at > 0 and (before[at - 1].isidentifier() or before[at - 1].isdigit())
    return False


def shortened(text: object, limit: int = 60) -> str:
    """Leave out the middle of a long text.

    Examples
    --------
    >>> shortened("runs/" + "x" * 500 + "/run.json", limit=20)
    'runs/xxxxx.../run.json'
    """
    words = str(text)
    return words if len(words) <= limit else f"{words[: limit // 2]}...{words[-(limit // 2 - 1) :]}"


def empty_option(app: typer.Typer, arguments: list[str]) -> str:
    """Find the first option of a command line that is given an empty value; "" where there is none.

    An empty path would be read as the folder in which the command runs.
    """
    if all(word.rpartition("=")[2].strip() for word in arguments):
        return ""
    verb = next((word for word in arguments if not word.startswith("-")), "")
    options = {name for option in _valued_options(app, verb) for name in option.opts}
    before = ""
    for word in arguments:
        name, equals, value = word.partition("=")
        if word == "--":
            break
        if before in options and not word.strip():
            return before
        if equals and name in options and not value.strip():
            return name
        before = "" if before in options else word
    return ""
