"""What methods are called in print: FastV and D2Pruner, where a command line says fastv and d2pruner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError
from biaslab.pruning.registry import METHODS, parse
from biaslab.pruning.schedule import Schedule, is_schedule, parse_schedule

if TYPE_CHECKING:
    from biaslab.pruning.base import Method

__all__ = ["display_name", "display_names", "told_apart"]

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


def display_names(methods: Iterable[str]) -> dict[str, str]:
    """Name methods of one figure: no two of them are called alike.

    Parameters
    ----------
    methods : iterable of str
        Words as on the command line.

    Returns
    -------
    dict of str to str
        Word -> `display_name`; where that of another word is the same, the word itself stands behind it.

    Examples
    --------
    >>> from biaslab.pruning.display_names import display_names
    >>> display_names(["none", "fastv@0.4@2"])
    {'none': 'no pruning', 'fastv@0.4@2': 'FastV 40 % at 2'}
    >>> list(display_names(["fastv@0.10000001@2", "fastv@0.1@2"]).values())
    ['FastV 10 % at 2 (fastv@0.10000001@2)', 'FastV 10 % at 2 (fastv@0.1@2)']
    """
    words = list(dict.fromkeys(methods))
    return told_apart({word: display_name(word) for word in words}, {word: word for word in words})


def told_apart(names: Mapping[Any, str], spelled: Mapping[Any, str]) -> dict[Any, str]:
    """Put how it is spelled behind every name that things of several spellings share.

    Examples
    --------
    >>> from biaslab.pruning.display_names import told_apart
    >>> told_apart({1: "Ours", 2: "Ours", 3: "FastV"}, {1: "fastv", 2: "random", 3: "fastv"})
    {1: 'Ours (fastv)', 2: 'Ours (random)', 3: 'FastV'}
    """
    ways = defaultdict(set)
    for key, name in names.items():
        ways[name].add(spelled[key])
    return {key: f"{name} ({spelled[key]})" if len(ways[name]) > 1 else name for key, name in names.items()}


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
