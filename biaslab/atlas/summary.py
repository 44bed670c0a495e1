"""One row per layer from the tables of an atlas, and the same row in a few cells for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.number_text import has_values, interval_text, is_number, percent_cell
from biaslab.atlas.build_tables import REGIONS
from biaslab.diagnostics.tables import rows_of_head, rows_of_layout

__all__ = ["removal_rows", "summary_table", "text_cells"]

_ENDS = ("", "_lo", "_hi")


def summary_table(tables: Mapping[str, pd.DataFrame], layers: Sequence[int]) -> pd.DataFrame:
    """Read one row per layer off the tables, of the mean over heads wherever a table holds it.

    Columns, each where the tables allow it (``x*`` stands for x, x_lo, x_hi):

    - n; r2*, r2_asymptotic* (variance explained);
    - n_for_target (images for reliability 0.9), reliability*, reliability_n: of the layout of most images;
    - row_eta2*, row_q, row_rho, and likewise col_...;
    - border*, top*, bottom*, left*, right*, thumbnail* (ratios to uniform attention), tile_slope*,
      frame_slope*; frame_first*, frame_last* (shares of the most attended tokens in the first and last frame_span
      frames), frame_even;
    - map_sd_factor (of the profile's map; without maps the ratios are the profile's, without intervals);
    - probe_slope*, probe_r*, probe_reliability, probe_ceiling, probe_r_disattenuated, probe_q, probe_groups;
    - auroc_raw, auroc, gain*, gain_p (adjusted), gain_n, gain_debias.
    """
    readers = {
        "variance": _variance_columns,
        "reliability": _reliability_columns,
        "dependence": _dependence_columns,
        "mass": _mass_columns,
        "tile_order": _tile_order_columns,
        "frame_order": _frame_order_columns,
        "frame_top": _frame_top_columns,
        "strength": _strength_columns,
        "comparison": _comparison_columns,
        "removal": _removal_columns,
    }
    rows = []
    for layer in layers:
        row: dict[str, Any] = {"layer": int(layer)}
        for name, read in readers.items():
            if name in tables and len(tables[name]):
                part = tables[name][tables[name]["layer"] == layer]
                columns = read(part) if len(part) else {}
                # of maps, `mass` says what `strength` says of the profile, with intervals
                row |= {key: value for key, value in columns.items() if key not in row}
        rows.append(row)
    return pd.DataFrame(rows)


def _variance_columns(part: pd.DataFrame) -> dict[str, Any]:
    row = rows_of_head(part)[0].iloc[0]
    names = [f"{name}{end}" for name in ("r2", "r2_asymptotic") for end in _ENDS]
    return {"n": int(row["n"])} | {name: row[name] for name in names if name in row}


def _reliability_columns(part: pd.DataFrame) -> dict[str, Any]:
    rows = rows_of_layout(rows_of_head(part)[0])[0]
    row = rows.iloc[int(rows["n"].to_numpy().argmax())]
    return {"n_for_target": row["n_for_target"], "reliability": row["predicted"],
            "reliability_lo": row["predicted_lo"], "reliability_hi": row["predicted_hi"],
            "reliability_n": int(row["n"]), "n": int(row["n"])}  # fmt: skip


def _dependence_columns(part: pd.DataFrame) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for row in rows_of_head(part)[0].to_dict("records"):
        columns |= {f"{row['axis']}_{name}": row[name] for name in ("eta2", "eta2_lo", "eta2_hi", "q", "rho")}
    return columns


def _mass_columns(part: pd.DataFrame) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for row in rows_of_head(part)[0].to_dict("records"):
        if row["region"] in REGIONS:
            columns |= {row["region"] + end: row[f"ratio{end}"] for end in _ENDS}
    return columns


def _tile_order_columns(part: pd.DataFrame) -> dict[str, Any]:
    row = rows_of_head(part)[0].iloc[0]
    return {f"tile_slope{end}": row[f"slope{end}"] for end in _ENDS}


def _frame_order_columns(part: pd.DataFrame) -> dict[str, Any]:
    row = rows_of_head(part)[0].iloc[0]
    return {f"frame_slope{end}": row[f"slope{end}"] for end in _ENDS}


def _frame_top_columns(part: pd.DataFrame) -> dict[str, Any]:
    """Of the videos of the number of frames that most have."""
    rows = rows_of_head(part)[0]
    rows = rows[rows["frames"] == rows["frames"].iloc[int(rows["n"].to_numpy().argmax())]]
    ends = {row["end"]: row for row in rows.to_dict("records")}
    columns = {f"frame_{at}{end}": ends[at][f"share{end}"] for at in ("first", "last") for end in _ENDS}
    return columns | {"frame_even": ends["last"]["even"], "frame_span": int(ends["last"]["span"])}


def _strength_columns(part: pd.DataFrame) -> dict[str, Any]:
    row = rows_of_head(part)[0].iloc[0]
    return {name: row[name] for name in ("n", "map_sd_factor", *REGIONS) if name in row and pd.notna(row[name])}


def _comparison_columns(part: pd.DataFrame) -> dict[str, Any]:
    """Of a probe of single heads there is no row for the layer."""
    rows = part[(part["region"] == "tiles") & (part["head"].astype(str) == "mean")]
    if rows.empty:
        return {}
    names = [f"{name}{end}" for name in ("slope", "r") for end in _ENDS]
    names += ["reliability", "ceiling", "r_disattenuated", "q", "groups"]
    return {f"probe_{name}": rows.iloc[0][name] for name in names}


def removal_rows(removal: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """Rows on all locations and the mean over heads, and the operation that removes: "ratio" where it is there."""
    rows = removal[removal["location"] == "all"] if "location" in removal else removal
    if "head" in rows and (rows["head"].astype(str) == "mean").any():
        rows = rows[rows["head"].astype(str) == "mean"]
    debias = [operation for operation in dict.fromkeys(rows["debias"]) if operation != "raw"]
    return rows, "ratio" if "ratio" in debias else next(iter(debias), None)


def _removal_columns(part: pd.DataFrame) -> dict[str, Any]:
    rows, debias = removal_rows(part)
    raw, after = rows[rows["debias"] == "raw"], rows[rows["debias"] == debias]
    if len(raw) != 1 or len(after) != 1:  # single heads: no row for the layer
        return {}
    row = after.iloc[0]
    columns = {"auroc_raw": raw.iloc[0]["auroc"], "auroc": row["auroc"], "gain": row["auroc"] - raw.iloc[0]["auroc"]}
    columns |= {name: row[name] for name in ("gain", "gain_lo", "gain_hi") if name in row}
    return columns | {"gain_p": row.get("p_adjusted", np.nan), "gain_n": int(row["n"]), "gain_debias": debias}


def text_cells(summary: pd.DataFrame) -> pd.DataFrame:
    """Write the summary as "value [lo, hi]" per cell, for the terminal and the LaTeX table."""
    columns: dict[str, Any] = {
        "explained, %": lambda r: percent_cell(r, "r2"),
        "images": lambda r: _images_text(r.get("n_for_target", np.nan)),
        "row eta2": lambda r: interval_text(r.get("row_eta2"), r.get("row_eta2_lo"), r.get("row_eta2_hi")),
        "column eta2": lambda r: interval_text(r.get("col_eta2"), r.get("col_eta2_lo"), r.get("col_eta2_hi")),
        "border": lambda r: interval_text(r.get("border"), r.get("border_lo"), r.get("border_hi"), null=1),
        "thumbnail": lambda r: interval_text(r.get("thumbnail"), r.get("thumbnail_lo"), r.get("thumbnail_hi"), null=1),
        "frames' slope": lambda r: interval_text(
            r.get("frame_slope"), r.get("frame_slope_lo"), r.get("frame_slope_hi"), sign=True
        ),
        "map's factor": lambda r: "" if has_values(r, "r2") else interval_text(r.get("map_sd_factor")),
        "probe slope": lambda r: interval_text(
            r.get("probe_slope"), r.get("probe_slope_lo"), r.get("probe_slope_hi"), null=1
        ),
        "AUROC gain": lambda r: interval_text(r.get("gain"), r.get("gain_lo"), r.get("gain_hi"), decimals=3, sign=True),
    }  # fmt: skip
    rows = summary.to_dict("records")
    texts = {"layer": [str(r["layer"]) for r in rows]}
    for name, write in columns.items():
        column = [write(r) for r in rows]
        if any(column):
            texts[name] = [text or "-" for text in column]
    return pd.DataFrame(texts)


def _images_text(n_for_target: float) -> str:
    # infinite where the estimate of what repeats is 0 or less: that no number would do is not shown by it
    return f"{n_for_target:.0f}" if is_number(n_for_target) else ""
