"""What is said of one layer, from its row of the summary.

A claim needs an interval that excludes its null, and a q where there is one. An interval that holds the null is "not
shown", a missing one "not known": neither is ever written as an absence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from biaslab._util.number_text import (
    has_values,
    interval_text,
    is_number,
    p_text,
    percent_text,
    runs_text,
)
from biaslab.diagnostics.probe.claims import SLOPE_MARGIN, comparison_text
from biaslab.stats.claims import ALPHA, side_of

__all__ = ["AXES", "images_needed", "layer_sentences", "layers_text", "shape_name", "side_of_null"]

#: of the summary table, by column
Row = Mapping[Any, Any]

#: axis of the table -> its name, its first and its last end
AXES = {"row": ("row", "top", "bottom"), "col": ("column", "left", "right")}
_MONOTONE = 0.3  # rank correlation from which a slope is named, where the intervals of the ends part
_LEANING = 0.5  # from which a U or an arch is said to lean, under the same condition
_SUBJECTS = {"border": "the border", "thumbnail": "the thumbnail"}
_TARGET = 0.9  # reliability that `n_for_target` is for
_MOST_IMAGES = 1_000_000  # beyond, a number of images is not worth its digits


def layers_text(layers: Iterable[int]) -> str:
    """Write layers as "layer 3" or "layers 0, 2 to 5 and 9"."""
    return runs_text(layers, "layer")


def layer_sentences(row: Row, *, margin: tuple[float, float] = SLOPE_MARGIN) -> str:
    """Say on one line all that the tables hold of one layer.

    Parameters
    ----------
    row : mapping
        Of :func:`biaslab.atlas.summary.summary_table`.
    margin : (float, float)
        Slopes of the probe that count as the right amount; see :data:`biaslab.diagnostics.probe.claims.SLOPE_MARGIN`.

    Returns
    -------
    str
    """
    sentences = [
        _variance_sentence(row),
        _reliability_sentence(row),
        _dependence_sentence(row),
        *(_region_sentence(row, region) for region in _SUBJECTS),
        _tile_sentence(row),
        _frame_sentence(row),
        _frame_top_sentence(row),
        _map_sentence(row),
        _probe_sentence(row, margin),
        _removal_sentence(row),
    ]
    texts = [text[0].upper() + text[1:] for text in sentences if text]
    return f"Layer {int(row['layer'])}: {' '.join(texts) if texts else 'Nothing was measured.'}"


def shape_name(row: Row, axis: str) -> str | None:
    """How attention depends on the row or column, as far as intervals and q bear it.

    Returns
    -------
    str or None
        "none" (no significant dependence), "unknown" (no interval or q), "u" (both ends draw more than under uniform
        attention), "arch" (both less), "falls" or "rises" (from the first end to the last: the rank correlation says so
        and the intervals of the two ends part in this direction), "first" or "last" (only this end draws more, the
        other less), "other"; None where nothing was measured.
    """
    _, first, last = AXES[axis]
    if not has_values(row, f"{axis}_eta2"):
        return None
    side = side_of_null(row, f"{axis}_eta2", 0.0)
    if side is None or not has_values(row, f"{axis}_q"):
        return "unknown"
    if side <= 0 or row[f"{axis}_q"] > ALPHA:
        return "none"
    start, end = side_of_null(row, first) or 0, side_of_null(row, last) or 0
    if start == end != 0:
        return "u" if start > 0 else "arch"
    if (start or end) and (trend := _trend(row, axis, _MONOTONE)):
        return "rises" if trend > 0 else "falls"
    return {(1, -1): "first", (-1, 1): "last"}.get((start, end), "other")


def _trend(row: Row, axis: str, least: float) -> int:
    """1 or -1 where the rank correlation and the intervals of both ends say so alike, else 0."""
    _, first, last = AXES[axis]
    ends = [f"{end}{bound}" for end in (first, last) for bound in ("_lo", "_hi")]
    if not has_values(row, f"{axis}_rho", *ends) or abs(row[f"{axis}_rho"]) < least:
        return 0
    parted = int(row[f"{last}_lo"] > row[f"{first}_hi"]) - int(row[f"{first}_lo"] > row[f"{last}_hi"])
    return parted if parted == np.sign(row[f"{axis}_rho"]) else 0


def side_of_null(row: Row, name: str, null: float = 1.0) -> int | None:
    """1 or -1 where the interval lies above or below the null, 0 where it holds it, None where it is not known."""
    return side_of(row.get(f"{name}_lo"), row.get(f"{name}_hi"), null)


def _variance_sentence(row: Row) -> str:
    if not has_values(row, "r2"):
        return "the share of variance that position explains is not known." if "r2" in row else ""
    n, percent, side = int(row["n"]), percent_text(row, "r2"), side_of_null(row, "r2", 0.0)
    of = "of the variance of log attention on held-out images"
    if side is None:
        text = (
            f"position explains an estimated {percent} {of} (n = {n}), which may be noise: "
            "too few images for an interval"
        )
    elif side > 0:
        text = f"position explains {percent} {of} (n = {n})"
    elif side < 0:
        text = f"position predicts worse than uniform attention: it explains {percent} {of} (n = {n})"
    else:
        text = f"position explains no significant part {of} ({percent}, n = {n})"
    if has_values(row, "r2_asymptotic"):
        limit = {1: "", 0: ", not significantly different from 0", -1: ", below 0", None: ", without an interval"}
        text += f"; in the limit of many calibration images, {percent_text(row, 'r2_asymptotic')}"
        text += limit[side_of_null(row, "r2_asymptotic", 0.0)]
    return text + "."


def images_needed(row: Row) -> tuple[float, float]:
    """Compute the ends of the interval of the number of images for a reliability of 0.9.

    They follow from the interval of the reliability of n images, by Spearman and Brown's formula. The upper end is
    infinite where that interval holds 0; both are NaN where it is not known.
    """
    if not has_values(row, "reliability_n", "reliability_lo", "reliability_hi"):
        return np.nan, np.nan
    odds = _TARGET / (1 - _TARGET)
    needed = [
        odds * row["reliability_n"] * (1 - r) / r if r > 0 else np.inf
        for r in (row["reliability_hi"], row["reliability_lo"])
    ]
    return max(1.0, float(np.ceil(needed[0] - 1e-9))), max(1.0, float(np.ceil(needed[1] - 1e-9)))


def _reliability_sentence(row: Row) -> str:
    if not has_values(row, "reliability_n"):
        return ""
    n, size = int(row["reliability_n"]), _reliability_size(row)
    side = side_of_null(row, "reliability", 0.0)
    if side is None:
        return f"whether its map repeats from image to image is not known{size} (n = {n}: no interval)."
    if side <= 0 or not has_values(row, "n_for_target"):
        return f"its map does not repeat significantly from image to image{size} (n = {n})."
    low, high = images_needed(row)
    images = f"{_count(row['n_for_target'])} image{'s' * (row['n_for_target'] != 1)}"
    images += f" [{_count(low)}, {_count(high)}]" if low < high else ""
    if high <= n:
        verb = "suffices" if row["n_for_target"] == 1 else "suffice"
        return f"about {images} {verb} for a reliability of {_TARGET:g}."
    more = ", more than these" if low > n else f"; these are {n:,}"
    return f"a reliability of {_TARGET:g} would take about {images}{more}."


def _count(images: float) -> str:
    """Write a number of images; where next to nothing repeats it has no bound."""
    return f"{images:,.0f}" if images <= _MOST_IMAGES else f"over {_MOST_IMAGES:,}"


def _reliability_size(row: Row) -> str:
    text = interval_text(row.get("reliability"), row.get("reliability_lo"), row.get("reliability_hi"))
    return f": reliability {text}" if text else ""


def _dependence_sentence(row: Row) -> str:
    texts: dict[str, list[str]] = {"shown": [], "none": [], "unknown": []}
    for axis, (name, *_) in AXES.items():
        kind = shape_name(row, axis)
        if kind is None:
            continue
        size = interval_text(row[f"{axis}_eta2"], row.get(f"{axis}_eta2_lo"), row.get(f"{axis}_eta2_hi"))
        shape = "" if kind in texts else f"; {_shape_text(row, axis, kind)}"
        texts[kind if kind in texts else "shown"].append(
            f"the {name} (eta2 {size}, {p_text('q', row.get(f'{axis}_q'))}{shape})"
        )
    sentences = [
        f"attention depends on {' and on '.join(texts['shown'])}" if texts["shown"] else "",
        f"dependence on {' and on '.join(texts['none'])} is not significant" if texts["none"] else "",
        f"whether it depends on {' and on '.join(texts['unknown'])} is not known" if texts["unknown"] else "",
    ]
    said = "; ".join(text for text in sentences if text)
    return f"{said}." if said else ""


def _shape_text(row: Row, axis: str, kind: str) -> str:
    _, *ends = AXES[axis]
    trend = _trend(row, axis, _LEANING)
    lean = f", more to the {ends[trend > 0]}" if trend else ""
    ratios = [
        f"{end} {interval_text(row[end], row.get(f'{end}_lo'), row.get(f'{end}_hi'), null=1)}" for end in ends
        if has_values(row, end)
    ]  # fmt: skip
    rho = interval_text(row.get(f"{axis}_rho"))
    numbers = ", ".join([f"rank correlation {rho}"] * bool(rho) + ratios)
    words = {
        "u": f"U-shaped, both ends above uniform attention{lean}",
        "arch": f"an arch, both ends below uniform attention{lean}",
        "falls": f"it falls from {ends[0]} to {ends[1]}", "rises": f"it rises from {ends[0]} to {ends[1]}",
        "first": f"more at the {ends[0]} end and less at the {ends[1]} end",
        "last": f"less at the {ends[0]} end and more at the {ends[1]} end",
        "other": "of no clear shape: neither a slope nor a U is significant",
    }  # fmt: skip
    return f"{words[kind]}: {numbers}" if numbers else words[kind]


def _region_sentence(row: Row, region: str) -> str:
    # of a profile alone there is no column for the ends: its numbers stand in the sentence on the map
    if not has_values(row, region) or f"{region}_lo" not in row:
        return ""
    size, side = interval_text(row[region], row[f"{region}_lo"], row[f"{region}_hi"], null=1), side_of_null(row, region)
    if side is None:
        return f"{_SUBJECTS[region]} draws an estimated {size} times its share under uniform attention (no interval)."
    if side:
        return f"{_SUBJECTS[region]} draws {size} times as much as under uniform attention."
    return f"{_SUBJECTS[region]} does not draw significantly more or less than under uniform attention ({size})."


def _tile_sentence(row: Row) -> str:
    return _trend_sentence(row, "tile_slope", "tile", "from tile to tile", "from tile to tile")


def _frame_sentence(row: Row) -> str:
    return _trend_sentence(row, "frame_slope", "video", "over frames", "from the first frame to the last")


def _frame_top_sentence(row: Row) -> str:
    if not has_values(row, "frame_first", "frame_last", "frame_even", "frame_span"):
        return ""
    first, last = (percent_text(row, f"frame_{end}") for end in ("first", "last"))
    span, even = int(row["frame_span"]), f"{100 * row['frame_even']:.0f} %"
    where = "frame" if span == 1 else f"{span} frames"
    return (
        f"of the tenth of the tokens that draw most, {last} lie in the last {where} and {first} in the first "
        f"{'' if span == 1 else f'{span} '}(evenly spread: {even})."
    )


def _trend_sentence(row: Row, name: str, unit: str, over: str, ends: str) -> str:
    if not has_values(row, name):
        return ""
    size = interval_text(row[name], row.get(f"{name}_lo"), row.get(f"{name}_hi"), sign=True)
    side = side_of_null(row, name, 0.0)
    if side is None:
        return f"whether log attention has a trend {over} is not known ({size} per {unit}, no interval)."
    if not side:
        return f"a trend {over} is not significant ({size} per {unit} in log attention)."
    return f"log attention {'rises' if side > 0 else 'falls'} {ends} ({size} per {unit})."


def _map_sentence(row: Row) -> str:
    """Say how strong the map is, where no variance explained says more."""
    if has_values(row, "r2") or not has_values(row, "map_sd_factor"):
        return ""
    factor = f"{row['map_sd_factor']:.2f}"
    text = (
        f"over positions the profile's map varies by a factor of {factor} (one standard deviation; no interval, noise "
        "included)"
    )
    parts = [
        f"{part} {interval_text(row[part], row.get(f'{part}_lo'), row.get(f'{part}_hi'), null=1)}"
        for part in ("border", "top", "bottom", "left", "right", "thumbnail")
        if has_values(row, part) and not (part in _SUBJECTS and f"{part}_lo" in row)  # those have their own sentence
    ]
    return text + (f"; times uniform attention: {', '.join(parts)}" if parts else "") + "."


def _probe_sentence(row: Row, margin: tuple[float, float]) -> str:
    comparison = {name.removeprefix("probe_"): row[name] for name in row if str(name).startswith("probe_")}
    # a layer that the probe does not hold has no numbers at all
    if not any(is_number(value) for value in comparison.values()):
        return ""
    return f"causal probe: {comparison_text(comparison, margin)}."


def _removal_sentence(row: Row) -> str:
    if not has_values(row, "gain"):
        return ""
    both = f"n = {int(row['gain_n'])}" if has_values(row, "gain_n") else "n not known"
    if has_values(row, "auroc_raw", "auroc"):
        both = f"AUROC {row['auroc_raw']:.3f} before, {row['auroc']:.3f} after, {both}"
    size = interval_text(row["gain"], row.get("gain_lo"), row.get("gain_hi"), decimals=3, sign=True)
    side = side_of_null(row, "gain", 0.0)
    if side is None:
        return f"whether removal ranks the target better is not known ({size}; {both}; no interval of the difference)."
    if not side:
        return f"removal does not rank the target significantly better or worse ({size}; {both})."
    if has_values(row, "gain_p") and row["gain_p"] > ALPHA:
        return (
            f"whether removal helps is open: the change of {size} ({both}) does not hold among all tests "
            f"({p_text('adjusted p', row['gain_p'])})."
        )
    p = p_text("adjusted p", row["gain_p"]) if has_values(row, "gain_p") else "not adjusted for the number of tests"
    return f"removal ranks the target {'better' if side > 0 else 'worse'} ({size}; {both}, {p})."
