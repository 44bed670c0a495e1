"""Is it bias? Diagnostics of attention maps, controls, and what is left after removal.

A diagnostic is one file in ``measures/``: a function on maps that returns a DataFrame with a row per layer and head,
decorated with :func:`~biaslab.diagnostics.registry.register`. The folder is scanned, so nothing else needs to change.
"""

from __future__ import annotations

from importlib import import_module

from biaslab.diagnostics.registry import DIAGNOSTICS, Diagnostic, diagnose, register

_HOME = {
    "control_table": "controls", "CONTROLS": "controls",
    "removal_report": "removal", "location_table": "removal", "location_gaps": "removal",
}  # fmt: skip

__all__ = ["DIAGNOSTICS", "Diagnostic", "diagnose", "register", *_HOME]


def __getattr__(name: str):  # controls and removal run models: they are loaded when asked for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
