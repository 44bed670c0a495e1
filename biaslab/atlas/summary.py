"""One row per layer from the tables of an atlas, and the same row in a few cells for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab.atlas.measures import REGIONS
from biaslab.atlas.words import interval, known, share
from biaslab.figures.layers import one_head, one_layout

__all__ = ["cells", "removal_rows", "summary_table"]

_ENDS = ("", "_lo", "_hi")


def summary_table(tables: Mapping[str, pd.DataFrame], layers: Sequence[int]) -> pd.DataFrame:
    """One row per layer, of the mean over heads wherever a table holds it.

    Columns, each where the tables allow it (``x*`` stands for x, x_lo, x_hi):

    - n; r2*, r2_asymptotic* (variance explained);
    - n_for_target (images for reliability 0.9), reliability*, reliability_n: of the layout of most images;
    - row_eta2*, row_q, row_rho, and likewise col_...;
    - border*, top*, bottom*, left*, right*, thumbnail* (ratios to an even share), tile_slope*;
    - factor (of the profile's map; without maps the ratios are the profile's, without intervals);
    - probe_slope*, probe_r*, probe_ceiling, probe_r_disattenuated, probe_q;
    - auroc_raw, auroc, gain*, gain_p (adjusted), gain_n, gain_debias.
    """
    readers = {
        "variance": _variance, "reliability": _reliability, "dependence": _dependence, "mass": _mass,
        "tile_order": _tile_order, "strength": _strength, "comparison": _comparison, "removal": _removal,
    }  # fmt: skip
    rows = []
    for layer in layers:
        row: dict[str, Any] = {"layer": int(layer)}
        for name, read in readers.items():
            if name in tables and len(tables[name]):
                part = tables[name][tables[name]["layer"] == layer]
                found = read(part) if len(part) else {}
                # of maps, `mass` says what `strength` says of the profile, with intervals
                row |= {key: value for key, value in found.items() if key not in row}
        rows.append(row)
    return pd.DataFrame(rows)


def _variance(part: pd.DataFrame) -> dict[str, Any]:
    row = one_head(part)[0].iloc[0]
    names = [f"{name}{end}" for name in ("r2", "r2_asymptotic") for end in _ENDS]
    return {"n": int(row["n"])} | {name: row[name] for name in names if name in row}


def _reliability(part: pd.DataFrame) -> dict[str, Any]:
    rows = one_layout(one_head(part)[0])[0]
    row = rows.loc[rows["n"].idxmax()]
    return {"n_for_target": row["n_for_target"], "reliability": row["predicted"],
            "reliability_lo": row["predicted_lo"], "reliability_hi": row["predicted_hi"],
            "reliability_n": int(row["n"]), "n": int(row["n"])}  # fmt: skip


def _dependence(part: pd.DataFrame) -> dict[str, Any]:
    found = {}
    for row in one_head(part)[0].to_dict("records"):
        found |= {f"{row['axis']}_{name}": row[name] for name in ("eta2", "eta2_lo", "eta2_hi", "q", "rho")}
    return found


def _mass(part: pd.DataFrame) -> dict[str, Any]:
    found = {}
    for row in one_head(part)[0].to_dict("records"):
        if row["region"] in REGIONS:
            found |= {row["region"] + end: row[f"ratio{end}"] for end in _ENDS}
    return found


def _tile_order(part: pd.DataFrame) -> dict[str, Any]:
    row = one_head(part)[0].iloc[0]
    return {f"tile_slope{end}": row[f"slope{end}"] for end in _ENDS}


def _strength(part: pd.DataFrame) -> dict[str, Any]:
    row = one_head(part)[0].iloc[0]
    return {name: row[name] for name in ("n", "factor", *REGIONS) if name in row and pd.notna(row[name])}


def _comparison(part: pd.DataFrame) -> dict[str, Any]:
    """Of a probe of single heads there is no row for the layer."""
    rows = part[(part["region"] == "tiles") & (part["head"].astype(str) == "mean")]
    if rows.empty:
        return {}
    names = [f"{name}{end}" for name in ("slope", "r") for end in _ENDS] + ["ceiling", "r_disattenuated", "q"]
    return {f"probe_{name}": rows.iloc[0][name] for name in names}


def removal_rows(removal: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """Rows on all locations and the mean over heads, and the operation that removes: "ratio" where it is there."""
    rows = removal[removal["location"] == "all"] if "location" in removal else removal
    if "head" in rows and (rows["head"].astype(str) == "mean").any():
        rows = rows[rows["head"].astype(str) == "mean"]
    debias = [operation for operation in dict.fromkeys(rows["debias"]) if operation != "raw"]
    return rows, "ratio" if "ratio" in debias else next(iter(debias), None)


def _removal(part: pd.DataFrame) -> dict[str, Any]:
    rows, debias = removal_rows(part)
    raw, after = rows[rows["debias"] == "raw"], rows[rows["debias"] == debias]
    if len(raw) != 1 or len(after) != 1:  # single heads: no row for the layer
        return {}
    row = after.iloc[0]
    found = {"auroc_raw": raw.iloc[0]["auroc"], "auroc": row["auroc"], "gain": row["auroc"] - raw.iloc[0]["auroc"]}
    found |= {name: row[name] for name in ("gain", "gain_lo", "gain_hi") if name in row}
    return found | {"gain_p": row.get("p_adjusted", np.nan), "gain_n": int(row["n"]), "gain_debias": debias}


def cells(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as text, "value [lo, hi]" per cell, for the terminal and the LaTeX table."""
    columns: dict[str, Any] = {
        "explained, %": lambda r: share(r, "r2"),
        "images": lambda r: _images(r.get("n_for_target", np.nan)),
        "row eta2": lambda r: interval(r.get("row_eta2"), r.get("row_eta2_lo"), r.get("row_eta2_hi")),
        "column eta2": lambda r: interval(r.get("col_eta2"), r.get("col_eta2_lo"), r.get("col_eta2_hi")),
        "border": lambda r: interval(r.get("border"), r.get("border_lo"), r.get("border_hi"), null=1),
        "thumbnail": lambda r: interval(r.get("thumbnail"), r.get("thumbnail_lo"), r.get("thumbnail_hi"), null=1),
        "map's factor": lambda r: "" if known(r, "r2") else interval(r.get("factor")),
        "probe slope": lambda r: interval(
            r.get("probe_slope"), r.get("probe_slope_lo"), r.get("probe_slope_hi"), null=1
        ),
        "AUROC gain": lambda r: interval(r.get("gain"), r.get("gain_lo"), r.get("gain_hi"), decimals=3, sign=True),
    }  # fmt: skip
    rows = summary.to_dict("records")
    found = {"layer": [str(r["layer"]) for r in rows]}
    for name, write in columns.items():
        texts = [write(r) for r in rows]
        if any(texts):
            found[name] = [text or "-" for text in texts]
    return pd.DataFrame(found)


def _images(n_for_target: float) -> str:
    return "" if n_for_target != n_for_target else "never" if np.isinf(n_for_target) else f"{n_for_target:.0f}"
