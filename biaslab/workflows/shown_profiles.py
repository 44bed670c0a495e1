"""Which profiles may divide the attention that the viewer shows: those fitted on such rows of that model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.errors import BiaslabError, ProfileMismatchError
from biaslab.profiles.fitted import check_fitted

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["check_division", "check_shown_profiles", "expected_maps"]

_KINDS = {"conditional": "a conditional profile", "heads": "a head profile"}


def check_division(
    vlm: VLM, profile: Profile, *, layout: TokenLayout | None = None, layers: Collection[int] | None = None
) -> None:
    """Refuse a profile that was fitted on something else than the viewer shows.

    It shows the attention of the last prompt token in the unpruned model, head by head.

    Parameters
    ----------
    vlm : VLM
        The model that is looked at.
    profile : Profile
    layout : TokenLayout, optional
        Of the image.
    layers : collection of int, optional
        The layers that are shown: the profile must hold one of them.

    Raises
    ------
    ProfileMismatchError
        Another model, query rule, score, number of heads or layout, no such layer, or no map over places.
    InputError
        No profile, or one that is not fitted.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.maps.simulate import simulate
    >>> layout = bl.TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> profile = bl.MeanProfile().fit(simulate("bottom-heavy", {layout: 60}).maps)
    >>> check_division(bl.load("grounder"), profile)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    biaslab.errors.ProfileMismatchError: the viewer divides attention of the last prompt token by the profile, and ...
    """
    check_fitted(profile)
    if profile.kind != "positional":
        raise ProfileMismatchError(
            f"{_KINDS.get(profile.kind, 'this profile')} has no map over places that attention could be divided by: "
            "give the viewer one of `biaslab fit-bias`, or leave it out"
        )
    config: Any = vlm.decoder.config
    of_mean = profile.provenance_.get("heads") == "mean"
    try:
        profile.check(
            model=vlm.name, revision=vlm.revision, fingerprint=vlm.fingerprint, family=vlm.family.name, queries="last",
            score="attention", heads="mean" if of_mean else config.num_attention_heads, layout=layout,
        )  # fmt: skip
    except ProfileMismatchError as error:
        raise ProfileMismatchError(
            f"the viewer divides attention of the last prompt token by the profile, and {error}"
        ) from error
    if layers is not None and not set(layers) & set(profile.layers_):
        raise ProfileMismatchError(
            f"this profile holds layers {profile.layers_} and none of those shown, {sorted(layers)}: show one that it "
            f"holds (layers={profile.layers_[-1:]}), or leave it out"
        )


def check_shown_profiles(
    vlm: VLM,
    profiles: Sequence[Profile],
    read: Sequence[Profile],
    *,
    layers: Collection[int] | None = None,
) -> None:
    """Refuse profiles that neither a method reads nor attention can be divided by.

    Parameters
    ----------
    vlm : VLM
    profiles : sequence of Profile
        All that are given.
    read : sequence of Profile
        Those that methods read; they may be fitted on other rows.
    layers : collection of int, optional
        As of `check_division`.

    Raises
    ------
    ProfileMismatchError, InputError
        As of `check_division`.
    """
    for profile in profiles:
        if not any(profile is own for own in read):
            check_division(vlm, profile, layers=layers)


def expected_maps(
    vlm: VLM, profiles: Sequence[Profile], layouts: Mapping[str, TokenLayout], layers: Sequence[int]
) -> tuple[dict[str, dict[int, np.ndarray]], list[str]]:
    """Expand the first profile that serves a layout and a layer, one of single heads before one of their mean.

    Parameters
    ----------
    vlm : VLM
    profiles : sequence of Profile
    layouts : mapping of str to TokenLayout
        By key.
    layers : sequence of int

    Returns
    -------
    expected : dict
        Key of the layout -> layer -> (heads or 1, N).
    reasons : list of str
        Where nothing can be divided: why not, a sentence for each profile.
    """
    expected: dict[str, dict[int, np.ndarray]] = {key: {} for key in layouts}
    reasons: dict[str, None] = {}
    for profile in sorted(profiles, key=lambda own: own.provenance_.get("heads") == "mean"):
        for key, layout in layouts.items():
            try:
                check_division(vlm, profile, layout=layout, layers=layers)
            except BiaslabError as error:
                reasons[f"Attention is not divided by the profile {profile.hash}: {error}."] = None
                continue
            there = [layer for layer in layers if layer in profile.layers_]
            expected[key] = {layer: profile.expected(layout, layer).numpy() for layer in there} | expected[key]
    expected = {key: maps for key, maps in expected.items() if maps}
    return expected, [] if expected else list(reasons)
