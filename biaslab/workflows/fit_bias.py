"""From calibration images to a profile: what ``biaslab fit-bias`` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from biaslab.datasets.calibration import (
    SOURCES,
    Calibration,
    asked_of,
    calibration,
)
from biaslab.errors import InputError
from biaslab.figures import ProfileDisplay, VarianceDisplay, save
from biaslab.maps.checkpointed import ResumableMaps
from biaslab.maps.collect import collect
from biaslab.profiles import EstimatorChoice, Profile, make, select_estimator, variance_table
from biaslab.profiles.file import profile_path
from biaslab.profiles.model_selection import CRITERIA

if TYPE_CHECKING:
    from biaslab.maps.base import AttentionMaps
    from biaslab.models.vlm import VLM

__all__ = ["AUTO", "SOURCES", "Calibration", "FitResult", "asked_of", "calibration", "fit_bias", "unfitted"]

AUTO = "auto"  # an estimator is chosen


@dataclass(frozen=True)
class FitResult:
    """A fitted profile, the share of variance that position explains per layer, and the files written.

    ``selection`` compares the estimators, if one was to be chosen.
    """

    profile: Profile
    variance: pd.DataFrame
    maps: AttentionMaps
    files: list[Path]
    selection: EstimatorChoice | None = None


def fit_bias(
    vlm: VLM,
    images: Calibration,
    estimator: str | Profile = "mean",
    layers: Iterable[int] | None = None,
    queries: str = "last",
    heads: str = "mean",
    out: str | Path | None = None,
    maps: str | Path | None = None,
    batch_size: int = 8,
    progress: bool = True,
    criterion: str = "r2",
    score: str | Callable = "attention",
) -> FitResult:
    """Collect attention on calibration images, fit a profile, measure what position explains, write and draw.

    Parameters
    ----------
    images : of :func:`calibration`.
    estimator : name or unfitted instance; "auto" lets :func:`~biaslab.profiles.select_estimator` choose one for all
        layers, on held-out images, which the profile's provenance records ("mean", with a warning, where the images
        are too few to hold some out).
    criterion : by which "auto" chooses, "r2" or "deviance".
    score : what the profile is of, as in :func:`~biaslab.maps.collect.collect`; methods that ``read`` it take no other.
    layers : decoder layers; default all.
    out : profile file; the card and a figure of the profile are written beside it.
    maps : folder that keeps every image's attention; default: moments only.

    An interrupted call goes on where it stopped when it is made again: from the folder of ``maps``, or from the
    moments kept beside ``out`` (``.partial``) until the profile is written.

    Returns
    -------
    FitResult
    """
    profile = unfitted(estimator, criterion)
    target = None if out is None else profile_path(out)
    unfinished = target.with_suffix(".partial") if target is not None and maps is None else None
    collected = collect(
        vlm,
        images.images,
        prompt=images.prompts,
        layers=layers,
        heads=heads,
        queries=queries,
        score=score,
        batch_size=batch_size,
        out=maps,
        progress=progress,
        ids=images.ids,
        checkpoint=unfinished,
    )
    selection = None
    if isinstance(estimator, str) and estimator == AUTO:
        try:
            selection = select_estimator(collected, criterion=criterion)
            profile = selection.estimator
        except InputError as error:  # the attention is collected: worth a profile all the same
            warnings.warn(f"no estimator chosen, 'mean' is used: {error}", stacklevel=2)
    profile.fit(collected)
    if selection is not None:
        profile.provenance_["selected"] = {"by": criterion, "among": sorted(set(selection.table["estimator"]))}
    try:
        variance = variance_table(collected, estimator=profile)
    except InputError as error:  # too few images to hold some out: no reason to lose the profile
        warnings.warn(str(error), stacklevel=2)
        variance = pd.DataFrame(columns=["layer", "r2", "r2_lo", "r2_hi", "n"])
    files: list[Path] = []
    if target is not None:
        path = profile.save(target, diagnostics=variance)
        files = [path, path.with_suffix(".md"), *_draw(profile, variance, path.with_suffix(""))]
        if isinstance(collected, ResumableMaps):
            collected.discard()
    return FitResult(profile, variance, collected, files, selection)


def unfitted(estimator: str | Profile, criterion: str = "r2") -> Profile:
    """The estimator that a name stands for, "mean" for "auto" until one is chosen.

    Raises
    ------
    InputError
        Unknown estimator or criterion.
    """
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}")
    return make("mean" if estimator == AUTO else estimator) if isinstance(estimator, str) else estimator


def _draw(profile: Profile, variance: pd.DataFrame, stem: Path) -> list[Path]:

    shown = profile.layers_[:6] if len(variance) <= 6 else _strongest(variance)
    files = save(ProfileDisplay.from_profile(profile, layers=shown).plot(), stem, close=True)
    if len(variance) > 1:
        files += save(VarianceDisplay.from_table(variance).plot(), stem.with_name(f"{stem.name}-variance"), close=True)
    return files


def _strongest(variance: pd.DataFrame, n: int = 6) -> list[int]:
    """The layers whose attention position explains best, in order."""
    return sorted(variance.nlargest(n, "r2")["layer"].tolist())
