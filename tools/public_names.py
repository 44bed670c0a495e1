"""What is public: rooms, their names, where a name is documented, and which lack an example."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import walk_packages

import biaslab

#: rooms that offer entry points of programs and nothing to import
PROGRAMS = {"biaslab.cli", "biaslab.workflows.harness"}


def public_rooms() -> list[str]:
    """Name the packages that offer something, the module of errors among them."""
    packages = [found.name for found in walk_packages(biaslab.__path__, "biaslab.") if found.ispkg]
    rooms = {"biaslab", "biaslab.errors", *packages} - PROGRAMS
    return sorted(room for room in rooms if hasattr(import_module(room), "__all__"))


def shared_names() -> list[str]:
    """Name what a room offers and ``biaslab`` offers too: its page is that of ``biaslab``."""
    top = {name: getattr(biaslab, name) for name in biaslab.__all__}
    rooms = [import_module(room) for room in public_rooms() if room != "biaslab"]
    return [f"{r.__name__}.{n}" for r in rooms for n in r.__all__ if n in top and getattr(r, n) is top[n]]


def without_example() -> list[str]:
    """Name public classes and functions whose own docstring has no example; constants have none."""
    found = []
    for room in map(import_module, public_rooms()):
        for name in room.__all__:
            thing = getattr(room, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and ">>>" not in (thing.__doc__ or ""):
                found.append(f"{room.__name__}.{name}")
    return found
