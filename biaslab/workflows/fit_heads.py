"""Fit a head profile on calibration images: what ``biaslab fit-bias --estimator localization_heads`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from biaslab._util.progress import phase
from biaslab.figures import HeadRatingDisplay, ProfileDisplay, save
from biaslab.maps.collect import collect
from biaslab.profiles.estimators.localization_heads import LocalizationHeadsProfile
from biaslab.workflows.fit_result import FitResult
from biaslab.workflows.maps_on_disk import maps_on_disk

if TYPE_CHECKING:
    from biaslab.datasets.calibration import Calibration
    from biaslab.models.vlm import VLM

__all__ = ["fit_heads"]


def fit_heads(
    vlm: VLM,
    calibration: Calibration,
    profile: LocalizationHeadsProfile,
    *,
    layers: Iterable[int] | None = None,
    queries: str = "last",
    score: str | Callable = "attention",
    batch_size: int = 8,
    target: Path | None = None,
    progress: bool = True,
    maps: str | Path | None = None,
    workers: int | None = None,
) -> FitResult:
    """Collect every head's attention, and choose heads.

    Parameters
    ----------
    profile : LocalizationHeadsProfile
        Unfitted.
    vlm, calibration, layers, queries, score, batch_size, progress, maps, workers
        As of `fit_bias`.
    target : Path, optional
        Profile file, which may be written; it or ``maps`` is needed.

    Returns
    -------
    FitResult
        Its ``variance`` is the table of votes.

    Raises
    ------
    InputError
        Neither ``target`` nor ``maps``.
    """
    with maps_on_disk(maps, target, why="heads are chosen by maps on disk") as folder:
        collected = collect(
            vlm, calibration.images, prompt=calibration.prompts, layers=layers, heads="all", queries=queries,
            score=score, batch_size=batch_size, out=folder, progress=progress, ids=calibration.ids, workers=workers,
        )  # fmt: skip
        with phase("choose the heads", show=progress):
            profile.fit(collected)
        if calibration.asked is not None:
            profile.provenance_["asked"] = calibration.asked
        files: list[Path] = []
        if target is not None:
            path = profile.save(target)
            stem = path.with_suffix("")
            with phase("draw the figures", show=progress):
                figure = ProfileDisplay.from_profile(profile, layers=profile.layers_).plot()
                files = [path, path.with_suffix(".md"), *save(figure, stem, close=True)]
                table = profile.votes_.rename(columns={"frequency": "value"}).assign(criterion="share of votes")
                rated = HeadRatingDisplay.from_table(table, provenance=profile.provenance_).plot()
                files += save(rated, stem.with_name(f"{stem.name}-votes"), close=True)
    return FitResult(profile, profile.votes_, collected, files)
