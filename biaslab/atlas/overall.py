"""What is said of all layers together: where bias is strong, its shape, heads, probe, removal, controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from biaslab.atlas.sentences import AXES, against, shape
from biaslab.atlas.words import ALPHA, interval, known, layers_said, listed, share_said
from biaslab.probe.card import verdict

__all__ = ["overall"]

_HEADS_NAMED = 3


def overall(summary: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Paragraphs, each of the sentences that the tables allow."""
    rows = summary.to_dict("records")
    paragraphs = [
        [_strongest(rows), _least(rows), _factors(rows)],
        [*(_shapes(rows, axis) for axis in AXES), _regions(rows, "border"), _regions(rows, "thumbnail"), _tiles(rows)],
        [_heads(tables.get("variance"))],
        [_probe(tables.get("comparison"))],
        [_removal(rows)],
        _controls(tables.get("controls")),
    ]
    said = (" ".join(text for text in paragraph if text) for paragraph in paragraphs)
    return [text for text in said if text]


def _strongest(rows: list[dict]) -> str:
    found = [r for r in rows if known(r, "r2")]
    if len(found) < 2:
        return ""
    top, bottom = max(found, key=lambda r: r["r2"]), min(found, key=lambda r: r["r2"])
    said = (
        f"Among layers, position explains most of the variance of log attention in layer {top['layer']} "
        f"({share_said(top, 'r2')}) and least in layer {bottom['layer']} ({share_said(bottom, 'r2')})"
    )
    if not known(top, "r2_lo") or not known(bottom, "r2_hi"):
        return f"{said}; without intervals this order may be chance."
    if top["r2_lo"] <= bottom["r2_hi"]:
        return f"{said}; the two intervals overlap, so that the layers are not shown to differ."
    rivals = [r["layer"] for r in found if r is not top and r.get("r2_hi", float("nan")) >= top["r2_lo"]]
    if rivals:
        said += f"; which layer is the first is open, as the intervals of {layers_said(rivals)} reach that one's"
    return f"{said}."


def _least(rows: list[dict]) -> str:
    found = [r for r in rows if known(r, "r2")]
    none = [r["layer"] for r in found if not r.get("r2_lo", float("nan")) > 0]
    if not found:
        return ""
    if none:
        return (
            f"In {layers_said(none)} nothing is shown to be explained (on held-out images the interval does not lie "
            "above 0, or is not known)."
        )
    every = {1: "the layer", 2: "both layers"}.get(len(found), f"all {len(found)} layers")
    return f"The interval lies above 0 in {every}."


def _factors(rows: list[dict]) -> str:
    """Of a profile alone: how far its maps are from even."""
    found = [r for r in rows if known(r, "factor")]
    if len(found) < 2 or any(known(r, "r2") for r in rows):
        return ""
    top, bottom = max(found, key=lambda r: r["factor"]), min(found, key=lambda r: r["factor"])
    return (
        f"Expected attention varies most over positions in layer {top['layer']} (by a factor of {top['factor']:.2f}, "
        f"one standard deviation) and least in layer {bottom['layer']} ({bottom['factor']:.2f})."
    )


def _shapes(rows: list[dict], axis: str) -> str:
    name, first, last = AXES[axis]
    words = {
        "u": "U-shaped (both ends draw more than their even share) in {}",
        "arch": "an arch (both ends draw less) in {}",
        "falls": f"falling from {first} to {last} in {{}}",
        "rises": f"rising from {first} to {last} in {{}}",
        "first": f"more at the {first} end and less at the {last} end in {{}}",
        "last": f"less at the {first} end and more at the {last} end in {{}}",
        "other": "there, but neither a slope nor a U, in {}",
        "none": "not shown in {}",
    }
    groups: dict[str, list[int]] = {}
    for r in rows:
        if (kind := shape(r, axis)) is not None:
            groups.setdefault(kind, []).append(r["layer"])
    if not groups:
        return ""
    said = [text.format(layers_said(groups[kind])) for kind, text in words.items() if kind in groups]
    return f"Dependence on the {name} is {'; '.join(said)}."


