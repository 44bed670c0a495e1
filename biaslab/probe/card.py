"""The probe in sentences, every number taken from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from biaslab._util.cards import card_text

if TYPE_CHECKING:
    from biaslab.probe.result import ProbeResult

__all__ = ["card", "verdict"]

_ALPHA = 0.05


def card(probe: ProbeResult, comparison: pd.DataFrame | None, profile: Any = None) -> str:
    """Write a Markdown account of a probe and, if there is one, of its comparison with a profile.

    Parameters
    ----------
    probe : ProbeResult
        The measurement.
    comparison : DataFrame or None
        Of :func:`biaslab.probe.compare`.
    profile : Profile or AttentionMaps, optional
        What the probe was compared with, to be named.

    Returns
    -------
    str
        Markdown.
    """
    settings, design = probe.settings, probe.settings["design"]
    n_images = len(probe.groups) * probe.boxes.shape[3] * np.prod(probe.grid)
    lines = [
        f"{n_images:,} pictures of {design['size'][0]} x {design['size'][1]} pixels: {len(probe.groups)} pairs of "
        f"object and background ({probe.n_groups} different objects), each at all {probe.grid[0]} x {probe.grid[1]} "
        f'places, asked for as "{design["expression"]}" (prompt: "{settings["prompt"]}"). Attention of the query '
        f'rows "{settings["queries"]}" on the object, in natural logarithms, centred per pair.',
        "",
    ]
    for layer in probe.layers:
        for head in probe.heads:
            lines += [f"- {_location_sentence(probe, layer, head, region)}" for region in probe.regions]
    if comparison is not None:
        which = "" if profile is None else f" ({_named(profile)})"
        lines += ["", f"## Against the profile{which}", ""]
        lines += [f"- {_comparison_sentence(row, len(probe.regions) > 1)}" for row in comparison.to_dict("records")]
        lines += ["", verdict(comparison)]
    if probe.iou is not None:
        lines += ["", "## Accuracy by place (IoU >= 0.5)", ""]
        lines += [
            f"- {z['zone']}: {_percent(z['acc50'])} % [{_percent(z['acc50_lo'])}, {_percent(z['acc50_hi'])}] of "
            f"{z['n']:,} answers{_difference(z)}"
            for z in probe.accuracy_by_zone().to_dict("records")
        ]
    return card_text(f"Causal probe of {settings['model']}", settings, [*lines, ""])


def _location_sentence(probe: ProbeResult, layer: int, head: str | int, region: str) -> str:
    effect, error = probe.map(layer, head, region), probe.standard_error(layer, head, region)
    best, worst = (np.unravel_index(f(effect), effect.shape) for f in (np.argmax, np.argmin))
    return (
        f"{_where(layer, head, region, len(probe.regions) > 1)}: the place changes the attention an object draws by a "
        f"factor of {np.exp(effect.std()):.2f} (one standard deviation over places), from "
        f"{np.exp(effect[worst]):.2g} of its average at row {worst[0] + 1}, column {worst[1] + 1} to "
        f"{np.exp(effect[best]):.2g} at row {best[0] + 1}, column {best[1] + 1} (mean standard error of a place: "
        f"{np.mean(error):.2f} in logarithms)."
    )


def _comparison_sentence(row: Mapping[Any, Any], regions: bool) -> str:
    where = _where(row["layer"], row["head"], row["region"], regions)
    if not np.isfinite(row["r_disattenuated"]):
        return f"{where}: the probe's own map is not reliable ({row['reliability']:.2f}): no comparison."
    share = _percent(min(row["r_disattenuated"] ** 2, 1.0))
    return (
        f"{where}: slope {row['slope']:.2f} [{row['slope_lo']:.2f}, {row['slope_hi']:.2f}], r {row['r']:.2f} "
        f"[{row['r_lo']:.2f}, {row['r_hi']:.2f}], at most {row['ceiling']:.2f} possible: once the probe's noise is "
        f"allowed for, the maps share {share} % of their variance (p {_p(row['p'])}, q {_p(row['q'])}; "
        f"n = {row['groups']} groups)."
    )


def verdict(table: pd.DataFrame) -> str:
    """Say how far a profile agrees with the causal effect of the place, over all lines of `compare`'s table."""
    reliable = table[table["r_disattenuated"].notna()]
    if reliable.empty:
        return "The probe is reliable nowhere: use more pairs."
    causal = reliable[(reliable["q"] <= _ALPHA) & (reliable["r"] > 0)]
    n, best = len(reliable), reliable.iloc[int(np.argmax(reliable["r_disattenuated"]))]
    over = (causal["slope_hi"] < 1).sum()
    under = (causal["slope_lo"] > 1).sum()
    shared = (reliable["r_disattenuated"].clip(0, 1) ** 2).agg(["min", "max"])
    text = (
        f"The profile agrees with the causal effect of the place beyond chance (q <= {_ALPHA:g}) in {len(causal)} of "
        f"{n} maps; it shares {_percent(shared['min'])} to {_percent(shared['max'])} % of its variance with the "
        f"reliable causal map (most in layer {best['layer']})."
    )
    if len(causal):
        text += (
            f" Among those, dividing by it would remove too much in {over} (slope below 1), too little in {under} "
            f"(slope above 1), and about the right amount in {len(causal) - over - under} (the interval holds 1)."
        )
    if len(causal) < n:
        text += f" In the other {n - len(causal)} nothing shows that it is the model's rather than the pictures'."
    return text


def _where(layer: int, head: str | int, region: str, regions: bool) -> str:
    return f"layer {layer}" + ("" if head == "mean" else f", head {head}") + (f", {region}" if regions else "")


def _named(profile: Any) -> str:
    provenance = getattr(profile, "provenance_", None) or profile.provenance
    return f"{provenance.get('estimator', 'maps')}, {provenance.get('n', '?')} images"


def _difference(zone: Mapping[Any, Any]) -> str:
    if not np.isfinite(zone["minus_rest"]):
        return ""
    value, low, high = (100 * zone[f"minus_rest{end}"] for end in ("", "_lo", "_hi"))
    return f"; {value:+.1f} points [{low:+.1f}, {high:+.1f}] against all other places, object by object"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _p(value: float) -> str:
    return f"{value:.2g}" if value == value else "-"
