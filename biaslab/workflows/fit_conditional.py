"""Fit a conditional profile on calibration images: what ``biaslab fit-bias --estimator lookahead`` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from biaslab._util.launch import Launch
from biaslab._util.progress import phase
from biaslab.errors import InputError
from biaslab.figures import ProfileDisplay, save
from biaslab.maps.collect import collect
from biaslab.profiles.estimators.lookahead import LookaheadProfile, explained_table
from biaslab.workflows.fit_result import FitResult
from biaslab.workflows.learned_figures import draw_learned
from biaslab.workflows.maps_on_disk import maps_on_disk

if TYPE_CHECKING:
    from biaslab.datasets.calibration import Calibration
    from biaslab.maps.stored import StoredMaps
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["check_alone", "fit_conditional"]


def check_alone(profile: Profile, launch: Launch) -> None:
    """Refuse to fit a conditional profile, or one that chooses heads, by several processes.

    Raises
    ------
    InputError
        They are a launcher's.
    """
    if profile.conditional and not launch.alone:
        raise InputError("a conditional profile is fitted by one process: leave out the launcher")
    if profile.kind == "heads" and not launch.alone:
        raise InputError("a head profile is fitted by one process: leave out the launcher")


def fit_conditional(
    vlm: VLM,
    calibration: Calibration,
    profile: LookaheadProfile,
    *,
    layers: Iterable[int] | None = None,
    queries: str = "answer",
    score: str | Callable = "attention",
    batch_size: int = 8,
    target: Path | None = None,
    progress: bool = True,
    maps: str | Path | None = None,
    workers: int | None = None,
) -> FitResult:
    """Collect every head's attention with what enters the decoder, and fit a conditional profile.

    Parameters
    ----------
    profile : LookaheadProfile
        Unfitted.
    vlm, calibration, layers, queries, score, batch_size, progress, maps, workers
        As of `fit_bias`.
    target : Path, optional
        Profile file, which may be written; it or ``maps`` is needed.

    Returns
    -------
    FitResult

    Raises
    ------
    InputError
        Neither ``target`` nor ``maps``.
    """
    with maps_on_disk(maps, target, why="a conditional profile is fitted to maps on disk") as folder:
        if isinstance(calibration.prompts, str) or len(set(calibration.prompts)) == 1:
            warnings.warn(
                "every image is asked the same, so there is no question to learn from: ask for what is in the "
                "images (--prompts named, or --prompts FILE of captions)",
                stacklevel=2,
            )
        collected = collect(
            vlm, calibration.images, prompt=calibration.prompts, layers=layers, heads="all", queries=queries,
            score=score, batch_size=batch_size, out=folder, progress=progress, ids=calibration.ids, workers=workers,
            features=True,
        )  # fmt: skip
        with phase("fit the profile", show=progress):
            profile.fit(collected, device=vlm.device, progress=progress)
        if calibration.asked is not None:
            profile.provenance_["asked"] = calibration.asked
        files: list[Path] = []
        if target is not None:
            path = profile.save(target)
            with phase("draw the figures", show=progress):
                figure = ProfileDisplay.from_profile(profile, layers=profile.layers_).plot()
                files = [path, path.with_suffix(".md"), *save(figure, path.with_suffix(""), close=True)]
                files += _draw_learned(vlm, profile, cast("StoredMaps", collected), calibration, path.with_suffix(""))
    return FitResult(profile, explained_table(profile.provenance_["held_out"]), collected, files)


def _draw_learned(
    vlm: VLM, profile: LookaheadProfile, maps: StoredMaps, calibration: Calibration, stem: Path
) -> list[Path]:
    asked: Any = calibration.prompts
    names = [maps.record(i).id for i in range(maps.n)] if calibration.ids is None else calibration.ids
    if isinstance(asked, str):
        asked = [asked] * len(names)
    # without ids, and where an image could not be read, it is not known who was asked what
    prompts = dict(zip(names, asked, strict=True)) if len(names) == len(asked) else None
    return draw_learned(vlm, profile, maps, prompts=prompts, out=stem)
