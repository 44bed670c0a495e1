"""Positional bias profiles: estimators, debias operations, diagnostics and the profile file.

An estimator is one file in this folder: subclass :class:`Profile` and decorate it with :func:`register`. The
folder is scanned, so nothing else needs to change.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .base import ESTIMATORS, Profile, make, register
from .debias import DEBIAS, debias
from .diagnostics import VarianceExplained, variance_explained, variance_table
from .file import load, save
from .intervals import MapInterval, map_interval

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from .exponential import ExponentialProfile  # noqa: E402
from .factorised import FactorisedProfile  # noqa: E402
from .geometric import GeometricProfile  # noqa: E402
from .mean import MeanProfile  # noqa: E402
from .rope import RopeProfile  # noqa: E402
from .selection import Selection, select_estimator  # noqa: E402
from .smooth import SmoothProfile  # noqa: E402
from .tile import TileProfile  # noqa: E402

load_profile = load  # the name it has in `biaslab`

__all__ = [
    "DEBIAS",
    "ESTIMATORS",
    "ExponentialProfile",
    "FactorisedProfile",
    "GeometricProfile",
    "MapInterval",
    "MeanProfile",
    "Profile",
    "RopeProfile",
    "Selection",
    "SmoothProfile",
    "TileProfile",
    "VarianceExplained",
    "debias",
    "load",
    "load_profile",
    "make",
    "map_interval",
    "register",
    "save",
    "select_estimator",
    "variance_explained",
    "variance_table",
]
