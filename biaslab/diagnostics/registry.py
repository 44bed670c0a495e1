"""The table of diagnostics, and running all of them on the same maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pandas as pd

from biaslab._util.registry import Registry
from biaslab._util.watermark import stamp_table
from biaslab.core.layers import resolve_layers
from biaslab.errors import InputError
from biaslab.maps.protocol import Maps

__all__ = ["DIAGNOSTICS", "Diagnostic", "diagnose", "register"]


@dataclass(frozen=True)
class Diagnostic:
    """One measure of positional bias in attention maps.

    Attributes
    ----------
    name : key in :data:`DIAGNOSTICS`.
    title : what it measures, for headings.
    run : ``run(maps, layers=None, confidence=0.95)`` -> DataFrame with columns layer and head.
    stored : whether it reads single images, so that streamed maps do not suffice.
    """

    name: str
    title: str
    run: Callable[..., pd.DataFrame]
    stored: bool = False


#: name -> Diagnostic
DIAGNOSTICS: Registry[Diagnostic] = Registry(
    "diagnostic", package="biaslab.diagnostics.measures", group="biaslab.diagnostics"
)


def register(name: str, title: str, stored: bool = False) -> Callable[[Callable], Callable]:
    """Decorator: make a function on maps known as a diagnostic; tables from a rehearsal's maps are stamped.

    A name can be taken only once.
    """

    def add(run: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        @wraps(run)
        def stamped(maps: Any, *args: Any, **kwargs: Any) -> pd.DataFrame:
            return stamp_table(run(maps, *args, **kwargs), maps.provenance)

        DIAGNOSTICS.add(name, Diagnostic(name, title, stamped, stored), origin=run)
        return stamped

    return add


def diagnose(
    maps: Maps, names: Iterable[str] | None = None, layers: int | Iterable[int] | None = None, confidence: float = 0.95
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Every diagnostic that these maps allow.

    Parameters
    ----------
    maps : AttentionMaps, stored or streamed.
    names : keys of :data:`DIAGNOSTICS`; default all.
    layers : default all that ``maps`` holds.

    Returns
    -------
    tables, skipped
        Name -> table, and name -> why it could not be run (one line).

    Raises
    ------
    InputError
        An unknown name, or a layer that the maps do not hold.
    """
    chosen = {name: DIAGNOSTICS.get(name) for name in (DIAGNOSTICS if names is None else names)}
    layers = resolve_layers(layers, maps.layers, "the maps", "collect")
    tables, skipped = {}, {}
    for name, diagnostic in chosen.items():
        try:
            tables[name] = diagnostic.run(maps, layers=layers, confidence=confidence)
        except InputError as error:
            skipped[name] = str(error)
    return tables, skipped