def _regions(rows: list[dict], region: str) -> str:
    found = [r for r in rows if known(r, region, f"{region}_lo", f"{region}_hi")]
    groups = {side: [r["layer"] for r in found if against(r, region) == side] for side in (1, -1, 0)}
    said = [f"{word} than its even share in {layers_said(groups[side])}"
            for side, word in ((1, "more"), (-1, "less")) if groups[side]]  # fmt: skip
    if not said:
        open_ = f"The {region} is not shown to draw more or less than its even share in {layers_said(groups[0])}."
        return open_ if groups[0] else ""
    rest = f"; in {layers_said(groups[0])} neither is shown" if groups[0] else ""
    return f"The {region} draws {' and '.join(said)}{rest}."


def _tiles(rows: list[dict]) -> str:
    found = [r for r in rows if known(r, "tile_slope")]
    texts = {1: "rises from tile to tile in {}", -1: "falls in {}", 0: "shows no trend over tiles in {}"}
    groups = {side: [r["layer"] for r in found if against(r, "tile_slope", 0.0) == side] for side in texts}
    said = [text.format(layers_said(groups[side])) for side, text in texts.items() if groups[side]]
    return f"Log attention {'; '.join(said)}." if said else ""


def _heads(variance: pd.DataFrame | None) -> str:
    if variance is None:
        return ""
    heads = variance[variance["head"].astype(str).str.isdigit() & variance["r2"].notna()]
    if len(heads) < 2:
        return ""
    ordered = heads.sort_values("r2").to_dict("records")
    named = [_head(r) for r in ordered[: min(_HEADS_NAMED, len(ordered) - 1)]]
    said = (
        f"Of {len(ordered)} heads the least positional are {listed(named)}, the most {_head(ordered[-1])} (shares of "
        "variance explained; extremes of many are flattered by their choice)."
    )
    below, unknown = int((heads["r2_hi"] < 0).sum()), int(heads["r2_lo"].isna().sum())
    none = int((~(heads["r2_lo"] > 0)).sum()) - below - unknown
    held = f"In {none or 'none'} of them the interval holds 0"
    others = [f"in {k} it {word}" for k, word in ((below, "lies below 0"), (unknown, "is not known")) if k]
    return f"{said} {', '.join([held, *others])}."


def _head(row: Mapping[str, Any]) -> str:
    return f"layer {row['layer']} head {row['head']} ({share_said(row, 'r2')})"


def _probe(comparison: pd.DataFrame | None) -> str:
    return "" if comparison is None or comparison.empty else f"Causal probe: {verdict(comparison)}"


def _removal(rows: list[dict]) -> str:
    found = [r for r in rows if known(r, "gain")]
    if not found:
        return ""
    if not any(known(r, "gain_lo", "gain_hi") for r in found):
        return "Removal: the differences in AUROC have no intervals, so that no gain is claimed."
    groups: dict[int, list[dict]] = {1: [], -1: [], 0: []}
    for r in found:
        sure = not known(r, "gain_p") or r["gain_p"] <= ALPHA
        groups[against(r, "gain", 0.0) if sure else 0].append(r)
    said = []
    for side, word in {1: "better", -1: "worse", 0: "neither better nor worse, as far as is shown,"}.items():
        if groups[side]:
            said.append(f"{word} in {layers_said(r['layer'] for r in groups[side])}")
        if groups[side] and side:
            best = max(groups[side], key=lambda r: abs(r["gain"]))
            size = interval(best["gain"], best["gain_lo"], best["gain_hi"], decimals=3, sign=True)
            said[-1] += f" (AUROC {size}" + f" in layer {best['layer']}, the most" * (len(groups[side]) > 1) + ")"
    n, debias = int(found[0]["gain_n"]), found[0]["gain_debias"]
    return f"Removal ({debias}) ranks the target's tokens {'; '.join(said)} (n = {n} expressions)."


def _controls(controls: pd.DataFrame | None) -> list[str]:
    """A sentence per control: the range of its correlation with the profile, and where that is above 0."""
    said = []
    for control, part in () if controls is None else controls.groupby("control", sort=False):
        r, above = part["r"], int((part["r_lo"] > 0).sum())
        removes = f" (removes {part['removes'].iloc[0]})" if "removes" in part else ""
        if r.isna().all():
            said.append(f"Control {control}{removes}: its attention does not vary over positions.")
            continue
        said.append(
            f"Control {control}{removes}: its map correlates with the profile by {r.min():.2f} to {r.max():.2f}; the "
            f"interval lies above 0 in {above} of {len(part)} maps."
        )
    return said
