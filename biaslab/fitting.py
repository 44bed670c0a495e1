"""From calibration images to a profile: what ``biaslab fit-bias`` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .calibration import blank, images_from, noise
from .collect import PROMPT, collect
from .errors import InputError
from .mapcheckpoint import ResumableMaps
from .profiles import Profile, Selection, make, select_estimator, variance_table
from .profiles.file import profile_path
from .profiles.selection import CRITERIA
from .rehearsed import mark
from .scenes import KINDS, Expression, Scene, scene

if TYPE_CHECKING:
    from PIL import Image

    from .maps import AttentionMaps
    from .models.vlm import VLM

__all__ = ["AUTO", "SOURCES", "Calibration", "Fitted", "asked_of", "calibration", "fit_bias"]

SOURCES = ("scenes", "blank", "noise")
AUTO = "auto"  # an estimator is chosen
_DEFAULT_N = 300  # images of a source that never ends
_NULL_SIZE = (448, 448)  # pixels of null images: one tile or one padded square in every family


@dataclass(frozen=True)
class Calibration:
    """Calibration images with what is asked about each.

    Attributes
    ----------
    name : what the images are, for people.
    images : PIL images, paths, or objects with ``.image``.
    prompts : one for all, or one per image; user text, without the chat template.
    ids : one per image, or None for ids made from names or pixels.
    """

    name: str
    images: Sequence[Any]
    prompts: str | list[str]
    ids: list[str] | None = None


def calibration(
    vlm: VLM, source: str | Path, n: int | None = None, prompt: str | None = None, seed: int = 0
) -> Calibration:
    """A calibration set by name.

    Parameters
    ----------
    source : ``"scenes"``: scenes of the calibration split, each with the grounding prompt of one of its expressions
        (attribute, location and relation in turn); ``"blank"``, ``"noise"``: null images; else a folder of pictures.
    n : number of images; default 300, or all of a folder.
    prompt : asked about every image; by default the grounding prompts for scenes, a generic one otherwise.

    Raises
    ------
    InputError
        No such folder or source, or n < 1.
    """
    if n is not None and n < 1:
        raise InputError(f"a calibration set needs at least 1 image, got n={n}")
    if source == "scenes":
        scenes = list(_scenes(n or _DEFAULT_N))
        asked = prompt or [vlm.family.grounding_prompt(text) for _, _, text in scenes]
        return Calibration("scenes", [s for s, _, _ in scenes], asked, [name for _, name, _ in scenes])
    if source in ("blank", "noise"):
        size = (n or _DEFAULT_N, _NULL_SIZE)
        images = blank(*size) if source == "blank" else noise(*size, seed)
        return Calibration(str(source), images, prompt or PROMPT, [f"{source}-{i:06d}" for i in range(len(images))])
    if not Path(source).expanduser().is_dir():
        raise InputError(
            f"no calibration source {str(source)!r}: give a folder of pictures or one of {', '.join(SOURCES)}"
        )
    return Calibration(f"pictures in {source}", images_from(source, n), prompt or PROMPT)


class _ScenePicture:
    """A calibration scene's picture, rendered each time it is read, so that a thousand are not held in memory."""

    def __init__(self, index: int) -> None:
        self._index = index

    def image(self) -> Image.Image:
        return scene("calibration", self._index).image


def _scenes(n: int) -> Iterator[tuple[_ScenePicture, str, str]]:
    """Picture, id and question of the first n calibration scenes; the kinds take turns where a scene allows it."""
    for index in range(n):
        made = scene("calibration", index)
        if (asked := asked_of(made)) is not None:
            yield _ScenePicture(index), made.id, asked.text


def asked_of(shown: Scene) -> Expression | None:
    """The expression by which a calibration scene is asked about; None where it has none."""
    wanted = KINDS[shown.index % len(KINDS)]
    return next(iter(sorted(shown.expressions, key=lambda e: e.kind != wanted)), None)


