"""Pruning methods by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from biaslab._util.registry import Registry
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.pruning.base import Method

__all__ = ["METHODS", "from_record", "make", "parse", "register"]

# options as the records of earlier runs name them -> as they are named today
_OPTION_NAMES = {"reads": "score"}
_OPTION_VALUES = {("heads", "each"): "all"}

#: method name -> class; ours in alphabetical order, then those registered from outside
METHODS: Registry[type[Method]] = Registry(
    "pruning method", package="biaslab.pruning.methods", group="biaslab.methods", alphabetical=True
)


def register(cls: type[Method]) -> type[Method]:
    """Make a method known by its ``name``: a class decorator. A name can be taken only once.

    Parameters
    ----------
    cls : subclass of Method

    Returns
    -------
    type
        The class.

    Raises
    ------
    InputError
        The name is taken.

    Examples
    --------
    >>> from biaslab.pruning import FastV, register
    >>> register(type("Copy", (FastV,), {"name": "fastv"}))
    Traceback (most recent call last):
    ...
    biaslab.errors.InputError: a pruning method named 'fastv' exists already: choose another name
    """
    return METHODS.register(cls)


def make(name: str, **options: Any) -> Method:
    """Make a method by name with its options.

    Parameters
    ----------
    name : str
        A key of :data:`METHODS`, e.g. "d2pruner", in capitals or not.
    **options
        Hyper-parameters of the method, ``keep`` among them.

    Returns
    -------
    Method

    Raises
    ------
    InputError
        Unknown method or option, or a value out of range.

    Examples
    --------
    >>> make("fastv", keep=0.2, score="no_rope").label
    'fastv:score=no_rope'
    """
    cls = METHODS.get(_known(name))
    names = cls.option_names()
    if unknown := sorted(set(options) - set(names)):
        raise InputError(f"method {name!r} has no option {', '.join(unknown)}: choose among {', '.join(names)}")
    return cls(**options)


def _known(name: str) -> str:
    """Find a name that is written as the papers write it: D2Pruner, FastV, layer-ratio."""
    if name in METHODS:
        return name
    folded = {_fold(known): known for known in METHODS}
    return folded.get(_fold(name), name)


def _fold(name: str) -> str:
    return str(name).casefold().replace("_", "").replace("-", "")


def from_record(name: str, options: Mapping[str, Any]) -> Method:
    """Make a method as ``run.json`` records it, also under the option names of earlier versions."""
    current = {
        _OPTION_NAMES.get(k, k): _OPTION_VALUES.get((k, v), v) if isinstance(v, str) else v for k, v in options.items()
    }
    return make(name, **current)


def _with_paths(parts: list[str]) -> list[str]:
    """Put a path back behind the ``external:`` that was split from it."""
    out: list[str] = []
    for part in parts:
        if out and out[-1].partition("=")[2].strip() == "external":
            out[-1] = f"{out[-1]}:{part}"
        else:
            out.append(part)
    return out


def parse(text: str) -> Method | str:
    """Make a method from one word, as written on a command line and as `Method.label` writes it.

    Parameters
    ----------
    text : str
        "fastv", or with options "d2pruner:theta=0.7:fill=relax:pivots_suppress=true". Values are JSON where they
        can be read as such, else strings; ``null`` is the word, which names query rows. What follows ``external:`` up
        to the next colon is a path: "mmr:by=external:selector.safetensors:lam=0.7". What follows ``method=`` to the end
        is another method, with its options: "protected:share=0.3:method=fastv:score=no_rope".

    Returns
    -------
    Method or str
        "none", which stands for the unpruned model, is returned as it is.

    Raises
    ------
    InputError
        As `make`, and for an option without a value.

    Examples
    --------
    >>> method = parse("d2pruner:theta=0.7:pivots_suppress=true")
    >>> method.theta, method.pivots_suppress
    (0.7, True)
    """
    word, wraps, inner = text.partition(":method=")
    name, *assignments = _with_paths([part.strip() for part in word.split(":")])
    if not name:
        raise InputError(f"a method without a name in {text!r}: name one, or remove a comma that is too many")
    if name.casefold() == "none" and assignments:
        raise InputError(f"{text!r}: none is the unpruned model and takes no options")
    if name.casefold() == "none" and not assignments:
        return "none"
    options: dict[str, Any] = {"method": inner} if wraps else {}
    for part in assignments:
        option, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(f"option {part!r} of {text!r} has no value: write {name}:{option or 'option'}=value")
        try:
            options[option] = value if value == "null" else json.loads(value)
        except ValueError:
            options[option] = value
    return make(name, **options)
