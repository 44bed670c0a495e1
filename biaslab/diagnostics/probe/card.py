"""The probe in sentences, every number taken from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from biaslab._util.cards import card_text
from biaslab._util.number_text import count_text, has_values, interval_text, percent_text
from biaslab.diagnostics.probe.claims import SLOPE_MARGIN, comparison_text, few_objects_text
from biaslab.diagnostics.probe.verdict import verdict
from biaslab.maps.base import AttentionMaps
from biaslab.profiles.sample_size import few_images_text

if TYPE_CHECKING:
    from biaslab.diagnostics.probe.result import ProbeResult
    from biaslab.profiles import Profile

__all__ = ["card"]


def card(
    probe: ProbeResult,
    comparison: pd.DataFrame | None,
    profile: Profile | AttentionMaps | None = None,
    *,
    margin: tuple[float, float] = SLOPE_MARGIN,
) -> str:
    """Write a Markdown account of a probe and, if there is one, of its comparison with a profile.

    Parameters
    ----------
    probe : ProbeResult
        The measurement.
    comparison : DataFrame or None
        Of :func:`biaslab.diagnostics.probe.compare`.
    profile : Profile or AttentionMaps, optional
        What the probe was compared with, to be named.
    margin : (float, float)
        Slopes that count as the right amount, where the whole interval lies between them; see
        :func:`biaslab.diagnostics.probe.verdict.verdict`.

    Returns
    -------
    str
        Markdown.
    """
    settings, several = probe.settings, len(probe.regions) > 1
    lines = [_design_sentence(probe)]
    if few := few_objects_text(len(probe.groups), probe.n_groups):
        lines += ["", f"**{few[0].upper()}{few[1:]}.**"]
    lines.append("")
    for layer in probe.layers:
        for head in probe.heads:
            for region in probe.regions:
                effect, error = probe.map(layer, head, region), probe.standard_error(layer, head, region)
                lines.append(f"- {_where(layer, head, region, several)}: {location_text(effect, error)}.")
    if comparison is not None and len(comparison):
        lines += ["", f"## Against the profile{_named(profile)}", ""]
        if profile is not None and (few := few_images_text(_counts(profile), transports=_transports(profile))):
            lines += [f"**{few}**", ""]
        for row in comparison.to_dict("records"):
            where = _where(row["layer"], row["head"], row["region"], several)
            lines.append(f"- {where}: {comparison_text(row, margin)}.")
        brackets = " Brackets are intervals over objects and backgrounds." if "[" in "".join(lines) else ""
        lines += ["", verdict(comparison, margin=margin) + brackets]
    if probe.iou is not None:
        lines += ["", "## Accuracy by place (IoU >= 0.5, 95 % intervals over objects)", ""]
        lines += [f"- {accuracy_text(zone)}" for zone in probe.accuracy_by_zone().to_dict("records")]
    return card_text(f"Causal probe of {settings['model']}", settings, [*lines, ""])


def _design_sentence(probe: ProbeResult) -> str:
    settings, design = probe.settings, probe.settings["design"]
    pairs, (rows, columns) = len(probe.groups), probe.grid
    images = int(pairs * probe.boxes.shape[3] * rows * columns)
    places = f"all {rows} x {columns} places" if rows * columns > 1 else "the only place"
    return (
        f"{count_text(images, 'image')} of {design['size'][0]} x {design['size'][1]} pixels: "
        f"{count_text(pairs, 'pair')} of object and background ({count_text(probe.n_groups, 'different object')}), "
        f'each at {places}, asked for as "{design["expression"]}" (prompt: "{settings["prompt"]}"). Attention of the '
        f'query rows "{settings["queries"]}" on the object, in natural logarithms, centred per pair. Extremes of many '
        "places are flattered by their choice."
    )


def location_text(effect: np.ndarray, error: np.ndarray) -> str:
    """Describe the map of one layer: how much it varies over places, and how much noise alone would make.

    Parameters
    ----------
    effect, error : ndarray
        (R, C) effect of the location on log attention, and its standard error (NaN from a single object).

    Returns
    -------
    str
        A clause without a full stop.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.diagnostics.probe.card import location_text
    >>> location_text(np.log([[0.5, 2.0]]), np.full((1, 2), np.nan))
    'attention on an object varies over places by a factor of 2.00 (one standard deviation), from 0.5 of its average \
at row 1, column 1 to 2 at row 1, column 2; how much of that is noise is not known from one object'
    """
    if not np.isfinite(effect).all():
        return "attention on an object is not a finite number at every place: not known"
    if effect.size < 2:
        return "there is one place only: nothing to compare"
    if not np.ptp(effect):
        return "measured attention on an object is equal at every place"
    best, worst = (np.unravel_index(f(effect), effect.shape) for f in (np.argmax, np.argmin))
    if np.isfinite(error).all():
        noise = f"noise alone would make it vary by {np.exp(np.sqrt(np.mean(error**2))):.2f}"
    else:
        noise = "how much of that is noise is not known from one object"
    return (
        f"attention on an object varies over places by a factor of {np.exp(effect.std()):.2f} (one standard "
        f"deviation), from {np.exp(effect[worst]):.2g} of its average at row {worst[0] + 1}, column {worst[1] + 1} to "
        f"{np.exp(effect[best]):.2g} at row {best[0] + 1}, column {best[1] + 1}; {noise}"
    )


def accuracy_text(zone: Mapping[Any, Any]) -> str:
    """Write a row of `ProbeResult.accuracy_by_zone`.

    Where all objects are alike the interval of Student's t has no width: it says nothing of other objects.
    """
    if not has_values(zone, "acc50"):
        return f"{zone['zone']}: not known"
    shown = dict(zone)
    if not has_values(zone, "acc50_lo", "acc50_hi"):
        why = "one object: no interval"
    elif zone["acc50_lo"] == zone["acc50_hi"]:
        shown["acc50_lo"], why = np.nan, "all objects alike: no interval"
    else:
        why = ""
    text = f"{zone['zone']}: {percent_text(shown, 'acc50')} of {count_text(int(zone['n']), 'answer')}"
    text += f" ({why})" if why else ""
    if not has_values(zone, "minus_rest"):
        return text
    lo, hi = (100 * zone[f"minus_rest{end}"] for end in ("_lo", "_hi"))
    width = np.nan if lo == hi else lo
    difference = interval_text(100 * zone["minus_rest"], width, hi, decimals=1, sign=True)
    known = "" if "[" in difference else " (no interval)"
    return f"{text}; {difference} points{known} against all other places, object by object"


def _where(layer: int, head: str | int, region: str, several: bool) -> str:
    return f"layer {layer}" + ("" if head == "mean" else f", head {head}") + (f", {region}" if several else "")


def _counts(profile: Profile | AttentionMaps) -> dict[str, int]:
    """Images of each layout behind a profile, or behind maps."""
    if isinstance(profile, AttentionMaps):
        return {key: profile.moments(profile.layers[0], key).n for key in profile.layouts}
    return dict(profile.counts_)


def _transports(profile: Profile | AttentionMaps) -> bool:
    return not isinstance(profile, AttentionMaps) and "layout" in profile.transports


def _named(profile: Profile | AttentionMaps | None) -> str:
    if profile is None:
        return ""
    name = "maps" if isinstance(profile, AttentionMaps) else profile.name
    return f" ({name}, {count_text(sum(_counts(profile).values()), 'image')})"