@dataclass(frozen=True)
class Fitted:
    """A fitted profile, the share of variance that position explains per layer, and the files written.

    ``selection`` compares the estimators, if one was to be chosen.
    """

    profile: Profile
    variance: pd.DataFrame
    maps: AttentionMaps
    files: list[Path]
    selection: Selection | None = None


def fit_bias(
    vlm: VLM,
    images: Calibration,
    estimator: str | Profile = "mean",
    layers: Iterable[int] | None = None,
    queries: str = "last",
    heads: str | None = "mean",
    out: str | Path | None = None,
    maps: str | Path | None = None,
    batch_size: int = 8,
    progress: bool = True,
    criterion: str = "r2",
    score: str | Callable = "attention",
) -> Fitted:
    """Collect attention on calibration images, fit a profile, measure what position explains, write and draw.

    Parameters
    ----------
    images : of :func:`calibration`.
    estimator : name or unfitted instance; "auto" lets :func:`~biaslab.profiles.select_estimator` choose one for all
        layers, on held-out images, which the profile's provenance records ("mean", with a warning, where the images
        are too few to hold some out).
    criterion : by which "auto" chooses, "r2" or "deviance".
    score : what the profile is of, as in :func:`~biaslab.collect.collect`; methods that ``read`` it take no other.
    layers : decoder layers; default all.
    out : profile file; the card and a figure of the profile are written beside it.
    maps : folder that keeps every image's attention; default: moments only.

    An interrupted call goes on where it stopped when it is made again: from the folder of ``maps``, or from the
    moments kept beside ``out`` (``.partial``) until the profile is written.

    Returns
    -------
    Fitted
    """
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}")
    profile = make("mean" if estimator == AUTO else estimator) if isinstance(estimator, str) else estimator
    target = None if out is None else profile_path(out)
    unfinished = target.with_suffix(".partial") if target is not None and maps is None else None
    collected = collect(
        vlm, images.images, layers, queries, images.prompts, heads, maps, batch_size, progress, images.ids, score=score,
        checkpoint=unfinished,
    )  # fmt: skip
    selection = None
    if isinstance(estimator, str) and estimator == AUTO:
        try:
            selection = select_estimator(collected, criterion=criterion)
            profile = selection.estimator
        except InputError as error:  # the attention is collected: worth a profile all the same
            warnings.warn(f"no estimator chosen, 'mean' is used: {error}", stacklevel=2)
    profile.fit(collected)
    if selection is not None:
        mark(selection.table, vlm)
        profile.provenance_["selected"] = {"by": criterion, "among": sorted(set(selection.table["estimator"]))}
    try:
        variance = variance_table(collected, profile)
    except InputError as error:  # too few images to hold some out: no reason to lose the profile
        warnings.warn(str(error), stacklevel=2)
        variance = pd.DataFrame(columns=["layer", "r2", "lo", "hi", "n"])
    mark(variance, vlm)
    files: list[Path] = []
    if target is not None:
        path = profile.save(target, variance)
        files = [path, path.with_suffix(".md"), *_draw(profile, variance, path.with_suffix(""))]
        if isinstance(collected, ResumableMaps):
            collected.discard()
    return Fitted(profile, variance, collected, files, selection)


def _draw(profile: Profile, variance: pd.DataFrame, stem: Path) -> list[Path]:
    from .figures import ProfileDisplay, VarianceDisplay, save

    shown = profile.layers_[:6] if len(variance) <= 6 else _strongest(variance)
    files = save(ProfileDisplay.from_profile(profile, shown).plot(), stem, close=True)
    if len(variance) > 1:
        files += save(VarianceDisplay.from_table(variance).plot(), stem.with_name(f"{stem.name}-variance"), close=True)
    return files


def _strongest(variance: pd.DataFrame, n: int = 6) -> list[int]:
    """The layers whose attention position explains best, in order."""
    return sorted(variance.nlargest(n, "r2")["layer"].tolist())
