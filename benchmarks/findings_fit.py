"""The profiles that `benchmarks.findings` needs, fitted on images of the calibration split that are asked both ways."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

import biaslab as bl
from benchmarks.gallery_pool import TASKS
from biaslab.datasets.calibration import Calibration
from biaslab.errors import InputError
from biaslab.scenes.gallery import grid_of
from biaslab.workflows.fit_bias import fit_bias

__all__ = [
    "PROFILES", "asked_both_ways", "check_tilings", "explained", "fit_missing", "fit_profiles", "folder_of_profiles",
    "loaded",
]  # fmt: skip

#: name of the file -> options of the fit, as for the grounder (`benchmarks.fair`)
PROFILES: dict[str, dict[str, Any]] = {
    "positional": {},
    "heads": {"heads": "all"},
    "localization-heads": {"estimator": "localization_heads", "layers": (0, 1)},
    "look-ahead": {"estimator": "lookahead"},
}


def asked_both_ways(vlm: bl.VLM, n: int) -> Calibration:
    """Ask the first half of ``n`` calibration images for an object, and the second half questions.

    What the last row of a prompt attends to depends on what is asked; a profile that both tasks use must know both.

    Examples
    --------
    >>> both = asked_both_ways(bl.load("grounder"), 4)
    >>> len(both.images), len(set(both.ids)), both.prompts[0] == both.prompts[2]
    (4, 4, False)
    """
    half = n // 2
    first, second = (bl.calibration(vlm, source, n=k) for source, k in zip(TASKS.values(), (half, n), strict=True))
    images, prompts, ids = (
        [*boxes, *questions[half:]]
        for boxes, questions in (
            (first.images, second.images), (first.prompts, second.prompts), (first.ids, second.ids),
        )
    )  # fmt: skip
    return replace(first, name=" and ".join(TASKS.values()), images=images, prompts=prompts, ids=ids, asked=None)


def fit_profiles(vlm: bl.VLM, folder: Path, sizes: Mapping[str, int]) -> None:
    """Fit what is missing of `PROFILES`, each on so many images."""
    asked = cache(partial(asked_both_ways, vlm))  # several profiles are of the same images
    for name, how in PROFILES.items():
        fit_missing(vlm, folder, name, partial(asked, sizes[name]), **how)


def fit_missing(vlm: bl.VLM, folder: Path, name: str, asked: Callable[[], Calibration], **how: Any) -> Path:
    """Fit a profile on what ``asked()`` gives, unless its file is there; its maps lie beside it and resume."""
    target = folder / f"{name}.safetensors"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fit_bias(vlm, asked(), out=target, maps=folder / f"{name}-maps", batch_size=16, **how)
    return target


def folder_of_profiles(options: argparse.Namespace) -> Path:
    """Name the folder of the profiles: the one that is asked for, else that which ``fit`` writes."""
    return options.profiles or options.runs / "profiles"


def loaded(vlm: bl.VLM, folder: Path) -> list[Any]:
    """Load the profiles, and hold them against the model.

    Raises
    ------
    InputError
        One is missing.
    ProfileMismatchError
        One is of another model.
    """
    missing = [name for name in PROFILES if not (folder / f"{name}.safetensors").exists()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}: run the step fit first")
    profiles = [bl.load_profile(folder / f"{name}.safetensors") for name in PROFILES]
    for profile in profiles:
        profile.check(model=vlm.name, fingerprint=vlm.fingerprint)
    return profiles


def explained(profiles: Sequence[Any]) -> pd.Series:
    """Tell how much of the variance of log attention position explains: layer -> share, of the positional profile.

    Raises
    ------
    InputError
        No profile of the mean knows it: it was fitted by an earlier version.
    """
    for profile in profiles:
        if profile.name == "mean" and profile.provenance_["heads"] == "mean" and len(profile.variance_):
            return profile.variance_.set_index("layer")["r2"]
    raise InputError("no positional profile that knows what position explains: fit it again (biaslab fit-bias)")


def check_tilings(data: Mapping[str, Any], profiles: list[Any]) -> None:
    """Refuse data with a tiling that a profile does not hold and cannot carry over to: each would be a failed sample.

    Raises
    ------
    InputError
        Names the tilings and the profile.
    """
    needed = {grid_of((sample.width, sample.height)) for samples in data.values() for sample in samples}
    for profile in profiles:
        held = {tuple(reversed(layout.tiles)) for layout in profile.layouts_.values()}
        if profile.name == "mean" and (lacking := needed - held):
            named = ", ".join(f"{columns} x {rows}" for columns, rows in sorted(lacking))
            raise InputError(f"the {profile.name} profile holds no image of {named} tiles: fit it on more images")
