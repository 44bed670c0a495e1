"""Positional bias profiles: estimators, debias operations, diagnostics and the profile file.

An estimator is one file in ``estimators/``: subclass :class:`Profile` and decorate it with :func:`register`. The
folder is scanned, so nothing else needs to change; an installed package brings estimators with an entry point of the
group ``biaslab.estimators``.
"""

from __future__ import annotations

from biaslab.attention.debiasing import DEBIAS, debias
from biaslab.profiles.base import Profile
from biaslab.profiles.estimators.exponential import ExponentialProfile
from biaslab.profiles.estimators.factorised import FactorisedProfile
from biaslab.profiles.estimators.geometric import GeometricProfile
from biaslab.profiles.estimators.localization_heads import LocalizationHeadsProfile
from biaslab.profiles.estimators.lookahead import LookaheadProfile
from biaslab.profiles.estimators.mean import MeanProfile
from biaslab.profiles.estimators.rope import RopeProfile
from biaslab.profiles.estimators.smooth import SmoothProfile
from biaslab.profiles.estimators.tile import TileProfile
from biaslab.profiles.file import load, save
from biaslab.profiles.intervals import MapInterval, map_interval
from biaslab.profiles.model_selection import EstimatorChoice, select_estimator
from biaslab.profiles.quality import head_quality
from biaslab.profiles.registry import ESTIMATORS, make, register
from biaslab.profiles.variance import VarianceExplained, variance_explained, variance_table

load_profile = load  # the name it has in `biaslab`

__all__ = [
    "DEBIAS",
    "ESTIMATORS",
    "ExponentialProfile",
    "FactorisedProfile",
    "GeometricProfile",
    "LocalizationHeadsProfile",
    "LookaheadProfile",
    "MapInterval",
    "MeanProfile",
    "Profile",
    "RopeProfile",
    "EstimatorChoice",
    "SmoothProfile",
    "TileProfile",
    "VarianceExplained",
    "debias",
    "head_quality",
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
