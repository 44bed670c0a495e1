"""Sentences on all layers together: where bias is strong, its shape, heads, probe, removal, controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from biaslab._util.number_text import has_values, interval_text, list_text, percent_text
from biaslab.atlas.layer_text import AXES, layers_text, shape_name, side_of_null
from biaslab.diagnostics.probe.claims import SLOPE_MARGIN
from biaslab.diagnostics.probe.verdict import verdict
from biaslab.profiles.quality_text import quality_sentence
from biaslab.stats.claims import ALPHA, side_of

__all__ = ["summary_paragraphs"]

_HEADS_NAMED = 3


def summary_paragraphs(
    summary: pd.DataFrame, tables: Mapping[str, pd.DataFrame], *, margin: tuple[float, float] = SLOPE_MARGIN
) -> list[str]:
    """Write paragraphs, each of the sentences that the tables allow.

    Parameters
    ----------
    summary : DataFrame
        Of :func:`biaslab.atlas.summary.summary_table`: one row per layer.
    tables : mapping of str to DataFrame
        The atlas's; "variance", "quality", "comparison" and "controls" are read.
    margin : (float, float)
        Slopes of the probe that count as the right amount; see :func:`biaslab.diagnostics.probe.verdict.verdict`.

    Returns
    -------
    list of str
    """
    rows = summary.to_dict("records")
    comparison = tables.get("comparison")
    paragraphs = [
        [_order_sentence(rows), _explained_sentences(rows), _map_sentence(rows)],
        [
            *(_shape_sentence(rows, axis) for axis in AXES),
            _region_sentence(rows, "border"),
            _region_sentence(rows, "thumbnail"),
            _tile_sentence(rows),
            _frame_sentence(rows),
        ],
        [_head_sentences(tables.get("variance"))],
        ["" if (quality := tables.get("quality")) is None else quality_sentence(quality)],
        ["" if comparison is None or comparison.empty else f"Causal probe: {verdict(comparison, margin=margin)}"],
        [_removal_sentence(rows)],
        _control_sentences(tables.get("controls")),
    ]
    texts = (" ".join(text for text in paragraph if text) for paragraph in paragraphs)
    return [text for text in texts if text]


def _order_sentence(rows: list[dict]) -> str:
    measured = [r for r in rows if has_values(r, "r2")]
    if len(measured) < 2:
        return ""
    top, bottom = max(measured, key=lambda r: r["r2"]), min(measured, key=lambda r: r["r2"])
    if top["r2"] == bottom["r2"]:
        return ""
    text = (
        f"Among layers, the variance of log attention that position explains is estimated highest in layer "
        f"{top['layer']} ({percent_text(top, 'r2')}) and lowest in layer {bottom['layer']} "
        f"({percent_text(bottom, 'r2')})"
    )
    if side_of_null(top, "r2", 0.0) is None or side_of_null(bottom, "r2", 0.0) is None:
        return f"{text}; without intervals this order may be chance."
    if top["r2_lo"] <= bottom["r2_hi"]:
        return f"{text}; the two intervals overlap, so that no order of layers is claimed."
    others = [r for r in measured if r is not top and r is not bottom]
    for name, rivals in (
        ("highest", [r["layer"] for r in others if not has_values(r, "r2_hi") or r["r2_hi"] >= top["r2_lo"]]),
        ("lowest", [r["layer"] for r in others if not has_values(r, "r2_lo") or r["r2_lo"] <= bottom["r2_hi"]]),
    ):
        if rivals:
            noun = "interval" if len(rivals) == 1 else "intervals"
            text += f"; which layer is the {name} is open, as the {noun} of {layers_text(rivals)} may reach that one's"
    return f"{text}."


def _explained_sentences(rows: list[dict]) -> str:
    measured = [r for r in rows if has_values(r, "r2")]
    groups = _by_side(measured, "r2", 0.0)
    texts = []
    if above := groups[1]:
        texts.append(f"The interval on held-out images lies above 0 in {_layers_of(above, measured)}.")
    if groups[0]:
        texts.append(f"In {layers_text(groups[0])} position explains no significant part (the interval holds 0).")
    if groups[-1]:
        texts.append(f"In {layers_text(groups[-1])} position predicts worse than uniform attention.")
    if groups[None]:
        texts.append(f"In {layers_text(groups[None])} the interval is not known (too few images).")
    return " ".join(texts)


def _by_side(rows: list[dict], name: str, null: float) -> dict[int | None, list[int]]:
    """Layers by the side of the null on which their interval lies; None: not known."""
    groups: dict[int | None, list[int]] = {1: [], -1: [], 0: [], None: []}
    for r in rows:
        groups[side_of_null(r, name, null)].append(r["layer"])
    return groups


def _layers_of(layers: Sequence[int], measured: Sequence[Any]) -> str:
    """Name layers; all of several are counted."""
    if len(layers) < len(measured) or len(layers) == 1:
        return layers_text(layers)
    return "both layers" if len(layers) == 2 else f"all {len(layers)} layers"


def _map_sentence(rows: list[dict]) -> str:
    """Of a profile alone: how far its maps are from uniform attention."""
    measured = [r for r in rows if has_values(r, "map_sd_factor")]
    if len(measured) < 2 or any(has_values(r, "r2") for r in rows):
        return ""
    top, bottom = max(measured, key=lambda r: r["map_sd_factor"]), min(measured, key=lambda r: r["map_sd_factor"])
    if top is bottom:
        return ""
    return (
        f"Over positions the profile's map varies most in layer {top['layer']} (by a factor of "
        f"{top['map_sd_factor']:.2f}, one standard deviation) and least in layer {bottom['layer']} "
        f"({bottom['map_sd_factor']:.2f}); without intervals this order may be chance."
    )


def _shape_sentence(rows: list[dict], axis: str) -> str:
    name, first, last = AXES[axis]
    words = {
        "u": "U-shaped (both ends draw more than under uniform attention) in {}",
        "arch": "an arch (both ends draw less) in {}",
        "falls": f"falling from {first} to {last} in {{}}",
        "rises": f"rising from {first} to {last} in {{}}",
        "first": f"more at the {first} end and less at the {last} end in {{}}",
        "last": f"less at the {first} end and more at the {last} end in {{}}",
        "other": "significant, but of no clear shape, in {}",
        "none": "not significant in {}",
        "unknown": "not known in {}",
    }
    groups: dict[str, list[int]] = {}
    for r in rows:
        if (kind := shape_name(r, axis)) is not None:
            groups.setdefault(kind, []).append(r["layer"])
    if not groups:
        return ""
    texts = [text.format(layers_text(groups[kind])) for kind, text in words.items() if kind in groups]
    return f"Dependence on the {name} is {'; '.join(texts)}."


def _region_sentence(rows: list[dict], region: str) -> str:
    # of a profile alone there are no intervals, and no columns for them
    measured = [r for r in rows if has_values(r, region) and f"{region}_lo" in r]
    groups = _by_side(measured, region, 1.0)
    phrases = [
        f"draws {word} than under uniform attention in {layers_text(groups[side])}"
        for side, word in ((1, "more"), (-1, "less"))
        if groups[side]
    ]
    phrases += [f"does not draw significantly more or less in {layers_text(groups[0])}"] if groups[0] else []
    phrases += [f"has no interval in {layers_text(groups[None])}"] if groups[None] else []
    return f"The {region} {'; it '.join(phrases)}." if phrases else ""


def _tile_sentence(rows: list[dict]) -> str:
    texts = {
        1: "rises from tile to tile in {}",
        -1: "falls from tile to tile in {}",
        0: "does not rise or fall significantly over tiles in {}",
        None: "may rise or fall over tiles in {}, where no interval is known",
    }
    return _slope_sentence(rows, "tile_slope", texts)


def _frame_sentence(rows: list[dict]) -> str:
    texts = {
        1: "rises from the first frame to the last in {}",
        -1: "falls from the first frame to the last in {}",
        0: "does not rise or fall significantly over frames in {}",
        None: "may rise or fall over frames in {}, where no interval is known",
    }
    return _slope_sentence(rows, "frame_slope", texts)


def _slope_sentence(rows: list[dict], name: str, texts: Mapping[int | None, str]) -> str:
    groups = _by_side([r for r in rows if has_values(r, name)], name, 0.0)
    phrases = [text.format(layers_text(groups[side])) for side, text in texts.items() if groups[side]]
    return f"Log attention {'; it '.join(phrases)}." if phrases else ""


def _head_sentences(variance: pd.DataFrame | None) -> str:
    if variance is None:
        return ""
    rows = variance[variance["head"].astype(str).str.isdigit()].to_dict("records")
    ordered = sorted((r for r in rows if has_values(r, "r2")), key=lambda r: r["r2"])
    if len(ordered) < 2:
        return ""
    least = [_head_text(r) for r in ordered[: min(_HEADS_NAMED, len(ordered) - 1)]]
    verb = "is" if len(least) == 1 else "are"
    text = (
        f"Of {len(ordered)} heads the least positional by estimate {verb} {list_text(least)}, the most "
        f"{_head_text(ordered[-1])} (shares of variance explained; extremes of many are flattered by their choice)."
    )
    sides = [side_of(r.get("r2_lo"), r.get("r2_hi"), 0.0) for r in ordered]
    return f"{text} The interval {_counted(sides, 'heads')}."


def _head_text(row: Mapping[Any, Any]) -> str:
    return f"layer {row['layer']} head {row['head']} ({percent_text(row, 'r2')})"


def _removal_sentence(rows: list[dict]) -> str:
    measured = [r for r in rows if has_values(r, "gain")]
    if not measured:
        return ""
    groups: dict[int | None, list[dict]] = {1: [], -1: [], 0: [], None: []}
    for r in measured:
        side = side_of_null(r, "gain", 0.0)
        groups[0 if side and has_values(r, "gain_p") and r["gain_p"] > ALPHA else side].append(r)
    if len(groups[None]) == len(measured):
        return "Removal: the differences in AUROC have no intervals, so that no gain is claimed."
    words = {
        1: "ranks {whom} better in {layers}",
        -1: "ranks {whom} worse in {layers}",
        0: "does not rank {whom} significantly better or worse in {layers}",
        None: "has an effect on {whom} that is not known (no interval) in {layers}",
    }
    phrases: list[str] = []
    for side, word in words.items():
        if not groups[side]:
            continue
        whom = "them" if phrases else "the target's tokens"
        phrases.append(word.format(whom=whom, layers=layers_text(r["layer"] for r in groups[side])))
        if side:
            best = max(groups[side], key=lambda r: abs(r["gain"]))
            size = interval_text(best["gain"], best["gain_lo"], best["gain_hi"], decimals=3, sign=True)
            where = f" in layer {best['layer']}, the largest estimate" * (len(groups[side]) > 1)
            phrases[-1] += f" (AUROC {size}{where})"
    unadjusted = [r["layer"] for side in (1, -1) for r in groups[side] if not has_values(r, "gain_p")]
    caveat = f"; not adjusted for the number of tests in {layers_text(unadjusted)}" if unadjusted else ""
    return f"Removal ({measured[0]['gain_debias']}) {'; it '.join(phrases)}{_expressions(measured)}{caveat}."


def _expressions(measured: list[dict]) -> str:
    counts = sorted({int(r["gain_n"]) for r in measured if has_values(r, "gain_n")})
    if not counts:
        return ""
    if len(counts) > 1:
        return f" (n = {counts[0]:,} to {counts[-1]:,} expressions)"
    return f" (n = {counts[0]:,} expression{'s' * (counts[0] != 1)})"


def _control_sentences(controls: pd.DataFrame | None) -> list[str]:
    """Write a sentence per control: the range of its correlation with the profile, and where that is above 0."""
    sentences = []
    for control, part in () if controls is None else controls.groupby("control", sort=False):
        removes = f" (removes {part['removes'].iloc[0]})" if "removes" in part else ""
        rows = part.to_dict("records")
        known = [r for r in rows if has_values(r, "r")]
        name = f"Control {control}{removes}:"
        if not known:
            sentences.append(f"{name} its attention, or the profile, does not vary over positions.")
            continue
        low, high = (f"{f(r['r'] for r in known):.2f}" for f in (min, max))
        size = low if low == high else f"{low} to {high}"
        sides = [side_of(r.get("r_lo"), r.get("r_hi"), 0.0) for r in known]
        flat = len(rows) - len(known)
        sentences.append(
            f"{name} its map correlates with the profile by an estimated {size}; the interval "
            f"{_counted(sides, 'maps')}{f' ({flat} without variation left out)' if flat else ''}."
        )
    return sentences


def _counted(sides: Sequence[int | None], noun: str) -> str:
    """Write "lies above 0 in 3 and holds 0 in 1 of 4 maps" from the sides of intervals; of a single one no count."""
    words = {1: "lies above 0", 0: "holds 0", -1: "lies below 0", None: "is not known"}
    counts = [(word, sides.count(side)) for side, word in words.items() if side in sides]
    if len(sides) == 1:
        return counts[0][0]
    if len(counts) == 1:
        return f"{counts[0][0]} in {'both' if len(sides) == 2 else f'all {len(sides)}'} {noun}"
    return f"{list_text(f'{word} in {n}' for word, n in counts)} of {len(sides)} {noun}"
