"""What fitting a profile gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from biaslab.maps.base import AttentionMaps
    from biaslab.profiles import EstimatorChoice

__all__ = ["FitResult"]


@dataclass(frozen=True)
class FitResult:
    """A fitted profile with its diagnostics.

    Attributes
    ----------
    profile : Profile
        Fitted on ``maps``.
    variance : DataFrame
        Of a conditional profile, what :meth:`~biaslab.profiles.LookaheadProfile.explained` says of the held-out
        images. Else the share of the variance of log attention that position explains, one row per layer; see
        :func:`biaslab.profiles.variance_table`. Empty where the images are too few to hold some out.
    maps : AttentionMaps
        Attention of the calibration images.
    files : list of Path
        Files written: the profile, its card and its figures.
    selection : EstimatorChoice or None
        The comparison of the estimators, for ``estimator="auto"``.
    is_main : bool
        Whether this process is the one that fits and writes. Another one of several has collected its share only: its
        profile is not fitted.
    """

    profile: Any  # the class of its estimator
    variance: pd.DataFrame
    maps: AttentionMaps
    files: list[Path]
    selection: EstimatorChoice | None = None
    is_main: bool = True
