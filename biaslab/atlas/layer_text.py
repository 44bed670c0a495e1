"""What is said of one layer, from its row of the summary. A claim needs an interval that excludes its null, and a q."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from biaslab.atlas.number_format import ALPHA, count_text, has_values, interval_text, percent_text

__all__ = ["AXES", "side_of_null", "layer_sentences", "shape_name"]

#: of the summary table, by column
Row = Mapping[Any, Any]

#: axis of the table -> its name, its first and its last end
AXES = {"row": ("row", "top", "bottom"), "col": ("column", "left", "right")}
_MONOTONE = 0.3  # rank correlation from which a slope is named, where the ends agree with it
_LEANING = 0.5  # from which a U or an arch is said to lean
_SUBJECTS = {"border": "the border", "thumbnail": "the thumbnail"}


def layer_sentences(row: Row) -> str:
    """Say on one line all that the tables hold of one layer."""
    sentences = [
        _variance_sentence(row),
        _reliability_sentence(row),
        _dependence_sentence(row),
        *(_region_sentence(row, region) for region in _SUBJECTS),
        _tile_sentence(row),
        _map_sentence(row),
        _probe_sentence(row),
        _removal_sentence(row),
    ]
    return f"Layer {int(row['layer'])}: " + " ".join(text[0].upper() + text[1:] for text in sentences if text)


def shape_name(row: Row, axis: str) -> str | None:
    """How attention depends on the row or column, as far as intervals and q bear it.

    Returns
    -------
    str or None
        "none" (no dependence is significant), "u" (both ends draw more than under uniform attention), "arch" (both
        less), "falls" or "rises" (from the first end to the last: the rank correlation says so, and an end's interval),
        "first" or "last" (only this end draws more, the other less), "other"; None where nothing was measured.
    """
    _, first, last = AXES[axis]
    if not has_values(row, f"{axis}_eta2", f"{axis}_q"):
        return None
    if not (row[f"{axis}_q"] <= ALPHA and row.get(f"{axis}_eta2_lo", np.nan) > 0):
        return "none"
    start, end = side_of_null(row, first), side_of_null(row, last)
    if start == end != 0:
        return "u" if start > 0 else "arch"
    rho = row.get(f"{axis}_rho", np.nan)
    if rho <= -_MONOTONE and (start > 0 or end < 0):
        return "falls"
    if rho >= _MONOTONE and (start < 0 or end > 0):
        return "rises"
    return {(1, -1): "first", (-1, 1): "last"}.get((start, end), "other")


def side_of_null(row: Row, name: str, null: float = 1.0) -> int:
    """1 or -1 where the interval lies above or below the null, 0 where it holds it or is not known."""
    lo, hi = (row.get(f"{name}{end}", np.nan) for end in ("_lo", "_hi"))
    return int(lo > null) - int(hi < null)


def _variance_sentence(row: Row) -> str:
    if not has_values(row, "r2"):
        return ""
    n, percent = int(row["n"]), percent_text(row, "r2")
    of = "of the variance of log attention on held-out images"
    if not has_values(row, "r2_lo"):
        text = f"position explains {percent} {of} (n = {n}: too few folds for an interval)"
    elif row["r2_lo"] > 0:
        text = f"position explains {percent} {of} (n = {n})"
    else:
        text = f"no significant part {of} is explained by position ({percent}, n = {n})"
    if has_values(row, "r2_asymptotic"):
        significant = row.get("r2_asymptotic_lo", np.nan) > 0
        text += f"; in the limit of many calibration images, {percent_text(row, 'r2_asymptotic')}"
        text += "" if significant else ", which may be nothing"
    return text + "."


def _reliability_sentence(row: Row) -> str:
    if not has_values(row, "n_for_target", "reliability_n"):
        return ""
    n_for_target, n = row["n_for_target"], int(row["reliability_n"])
    if np.isinf(n_for_target) or not row.get("reliability_lo", np.nan) > 0:
        return "no part of its map repeats significantly from image to image."
    images = count_text(int(n_for_target), "image")
    if n_for_target <= n:
        return f"about {images} {'suffices' if n_for_target == 1 else 'suffice'} for a reliability of 0.9."
    return f"a reliability of 0.9 would take about {images}, more than these."


def _dependence_sentence(row: Row) -> str:
    dependences: list[str] = []
    absences: list[str] = []
    for axis, (name, *_) in AXES.items():
        kind = shape_name(row, axis)
        if kind is None:
            continue
        size = interval_text(row[f"{axis}_eta2"], row.get(f"{axis}_eta2_lo"), row.get(f"{axis}_eta2_hi"))
        text = f"the {name} (eta2 {size}, q {row[f'{axis}_q']:.2g}"
        (absences if kind == "none" else dependences).append(
            text + (")" if kind == "none" else f"; {_shape_text(row, axis)})")
        )
    texts = [f"attention depends on {' and on '.join(dependences)}"] if dependences else []
    texts += [f"no significant dependence on {' or on '.join(absences)}"] if absences else []
    return "; ".join(texts) + "." if texts else ""


def _shape_text(row: Row, axis: str) -> str:
    _, *ends = AXES[axis]
    kind, rho = str(shape_name(row, axis)), row.get(f"{axis}_rho", np.nan)
    lean = f", more to the {ends[rho > 0]}" if abs(rho) >= _LEANING else ""
    ratios = [
        f"{end} {interval_text(row[end], row.get(f'{end}_lo'), row.get(f'{end}_hi'), null=1)}" for end in ends
        if has_values(row, end)
    ]  # fmt: skip
    numbers = ", ".join([f"rank correlation {interval_text(rho)}"] * bool(rho == rho) + ratios)
    words = {
        "u": f"U-shaped, both ends above uniform attention{lean}",
        "arch": f"an arch, both ends below uniform attention{lean}",
        "falls": f"it falls from {ends[0]} to {ends[1]}", "rises": f"it rises from {ends[0]} to {ends[1]}",
        "first": f"more at the {ends[0]} end and less at the {ends[1]} end, without a slope between them",
        "last": f"less at the {ends[0]} end and more at the {ends[1]} end, without a slope between them",
        "other": "neither a slope nor a U is significant",
    }  # fmt: skip
    return f"{words[kind]}: {numbers}" if numbers else words[kind]


def _region_sentence(row: Row, region: str) -> str:
    if not has_values(row, region, f"{region}_lo", f"{region}_hi"):
        return ""
    size, side = interval_text(row[region], row[f"{region}_lo"], row[f"{region}_hi"], null=1), side_of_null(row, region)
    if side:
        return f"{_SUBJECTS[region]} draws {size} times as much as under uniform attention."
    return f"{_SUBJECTS[region]} does not draw significantly more or less than under uniform attention ({size})."


def _tile_sentence(row: Row) -> str:
    if not has_values(row, "tile_slope"):
        return ""
    size = interval_text(row["tile_slope"], row.get("tile_slope_lo"), row.get("tile_slope_hi"), sign=True)
    side = side_of_null(row, "tile_slope", 0.0)
    if not side:
        return f"the trend from tile to tile is not significant ({size} per tile in log attention)."
    return f"log attention {'rises' if side > 0 else 'falls'} from tile to tile ({size} per tile)."


def _map_sentence(row: Row) -> str:
    """Say how strong the map is, where no variance explained says more."""
    if has_values(row, "r2") or not has_values(row, "map_sd_factor"):
        return ""
    factor = f"{row['map_sd_factor']:.2f}"
    text = f"over positions the expected attention varies by a factor of {factor} (one standard deviation)"
    parts = [f"{part} {row[part]:.2f}" for part in ("border", "top", "bottom", "left", "right", "thumbnail")
             if has_values(row, part)]  # fmt: skip
    return text + (f"; times uniform attention: {', '.join(parts)}" if parts else "") + "."


def _probe_sentence(row: Row) -> str:
    if "probe_slope" not in row or not has_values(row, "probe_slope"):
        return ""
    if not has_values(row, "probe_r_disattenuated"):
        return "the causal probe is not reliable here."
    r = interval_text(row["probe_r"], row.get("probe_r_lo"), row.get("probe_r_hi"))
    slope = interval_text(row["probe_slope"], row.get("probe_slope_lo"), row.get("probe_slope_hi"), null=1)
    if not (has_values(row, "probe_q") and row["probe_q"] <= ALPHA and row["probe_r"] > 0):
        return f"the causal probe does not confirm the map (r {r}, q {row.get('probe_q', np.nan):.2g})."
    effect = {
        1: "removes too little",
        -1: "removes too much",
        0: "does not remove significantly too much or too little",
    }
    return (
        f"the causal probe agrees with the map beyond chance (r {r}, at most {row['probe_ceiling']:.2f} possible, q "
        f"{row['probe_q']:.2g}); dividing by the profile {effect[side_of_null(row, 'probe_slope')]} (slope {slope})."
    )


def _removal_sentence(row: Row) -> str:
    if not has_values(row, "gain"):
        return ""
    both = f"AUROC {row['auroc_raw']:.3f} before, {row['auroc']:.3f} after, n = {int(row['gain_n'])}"
    if not has_values(row, "gain_lo", "gain_hi"):
        return f"removal: {both} (no interval of the difference)."
    size = interval_text(row["gain"], row["gain_lo"], row["gain_hi"], decimals=3, sign=True)
    side = side_of_null(row, "gain", 0.0)
    if side and has_values(row, "gain_p") and row["gain_p"] > ALPHA:
        return (
            f"whether removal helps is open: the change of {size} ({both}) does not hold among all tests "
            f"(adjusted p {row['gain_p']:.2g})."
        )
    word = {1: "better", -1: "worse", 0: ""}[side]
    if not word:
        return f"removal does not rank the target significantly better or worse ({size}; {both})."
    p = f", adjusted p {row['gain_p']:.2g}" if has_values(row, "gain_p") else ""
    return f"removal ranks the target {word} ({size}; {both}{p})."
