"""Which visual tokens to keep, and how to drop the others inside a model.

A pruning method is one file in this folder: a subclass of :class:`Method` decorated with :func:`register`.
The folder is scanned, so nothing else needs to change. Methods are pure tensor code;
:mod:`biaslab.pruning.engine` runs them in a model.
"""

from __future__ import annotations

from typing import Any

from .base import Method, Selection, TokenContext, budget
from .registry import METHODS, discover, make, parse, register

discover(__name__, __path__)

from .d2pruner import D2Pruner  # noqa: E402
from .divprune import DivPrune  # noqa: E402
from .fastv import FastV  # noqa: E402
from .layer_ratio import LayerRatio  # noqa: E402
from .random import Random  # noqa: E402
from .relative import Relative  # noqa: E402
from .uniform import Uniform  # noqa: E402

__all__ = [
    "METHODS",
    "D2Pruner",
    "DivPrune",
    "FastV",
    "LayerRatio",
    "Method",
    "PruneRun",
    "Random",
    "Relative",
    "Selection",
    "TokenContext",
    "Uniform",
    "budget",
    "make",
    "parse",
    "prune",
    "register",
]


def __getattr__(name: str) -> Any:
    if name in ("PruneRun", "prune"):  # the engine pulls in transformers
        from . import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
