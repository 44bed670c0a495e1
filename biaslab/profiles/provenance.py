"""What a profile remembers of its origin, and the refusal of uses it was not fitted for."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from importlib import metadata
from typing import Any

from biaslab._util.jsonable import plain
from biaslab._util.model_identity import NAMES, are_same_weights
from biaslab._util.watermark import is_rehearsal
from biaslab.errors import ProfileMismatchError

__all__ = ["covers", "refuse_others", "version", "warn_other_prompt"]

_WORDS = {
    "model": "model",
    "revision": "model revision",
    "fingerprint": "weights",
    "family": "family",
    "queries": "query rule",
    "heads": "head reduction",
    "score": "score",
}


def refuse_others(provenance: Mapping[str, Any], use: Mapping[str, Any], transports: Collection[str]) -> None:
    """Compare a use with a profile's provenance; None on either side is not compared.

    A model is known by the fingerprint of its weights, where both sides have one: its name may differ, as those of a
    hub model and of a copy in a folder do, and the same name with other weights is refused.

    Parameters
    ----------
    provenance : mapping
        Of the profile.
    use : mapping
        Setting -> value that the profile is to be used for.
    transports : collection of str
        Settings that the estimator carries over.

    Raises
    ------
    ProfileMismatchError
        At the first difference the estimator does not transport over.
    """
    if use.get("model") is not None and is_rehearsal(provenance) != is_rehearsal(use["model"]):
        raise ProfileMismatchError(
            "this profile is a rehearsal's (random weights): fit one on the model itself with `biaslab fit-bias`"
            if is_rehearsal(provenance)
            else "this profile was fitted on a real model: a rehearsal needs one of `biaslab fit-bias --rehearse`"
        )
    same = are_same_weights(provenance, use)
    if same is False and use.get("model") in (provenance.get("model"), None):
        raise ProfileMismatchError(
            f"this profile was fitted for {provenance.get('model')!r} with other weights: fit one for these with "
            "`biaslab fit-bias`"
        )
    for setting, value in use.items():
        mine = provenance.get(setting)
        if value is None or mine is None or setting in transports or (same and setting in NAMES):
            continue
        if setting == "fingerprint" and same is None:
            continue
        if plain(value) != mine:
            raise ProfileMismatchError(
                f"this profile was fitted for {_WORDS[setting]} {mine!r}, not {value!r}: "
                "fit one for it with `biaslab fit-bias`"
            )


def covers(profile: Any, layout: Any) -> bool:
    """Whether a profile serves a layout."""
    try:
        profile.check(layout=layout)
    except ProfileMismatchError:
        return False
    return True


def warn_other_prompt(provenance: Mapping[str, Any], prompt: Any) -> None:
    """Warn if a profile was fitted with another prompt: D2Pruner itself calibrates on a generic one."""
    mine = provenance.get("prompt")
    if prompt is not None and mine is not None and plain(prompt) != mine:
        warnings.warn(
            f"this profile was fitted with the prompt {_short(mine)}, used with {_short(prompt)}: "
            "refit with the same prompt if the comparison matters",
            stacklevel=4,
        )


def version() -> str:
    """Tell the version of the installed biaslab."""
    try:
        return metadata.version("biaslab")
    except metadata.PackageNotFoundError:
        return "uninstalled"


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
