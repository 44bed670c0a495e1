"""What methods are called in print: FastV and D2Pruner, where a command line says fastv and d2pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from biaslab.errors import InputError
from biaslab.pruning.registry import METHODS, parse
from biaslab.pruning.schedule import Schedule, is_schedule, parse_schedule

if TYPE_CHECKING:
    from biaslab.pruning.base import Method

__all__ = ["display_name"]

UNPRUNED = "no pruning"


def display_name(method: str | Method | Schedule) -> str:
    """Name a method as papers do, its options behind it in brackets.

    Parameters
    ----------
    method : str, Method or Schedule
        One of these, or its label: a word as on the command line.

    Returns
    -------
    str
        The word itself where no method of that name is known here.

    Examples
    --------
    >>> from biaslab.pruning.display_names import display_name
    >>> [display_name(word) for word in ("none", "fastv", "d2pruner:pivots_suppress=true", "fastv:score=no_rope")]
    ['no pruning', 'FastV', 'D2Pruner (pivots suppress)', 'FastV (score no rope)']
    >>> display_name("divprune@0.4@0+d2pruner@0.06@4")
    'DivPrune 40 % at 0 + D2Pruner 6 % at 4'
    >>> display_name("of_a_plug_in:1f")
    'of_a_plug_in:1f'
    """
    word = method if isinstance(method, str) else method.label
    if word == "none":
        return UNPRUNED
    try:
        if is_schedule(word):
            return " + ".join(f"{_named(s.rule)} {_kept(s.rule.keep)} at {s.layer}" for s in parse_schedule(word))
        rule = parse(word)
    except InputError:  # a plug-in that is not installed, or an option of another version
        return word
    return word if isinstance(rule, str) else _named(rule)


def _named(rule: Method) -> str:
    cls = METHODS.get(rule.name)
    name = vars(cls).get("display_name") or cls.__name__  # a name that is inherited is another method's
    options = [_option(part) for part in rule.label.split(":")[1:]]
    return f"{name} ({', '.join(options)})" if options else name


def _option(part: str) -> str:
    """Say an option in words: ``pivots_suppress=true`` is "pivots suppress", ``theta=0.7`` "theta 0.7"."""
    name, _, value = part.partition("=")
    words = {"true": name, "false": f"no {name}"}
    return words.get(value, f"{name} {value}").replace("_", " ").strip()


def _kept(keep: float | int) -> str:
    return f"{100 * keep:g} %" if isinstance(keep, float) else f"{keep} tokens"
