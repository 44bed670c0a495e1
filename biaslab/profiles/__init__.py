"""Positional bias profiles: estimators, debias operations, diagnostics and the profile file.

An estimator is one file in this folder: subclass :class:`Profile` and decorate it with :func:`register`. The
folder is scanned, so nothing else needs to change.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from biaslab.attention.debiasing import DEBIAS, debias
from biaslab.profiles import estimators
from biaslab.profiles.base import Profile
from biaslab.profiles.file import load, save
from biaslab.profiles.intervals import MapInterval, map_interval
from biaslab.profiles.registry import ESTIMATORS, make, register
from biaslab.profiles.variance import VarianceExplained, variance_explained, variance_table

for _module in iter_modules(estimators.__path__):
    import_module(f"{estimators.__name__}.{_module.name}")

from biaslab.profiles.estimators.exponential import ExponentialProfile  # noqa: E402
from biaslab.profiles.estimators.factorised import FactorisedProfile  # noqa: E402
from biaslab.profiles.estimators.geometric import GeometricProfile  # noqa: E402
from biaslab.profiles.estimators.mean import MeanProfile  # noqa: E402
from biaslab.profiles.estimators.rope import RopeProfile  # noqa: E402
from biaslab.profiles.estimators.smooth import SmoothProfile  # noqa: E402
from biaslab.profiles.estimators.tile import TileProfile  # noqa: E402
from biaslab.profiles.model_selection import Selection, select_estimator  # noqa: E402

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
