"""Pruning methods by name."""

from __future__ import annotations

import json
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.pruning.base import Method

__all__ = ["METHODS", "make", "parse", "register"]

#: method name -> class; ours in alphabetical order, then those registered from outside
METHODS: dict[str, type[Method]] = {}


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: make a method known by its ``name``. A name can be taken only once."""
    known = METHODS.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InputError(f"a pruning method named {cls.name!r} exists already: choose another name")
    METHODS[cls.name] = cls
    return cls


def make(name: str, **options: Any) -> Method:
    """A method by name with its options.

    Parameters
    ----------
    name : a key of :data:`METHODS`, e.g. "d2pruner".
    **options : hyper-parameters of the method, ``keep`` among them.

    Raises
    ------
    InputError
        Unknown method or option, or a value out of range.
    """
    if name not in METHODS:
        raise InputError(f"unknown pruning method {name!r}: choose one of {', '.join(METHODS)}")
    cls = METHODS[name]
    known = cls.option_names()
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"method {name!r} has no option {', '.join(unknown)}: choose among {', '.join(known)}")
    return cls(**options)


def parse(text: str) -> Method | str:
    """A method from one word, as written on a command line and as `Method.label` writes it.

    Parameters
    ----------
    text : "fastv", or with options "d2pruner:theta=0.7:fill=relax:pivots_suppress=true". Values are JSON where they
        can be read as such, else strings. "none", which stands for the unpruned model, is returned as it is.

    Raises
    ------
    InputError
        As `make`, and for an option without a value.
    """
    name, *given = (part.strip() for part in text.split(":"))
    if name == "none" and not given:
        return name
    options = {}
    for part in given:
        option, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(f"option {part!r} of {text!r} has no value: write {name}:{part or 'option'}=value")
        try:
            options[option] = json.loads(value)
        except ValueError:
            options[option] = value
    return make(name, **options)


def discover(package: str, path: list[str]) -> None:
    """Import every file of the package that may define a method."""
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
    for name in sorted(METHODS):  # files import each other: without this the order would be theirs
        METHODS[name] = METHODS.pop(name)
