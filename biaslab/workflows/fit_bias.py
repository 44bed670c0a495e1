"""Fit a profile on calibration images: what ``biaslab fit-bias`` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from biaslab._util.launch import Launch
from biaslab._util.output_place import check_output_file
from biaslab._util.progress import phase
from biaslab.errors import InputError
from biaslab.evaluation.sharing import share_of_cores
from biaslab.figures import ProfileDisplay, VarianceDisplay, save
from biaslab.maps.checkpointed import ResumableMaps
from biaslab.maps.collect import collect
from biaslab.maps.parts import PartMaps
from biaslab.maps.stored import StoredMaps
from biaslab.profiles import Profile, make, select_estimator, variance_table
from biaslab.profiles.file import check_replaceable, profile_path
from biaslab.profiles.model_selection import CRITERIA
from biaslab.profiles.registry import check_knows_frames
from biaslab.workflows.fit_conditional import check_alone, fit_conditional
from biaslab.workflows.fit_heads import fit_heads
from biaslab.workflows.fit_result import FitResult

if TYPE_CHECKING:
    from biaslab.datasets.calibration import Calibration
    from biaslab.models.vlm import VLM

__all__ = ["AUTO", "FitResult", "fit_bias", "unfitted"]

_NO_VARIANCE = ["layer", "r2", "r2_lo", "r2_hi", "n"]
AUTO = "auto"  # the estimator is selected on held-out images


def fit_bias(
    vlm: VLM,
    calibration: Calibration,
    *,
    layers: Iterable[int] | None = None,
    heads: str = "mean",
    queries: str | None = None,
    score: str | Callable = "attention",
    batch_size: int = 8,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    estimator: str | Profile = "mean",
    criterion: str = "r2",
    maps: str | Path | None = None,
    launch: Launch | None = None,
) -> FitResult:
    """Collect attention on calibration images, fit a profile, measure the variance that position explains.

    Parameters
    ----------
    vlm : VLM
        The model.
    calibration : Calibration
        Images with their prompts; see :func:`biaslab.datasets.calibration.calibration`.
    layers : iterable of int, optional
        Decoder layers; default all.
    heads : str
        ``"mean"`` over heads, or ``"all"`` for one map per head. With ``maps`` the profile then also tells which heads
        look at something (``quality_``, :func:`biaslab.profiles.head_quality`), which moments alone do not.
    queries : str, optional
        Query rows, as of :func:`biaslab.maps.collect.collect`: ``"last"`` (prompt token), ``"text"`` (all after the
        image), ``"null"`` (first token behind the image), ``"raters"`` or ``"answer"``. Default: what the estimator is
        fitted to, "last" of a positional one.
    score : str or callable
        The quantity that is profiled, as in :func:`biaslab.maps.collect.collect`. A pruning method takes only a profile
        of its own ``score``.
    batch_size : int
        Images per forward.
    out : str or Path, optional
        Profile file; the card and figures of the profile are written beside it.
    progress : bool
        Show a progress bar.
    workers : int, optional
        Threads that prepare images ahead of the model, as in :func:`biaslab.maps.collect.collect`.
    estimator : str or Profile
        Name or unfitted instance. With ``"auto"``, :func:`biaslab.profiles.select_estimator` selects one for all layers
        on held-out images, and the profile's provenance records it (``"mean"``, with a warning, where the images are
        too few to hold some out). A conditional one (``"lookahead"``) reads every head and what enters the decoder,
        which ``maps`` keeps, or a folder beside ``out`` until the profile is written. So does one that chooses heads
        (``"localization_heads"``), of what every head attends to.
    criterion : str
        Criterion of ``"auto"``: ``"r2"`` or ``"deviance"``.
    maps : str or Path, optional
        Folder that keeps every image's attention; default: moments only.
    launch : Launch, optional
        Which process of how many this one is. Default: what torchrun, ``accelerate launch`` or ``srun`` say. Each
        process then collects its share of the batches into a part of its own in ``maps``, none waits for another, and
        the one that finds them complete fits and writes the profile, which is that of one process.

    Returns
    -------
    FitResult
        The profile and its diagnostics.

    Raises
    ------
    InputError
        Unknown estimator or criterion, one that knows no frames for videos, layers that the model does not have, or
        several processes without ``maps``.
    RunFolderError
        ``maps`` cannot be written, is of other settings, or another command is at work there.

    Notes
    -----
    An interrupted call goes on where it stopped when it is made again: from the folder of ``maps``, or from the
    moments kept beside ``out`` (``.partial``) until the profile is written.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.workflows.fit_bias import fit_bias
    >>> vlm = bl.load("grounder")
    >>> scenes = bl.calibration(vlm, "scenes", n=6)
    >>> result = fit_bias(vlm, scenes, layers=[3, 9], progress=False)
    >>> result.profile.layers_, result.maps.n, result.files
    ([3, 9], 6, [])
    >>> bool(result.variance["r2"].is_monotonic_increasing)  # position explains more of layer 9
    True
    """
    launch = Launch.from_environment() if launch is None else launch
    profile = unfitted(estimator, criterion)
    target = None if out is None else profile_path(check_output_file(out, suffix=".safetensors"))
    if target is not None:
        check_replaceable(target)  # before hours of collecting; saving asks again
    check_alone(profile, launch)
    if calibration.frames:
        check_knows_frames(profile)
    queries = profile.queries if queries is None else queries
    if profile.conditional:
        return fit_conditional(
            vlm, calibration, profile, layers=layers, queries=queries, score=score, batch_size=batch_size,
            target=target, progress=progress, maps=maps, workers=workers,
        )  # fmt: skip
    if profile.kind == "heads":
        heads_of: Any = profile
        return fit_heads(
            vlm, calibration, heads_of, layers=layers, queries=queries, score=score, batch_size=batch_size,
            target=target, progress=progress, maps=maps, workers=workers,
        )  # fmt: skip
    unfinished = target.with_suffix(".partial") if target is not None and maps is None else None
    with share_of_cores(vlm.device, launch.local_world_size):
        collected = collect(
            vlm,
            calibration.images,
            prompt=calibration.prompts,
            layers=layers,
            heads=heads,
            queries=queries,
            score=score,
            batch_size=batch_size,
            out=maps,
            progress=progress,
            workers=workers,
            ids=calibration.ids,
            checkpoint=unfinished,
            launch=launch,
            frames=calibration.frames,
        )
    if isinstance(collected, PartMaps):
        return FitResult(profile, pd.DataFrame(columns=_NO_VARIANCE), collected, [], is_main=False)
    selection = None
    if isinstance(estimator, str) and estimator == AUTO:
        try:
            with phase("choose the estimator", show=progress):
                selection = select_estimator(collected, criterion=criterion)
            profile = selection.estimator
        except InputError as error:  # the attention is collected: worth a profile all the same
            warnings.warn(f"no estimator chosen, 'mean' is used: {error}", stacklevel=2)
    with phase("fit the profile", show=progress):
        profile.fit(collected)
    if selection is not None:
        profile.provenance_["selected"] = {"by": criterion, "among": sorted(set(selection.table["estimator"]))}
    if calibration.asked is not None:
        profile.provenance_["asked"] = calibration.asked
    if collected.heads != "mean" and isinstance(collected, StoredMaps):  # of moments alone it cannot be told
        try:
            with phase("quality of heads", show=progress):
                profile.rate_heads(collected)
        except InputError as error:
            warnings.warn(str(error), stacklevel=2)
    try:
        with phase("variance explained", show=progress):
            variance = variance_table(collected, estimator=profile)
    except InputError as error:  # too few images to hold some out: no reason to lose the profile
        warnings.warn(str(error), stacklevel=2)
        variance = pd.DataFrame(columns=_NO_VARIANCE)
    profile.variance_ = variance
    files: list[Path] = []
    if target is not None:
        path = profile.save(target)
        with phase("draw the figures", show=progress):
            files = [path, path.with_suffix(".md"), *_draw(profile, variance, path.with_suffix(""))]
        if isinstance(collected, ResumableMaps):
            collected.discard()
    return FitResult(profile, variance, collected, files, selection)


def unfitted(estimator: str | Profile, criterion: str = "r2") -> Profile:
    """Return the estimator that a name stands for, "mean" for "auto" until one is selected.

    Parameters
    ----------
    estimator : str or Profile
        Name, ``"auto"``, or an instance, which is returned as it is.
    criterion : str
        Criterion of ``"auto"``: ``"r2"`` or ``"deviance"``.

    Returns
    -------
    Profile
        Unfitted.

    Raises
    ------
    InputError
        Unknown estimator or criterion.

    Examples
    --------
    >>> from biaslab.workflows.fit_bias import unfitted
    >>> unfitted("tile").name, unfitted("auto").name
    ('tile', 'mean')
    >>> unfitted("mode")
    Traceback (most recent call last):
    ...
    biaslab.errors.InputError: ...
    """
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}")
    return make("mean" if estimator == AUTO else estimator) if isinstance(estimator, str) else estimator


def _draw(profile: Profile, variance: pd.DataFrame, stem: Path) -> list[Path]:
    layers = profile.layers_[:6] if len(variance) <= 6 else _strongest(variance)
    files = save(ProfileDisplay.from_profile(profile, layers=layers).plot(), stem, close=True)
    if len(variance) > 1:
        files += save(
            VarianceDisplay.from_table(variance, model=profile.provenance_.get("model")).plot(),
            stem.with_name(f"{stem.name}-variance"), close=True,
        )  # fmt: skip
    return files


def _strongest(variance: pd.DataFrame, n: int = 6) -> list[int]:
    """Return the layers whose attention position explains best, in order."""
    return sorted(variance.nlargest(n, "r2")["layer"].tolist())
