"""The table of diagnostics, and running all of them on the same maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pandas as pd

from biaslab._util.one_line import OneLine
from biaslab._util.registry import Registry
from biaslab._util.watermark import stamp_table
from biaslab.core.frames import FramesLayout
from biaslab.core.layers import resolve_layers
from biaslab.errors import InputError
from biaslab.maps.protocol import Maps, expect_maps

__all__ = ["DIAGNOSTICS", "Diagnostic", "diagnose", "register"]


@dataclass(frozen=True, repr=False)
class Diagnostic(OneLine):
    """One measure of positional bias in attention maps.

    Attributes
    ----------
    name : str
        Key in :data:`DIAGNOSTICS`.
    title : str
        What it measures, for headings.
    run : callable
        ``run(maps, *, layers=None, confidence=0.95)`` -> DataFrame with columns layer and head.
    stored : bool
        Whether it reads single images, so that streamed maps do not suffice.
    frames : bool
        Whether it is of prompts of several frames, and nothing of single images.

    Examples
    --------
    >>> from biaslab.diagnostics import DIAGNOSTICS
    >>> reliability = DIAGNOSTICS["reliability"]
    >>> reliability.name, reliability.stored
    ('reliability', True)
    """

    name: str
    title: str
    run: Callable[..., pd.DataFrame]
    stored: bool = False
    frames: bool = False


#: name -> Diagnostic
DIAGNOSTICS: Registry[Diagnostic] = Registry(
    "diagnostic", package="biaslab.diagnostics.measures", group="biaslab.diagnostics"
)


def register(name: str, title: str, stored: bool = False, frames: bool = False) -> Callable[[Callable], Callable]:
    """Register a function on maps as a diagnostic (a decorator); tables from a rehearsal's maps are stamped.

    Parameters
    ----------
    name : str
        Key in :data:`DIAGNOSTICS`; it can be taken only once.
    title : str
        What the diagnostic measures, for headings.
    stored : bool
        Whether it reads single images, so that streamed maps do not suffice.
    frames : bool
        Whether it is of prompts of several frames: `diagnose` then leaves it out where there are none.

    Returns
    -------
    callable
        The decorator.

    Raises
    ------
    InputError
        The name is taken.

    Examples
    --------
    A file in ``measures/``, or a plug-in, holds::

        @register("peak", "Highest mean attention of a layer")
        def peak(maps, *, layers=None, confidence=0.95): ...

    >>> from biaslab.diagnostics import DIAGNOSTICS, register
    >>> DIAGNOSTICS["mass"].title
    'Attention share over area share of regions of the image'
    >>> register("mass", "Another measure")(lambda maps, *, layers=None, confidence=0.95: None)
    Traceback (most recent call last):
    biaslab.errors.InputError: a diagnostic named 'mass' exists already: choose another name
    """

    def add(run: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        @wraps(run)
        def stamped(maps: Any, *args: Any, **kwargs: Any) -> pd.DataFrame:
            return stamp_table(run(maps, *args, **kwargs), maps.provenance)

        DIAGNOSTICS.add(name, Diagnostic(name, title, stamped, stored, frames), origin=run)
        return stamped

    return add


def diagnose(
    maps: Maps,
    *,
    layers: int | Iterable[int] | None = None,
    names: Iterable[str] | None = None,
    confidence: float = 0.95,
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Run every diagnostic that these maps allow.

    Parameters
    ----------
    maps : AttentionMaps
        Stored or streamed.
    layers : int or iterable of int, optional
        Default all that ``maps`` holds.
    names : iterable of str, optional
        Keys of :data:`DIAGNOSTICS`; default all, those of frames only where the maps hold prompts of several.
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    tables : dict of str to DataFrame
        Name -> table.
    skipped : dict of str to str
        Name -> why it could not be run (one line).

    Raises
    ------
    InputError
        An unknown name, or a layer that the maps do not hold.

    Examples
    --------
    Streamed maps hold moments, no single images:

    >>> import biaslab as bl
    >>> from biaslab.diagnostics import diagnose
    >>> from biaslab.maps.simulate import simulate
    >>> layout = bl.TokenLayout.raster(6, 6, size=(336, 336), family="llava")
    >>> tables, skipped = diagnose(simulate("u-shaped", [(layout, 20)]).maps, names=["mass", "dependence"])
    >>> tables["mass"][["layer", "region", "n"]].head(2)
       layer  region   n
    0      0  border  20
    1      0     top  20
    >>> skipped["dependence"]
    "this diagnostic reads single images: collect with out='FOLDER' (fit-bias --maps FOLDER)"
    """
    expect_maps(maps)
    diagnostics = {name: DIAGNOSTICS.get(name) for name in (DIAGNOSTICS if names is None else names)}
    if names is None and not any(isinstance(layout, FramesLayout) for layout in maps.layouts.values()):
        diagnostics = {name: each for name, each in diagnostics.items() if not each.frames}
    layers = resolve_layers(layers, maps.layers, "the maps", "collect")
    tables: dict[str, pd.DataFrame] = {}
    skipped: dict[str, str] = {}
    for name, diagnostic in diagnostics.items():
        try:
            tables[name] = diagnostic.run(maps, layers=layers, confidence=confidence)
        except InputError as error:
            skipped[name] = str(error)
    return tables, skipped
