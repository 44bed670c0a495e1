"""What is said of one layer, from its row of the summary. A claim needs an interval that excludes its null, and a q."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from biaslab.atlas.words import ALPHA, interval, known, plural, share_said

__all__ = ["AXES", "against", "layer_sentences", "shape"]

Row = Mapping[str, Any]

#: axis of the table -> its name, its first and its last end
AXES = {"row": ("row", "top", "bottom"), "col": ("column", "left", "right")}
_MONOTONE = 0.3  # rank correlation from which a slope is named, where the ends agree with it
_LEANING = 0.5  # from which a U or an arch is said to lean
_WHATS = {"border": "the border", "thumbnail": "the thumbnail"}


def layer_sentences(row: Row) -> str:
    """All that is known of one layer, on one line."""
    said = [_explained(row), _images(row), _dependence(row), *(_region(row, region) for region in _WHATS), _tiles(row),
            _map(row), _probe(row), _removal(row)]  # fmt: skip
    return f"Layer {int(row['layer'])}: " + " ".join(text[0].upper() + text[1:] for text in said if text)


def shape(row: Row, axis: str) -> str | None:
    """How attention depends on the row or column, as far as intervals and q bear it.

    Returns
    -------
    str or None
        "none" (no dependence is shown), "u" (both ends draw more than their even share), "arch" (both less), "falls" or
        "rises" (from the first end to the last: the rank correlation says so, and an end's interval), "first" or "last"
        (only this end draws more, the other less), "other"; None where nothing was measured.
    """
    _, first, last = AXES[axis]
    if not known(row, f"{axis}_eta2", f"{axis}_q"):
        return None
    if not (row[f"{axis}_q"] <= ALPHA and row.get(f"{axis}_eta2_lo", np.nan) > 0):
        return "none"
    start, end = against(row, first), against(row, last)
    if start == end != 0:
        return "u" if start > 0 else "arch"
    rho = row.get(f"{axis}_rho", np.nan)
    if rho <= -_MONOTONE and (start > 0 or end < 0):
        return "falls"
    if rho >= _MONOTONE and (start < 0 or end > 0):
        return "rises"
    return {(1, -1): "first", (-1, 1): "last"}.get((start, end), "other")


def against(row: Row, name: str, null: float = 1.0) -> int:
    """1 or -1 where the interval lies above or below the null, 0 where it holds it or is not known."""
    lo, hi = (row.get(f"{name}{end}", np.nan) for end in ("_lo", "_hi"))
    return int(lo > null) - int(hi < null)


def _explained(row: Row) -> str:
    if not known(row, "r2"):
        return ""
    n, written = int(row["n"]), share_said(row, "r2")
    of = "of the variance of log attention on held-out images"
    if not known(row, "r2_lo"):
        said = f"position explains {written} {of} (n = {n}: too few folds for an interval)"
    elif row["r2_lo"] > 0:
        said = f"position explains {written} {of} (n = {n})"
    else:
        said = f"position is not shown to explain anything {of} ({written}, n = {n})"
    if known(row, "r2_asymptotic"):
        sure = row.get("r2_asymptotic_lo", np.nan) > 0
        said += f"; in the limit of many calibration images, {share_said(row, 'r2_asymptotic')}"
        said += "" if sure else ", which may be nothing"
    return said + "."


def _images(row: Row) -> str:
    if not known(row, "n_for_target", "reliability_n"):
        return ""
    n_for_target, n = row["n_for_target"], int(row["reliability_n"])
    if np.isinf(n_for_target) or not row.get("reliability_lo", np.nan) > 0:
        return "no part of its map is shown to repeat from image to image."
    images = plural(int(n_for_target), "image")
    if n_for_target <= n:
        return f"about {images} {'suffices' if n_for_target == 1 else 'suffice'} for a reliability of 0.9."
    return f"a reliability of 0.9 would take about {images}, more than these."


def _dependence(row: Row) -> str:
    shown, absent = [], []
    for axis, (name, *_) in AXES.items():
        kind = shape(row, axis)
        if kind is None:
            continue
        size = interval(*(row.get(f"{axis}_eta2{end}") for end in ("", "_lo", "_hi")))
        text = f"the {name} (eta2 {size}, q {row[f'{axis}_q']:.2g}"
        (absent if kind == "none" else shown).append(text + (")" if kind == "none" else f"; {_shaped(row, axis)})"))
    said = [f"attention depends on {' and on '.join(shown)}"] if shown else []
    said += [f"no dependence on {' or on '.join(absent)} is shown"] if absent else []
    return "; ".join(said) + "." if said else ""


def _shaped(row: Row, axis: str) -> str:
    _, *ends = AXES[axis]
    kind, rho = shape(row, axis), row.get(f"{axis}_rho", np.nan)
    lean = f", more to the {ends[rho > 0]}" if abs(rho) >= _LEANING else ""
    ratios = [
        f"{end} {interval(row[end], row.get(f'{end}_lo'), row.get(f'{end}_hi'), null=1)}" for end in ends
        if known(row, end)
    ]  # fmt: skip
    numbers = ", ".join([f"rank correlation {interval(rho)}"] * bool(rho == rho) + ratios)
    words = {
        "u": f"U-shaped, both ends above their even share{lean}",
        "arch": f"an arch, both ends below their even share{lean}",
        "falls": f"it falls from {ends[0]} to {ends[1]}", "rises": f"it rises from {ends[0]} to {ends[1]}",
        "first": f"more at the {ends[0]} end and less at the {ends[1]} end, without a slope between them",
        "last": f"less at the {ends[0]} end and more at the {ends[1]} end, without a slope between them",
        "other": "neither a slope nor a U is shown",
    }  # fmt: skip
    return f"{words[kind]}: {numbers}" if numbers else words[kind]


def _region(row: Row, region: str) -> str:
    if not known(row, region, f"{region}_lo", f"{region}_hi"):
        return ""
    size, side = interval(row[region], row[f"{region}_lo"], row[f"{region}_hi"], null=1), against(row, region)
    if side:
        return f"{_WHATS[region]} draws {size} times its even share."
    return f"{_WHATS[region]} is not shown to draw more or less than its even share ({size})."


def _tiles(row: Row) -> str:
    if not known(row, "tile_slope"):
        return ""
    size = interval(*(row.get(f"tile_slope{end}") for end in ("", "_lo", "_hi")), sign=True)
    side = against(row, "tile_slope", 0.0)
    if not side:
        return f"no trend from tile to tile is shown ({size} per tile in log attention)."
    return f"log attention {'rises' if side > 0 else 'falls'} from tile to tile ({size} per tile)."


def _map(row: Row) -> str:
    """The strength of the map, where no variance explained says more."""
    if known(row, "r2") or not known(row, "factor"):
        return ""
    said = f"over positions the expected attention varies by a factor of {row['factor']:.2f} (one standard deviation)"
    parts = [f"{part} {row[part]:.2f}" for part in ("border", "top", "bottom", "left", "right", "thumbnail")
             if known(row, part)]  # fmt: skip
    return said + (f"; times its even share: {', '.join(parts)}" if parts else "") + "."


def _probe(row: Row) -> str:
    if "probe_slope" not in row or not known(row, "probe_slope"):
        return ""
    if not known(row, "probe_r_disattenuated"):
        return "the causal probe is not reliable here."
    r = interval(row["probe_r"], row.get("probe_r_lo"), row.get("probe_r_hi"))
    slope = interval(*(row.get(f"probe_slope{end}") for end in ("", "_lo", "_hi")), null=1)
    if not (known(row, "probe_q") and row["probe_q"] <= ALPHA and row["probe_r"] > 0):
        return f"the causal probe does not confirm the map (r {r}, q {row.get('probe_q', np.nan):.2g})."
    much = {1: "removes too little", -1: "removes too much", 0: "is not shown to remove too much or too little"}
    return (
        f"the causal probe agrees with the map beyond chance (r {r}, at most {row['probe_ceiling']:.2f} possible, q "
        f"{row['probe_q']:.2g}); dividing by the profile {much[against(row, 'probe_slope')]} (slope {slope})."
    )


def _removal(row: Row) -> str:
    if not known(row, "gain"):
        return ""
    both = f"AUROC {row['auroc_raw']:.3f} before, {row['auroc']:.3f} after, n = {int(row['gain_n'])}"
    if not known(row, "gain_lo", "gain_hi"):
        return f"removal: {both} (no interval of the difference)."
    size = interval(row["gain"], row["gain_lo"], row["gain_hi"], decimals=3, sign=True)
    side = against(row, "gain", 0.0)
    if side and known(row, "gain_p") and row["gain_p"] > ALPHA:
        return (
            f"whether removal helps is open: the change of {size} ({both}) does not hold among all tests "
            f"(adjusted p {row['gain_p']:.2g})."
        )
    word = {1: "better", -1: "worse", 0: ""}[side]
    if not word:
        return f"removal is not shown to rank the target better or worse ({size}; {both})."
    p = f", adjusted p {row['gain_p']:.2g}" if known(row, "gain_p") else ""
    return f"removal ranks the target {word} ({size}; {both}{p})."
