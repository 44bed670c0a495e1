"""Sentences on all layers together: where bias is strong, its shape, heads, probe, removal, controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from biaslab.atlas.layer_text import AXES, shape_name, side_of_null
from biaslab.atlas.number_format import ALPHA, has_values, interval_text, layers_text, list_text, percent_text
from biaslab.probe.card import verdict

__all__ = ["summary_paragraphs"]

_HEADS_NAMED = 3


def summary_paragraphs(summary: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Write paragraphs, each of the sentences that the tables allow.

    Parameters
    ----------
    summary : DataFrame
        Of :func:`biaslab.atlas.summary.summary_table`: one row per layer.
    tables : mapping of str to DataFrame
        The atlas's; "variance", "comparison" and "controls" are read.

    Returns
    -------
    list of str
    """
    rows = summary.to_dict("records")
    paragraphs = [
        [_order_sentence(rows), _insignificant_sentence(rows), _map_sentence(rows)],
        [
            *(_shape_sentence(rows, axis) for axis in AXES),
            _region_sentence(rows, "border"),
            _region_sentence(rows, "thumbnail"),
            _tile_sentence(rows),
        ],
        [_head_sentences(tables.get("variance"))],
        [_probe_sentence(tables.get("comparison"))],
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
    text = (
        f"Among layers, position explains most of the variance of log attention in layer {top['layer']} "
        f"({percent_text(top, 'r2')}) and least in layer {bottom['layer']} ({percent_text(bottom, 'r2')})"
    )
    if not has_values(top, "r2_lo") or not has_values(bottom, "r2_hi"):
        return f"{text}; without intervals this order may be chance."
    if top["r2_lo"] <= bottom["r2_hi"]:
        return f"{text}; the two intervals overlap, so that no difference between layers is claimed."
    rivals = [r["layer"] for r in measured if r is not top and r.get("r2_hi", float("nan")) >= top["r2_lo"]]
    if rivals:
        text += f"; which layer is the first is open, as the intervals of {layers_text(rivals)} reach that one's"
    return f"{text}."


def _insignificant_sentence(rows: list[dict]) -> str:
    measured = [r for r in rows if has_values(r, "r2")]
    layers = [r["layer"] for r in measured if not r.get("r2_lo", float("nan")) > 0]
    if not measured:
        return ""
    if layers:
        return (
            f"In {layers_text(layers)} no significant part is explained (on held-out images the interval does not lie "
            "above 0, or is not known)."
        )
    every = {1: "the layer", 2: "both layers"}.get(len(measured), f"all {len(measured)} layers")
    return f"The interval lies above 0 in {every}."


def _map_sentence(rows: list[dict]) -> str:
    """Of a profile alone: how far its maps are from uniform attention."""
    measured = [r for r in rows if has_values(r, "map_sd_factor")]
    if len(measured) < 2 or any(has_values(r, "r2") for r in rows):
        return ""
    top, bottom = max(measured, key=lambda r: r["map_sd_factor"]), min(measured, key=lambda r: r["map_sd_factor"])
    return (
        f"Expected attention varies most over positions in layer {top['layer']} (by a factor of "
        f"{top['map_sd_factor']:.2f}, one standard deviation) and least in layer {bottom['layer']} "
        f"({bottom['map_sd_factor']:.2f})."
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
        "other": "there, but neither a slope nor a U, in {}",
        "none": "not significant in {}",
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
    measured = [r for r in rows if has_values(r, region, f"{region}_lo", f"{region}_hi")]
    groups = {side: [r["layer"] for r in measured if side_of_null(r, region) == side] for side in (1, -1, 0)}
    phrases = [
        f"{word} than under uniform attention in {layers_text(groups[side])}"
        for side, word in ((1, "more"), (-1, "less"))
        if groups[side]
    ]
    neither = layers_text(groups[0]) if groups[0] else ""
    if not phrases:
        text = f"The {region} does not draw significantly more or less than under uniform attention in {neither}."
        return text if neither else ""
    rest = f"; in {neither} neither is significant" if neither else ""
    return f"The {region} draws {' and '.join(phrases)}{rest}."


def _tile_sentence(rows: list[dict]) -> str:
    measured = [r for r in rows if has_values(r, "tile_slope")]
    texts = {1: "rises from tile to tile in {}", -1: "falls in {}", 0: "shows no significant trend over tiles in {}"}
    groups = {side: [r["layer"] for r in measured if side_of_null(r, "tile_slope", 0.0) == side] for side in texts}
    phrases = [text.format(layers_text(groups[side])) for side, text in texts.items() if groups[side]]
    return f"Log attention {'; '.join(phrases)}." if phrases else ""


def _head_sentences(variance: pd.DataFrame | None) -> str:
    if variance is None:
        return ""
    heads = variance[variance["head"].astype(str).str.isdigit() & variance["r2"].notna()]
    if len(heads) < 2:
        return ""
    ordered = heads.sort_values("r2").to_dict("records")
    least = [_head_text(r) for r in ordered[: min(_HEADS_NAMED, len(ordered) - 1)]]
    text = (
        f"Of {len(ordered)} heads the least positional are {list_text(least)}, the most {_head_text(ordered[-1])} "
        "(shares of variance explained; extremes of many are flattered by their choice)."
    )
    below, unknown = int((heads["r2_hi"] < 0).sum()), int(heads["r2_lo"].isna().sum())
    none = int((~(heads["r2_lo"] > 0)).sum()) - below - unknown
    holds_null = f"In {none or 'none'} of them the interval holds 0"
    others = [f"in {k} it {word}" for k, word in ((below, "lies below 0"), (unknown, "is not known")) if k]
    return f"{text} {', '.join([holds_null, *others])}."


def _head_text(row: Mapping[Any, Any]) -> str:
    return f"layer {row['layer']} head {row['head']} ({percent_text(row, 'r2')})"


def _probe_sentence(comparison: pd.DataFrame | None) -> str:
    return "" if comparison is None or comparison.empty else f"Causal probe: {verdict(comparison)}"


def _removal_sentence(rows: list[dict]) -> str:
    measured = [r for r in rows if has_values(r, "gain")]
    if not measured:
        return ""
    if not any(has_values(r, "gain_lo", "gain_hi") for r in measured):
        return "Removal: the differences in AUROC have no intervals, so that no gain is claimed."
    groups: dict[int, list[dict]] = {1: [], -1: [], 0: []}
    for r in measured:
        significant = not has_values(r, "gain_p") or r["gain_p"] <= ALPHA
        groups[side_of_null(r, "gain", 0.0) if significant else 0].append(r)
    phrases = []
    for side, word in {1: "better", -1: "worse", 0: "neither significantly better nor worse"}.items():
        if groups[side]:
            phrases.append(f"{word} in {layers_text(r['layer'] for r in groups[side])}")
        if groups[side] and side:
            best = max(groups[side], key=lambda r: abs(r["gain"]))
            size = interval_text(best["gain"], best["gain_lo"], best["gain_hi"], decimals=3, sign=True)
            phrases[-1] += f" (AUROC {size}" + f" in layer {best['layer']}, the most" * (len(groups[side]) > 1) + ")"
    n, debias = int(measured[0]["gain_n"]), measured[0]["gain_debias"]
    return f"Removal ({debias}) ranks the target's tokens {'; '.join(phrases)} (n = {n} expressions)."


def _control_sentences(controls: pd.DataFrame | None) -> list[str]:
    """Write a sentence per control: the range of its correlation with the profile, and where that is above 0."""
    sentences = []
    for control, part in () if controls is None else controls.groupby("control", sort=False):
        r, above = part["r"], int((part["r_lo"] > 0).sum())
        removes = f" (removes {part['removes'].iloc[0]})" if "removes" in part else ""
        if r.isna().all():
            sentences.append(f"Control {control}{removes}: its attention does not vary over positions.")
            continue
        sentences.append(
            f"Control {control}{removes}: its map correlates with the profile by {r.min():.2f} to {r.max():.2f}; the "
            f"interval lies above 0 in {above} of {len(part)} maps."
        )
    return sentences
