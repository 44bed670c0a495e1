"""Localization under pruning: the evaluation runner, its run folder and its results."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Launch": "runner",
    "PrunedAnswer": "single_image",
    "Results": "results",
    "evaluate": "runner",
    "compare_methods": "single_image",
    "merge_runs": "merging",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
