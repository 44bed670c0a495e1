"""From calibration images to a profile: what ``biaslab fit-bias`` does."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .calibration import blank, images_from, noise
from .collect import PROMPT, collect
from .errors import InputError
from .profiles import Profile, make, variance_table
from .rehearsed import mark
from .scenes import KINDS, scene

if TYPE_CHECKING:
    from .maps import AttentionMaps
    from .models.vlm import VLM

__all__ = ["SOURCES", "Calibration", "Fitted", "calibration", "fit_bias"]

SOURCES = ("scenes", "blank", "noise")
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
        scenes = _scenes(n or _DEFAULT_N)
        asked = prompt or [vlm.family.grounding_prompt(e.text) for _, e in scenes]
        return Calibration("scenes", [s.image for s, _ in scenes], asked, [s.id for s, _ in scenes])
    if source in ("blank", "noise"):
        size = (n or _DEFAULT_N, _NULL_SIZE)
        images = blank(*size) if source == "blank" else noise(*size, seed)
        return Calibration(str(source), images, prompt or PROMPT, [f"{source}-{i:06d}" for i in range(len(images))])
    if not Path(source).expanduser().is_dir():
        raise InputError(
            f"no calibration source {str(source)!r}: give a folder of pictures or one of {', '.join(SOURCES)}"
        )
    return Calibration(f"pictures in {source}", images_from(source, n), prompt or PROMPT)


def _scenes(n: int) -> list[tuple]:
    """The first n calibration scenes, each with one expression; the kinds take turns where a scene allows it."""
    out = []
    for index in range(n):
        s = scene("calibration", index)
        wanted = KINDS[index % len(KINDS)]
        found = sorted(s.expressions, key=lambda e: e.kind != wanted)
        if found:
            out.append((s, found[0]))
    return out


@dataclass(frozen=True)
class Fitted:
    """A fitted profile, the share of variance that position explains per layer, and the files written."""

    profile: Profile
    variance: pd.DataFrame
    maps: AttentionMaps
    files: list[Path]


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
) -> Fitted:
    """Collect attention on calibration images, fit a profile, measure what position explains, write and draw.

    Parameters
    ----------
    images : of :func:`calibration`.
    estimator : name or unfitted instance.
    layers : decoder layers; default all.
    out : profile file; the card and a figure of the profile are written beside it.
    maps : folder that keeps every image's attention (and lets an interrupted run go on); default: moments only.

    Returns
    -------
    Fitted
    """
    profile = make(estimator) if isinstance(estimator, str) else estimator
    collected = collect(
        vlm, images.images, layers, queries, images.prompts, heads, maps, batch_size, progress, images.ids
    )
    profile.fit(collected)
    try:
        variance = variance_table(collected, profile)
    except InputError as error:  # too few images to hold some out: no reason to lose the profile
        warnings.warn(str(error), stacklevel=2)
        variance = pd.DataFrame(columns=["layer", "r2", "lo", "hi", "n"])
    mark(variance, vlm)
    files: list[Path] = []
    if out is not None:
        path = profile.save(out, variance)
        files = [path, path.with_suffix(".md"), *_draw(profile, variance, path.with_suffix(""))]
    return Fitted(profile, variance, collected, files)


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
