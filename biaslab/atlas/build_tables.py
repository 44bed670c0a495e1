"""The tables of an atlas: what maps, or a profile alone, say of positional bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from biaslab.core.layout import TokenLayout
from biaslab.diagnostics import diagnose
from biaslab.diagnostics.measures.mass import region_mask
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps
from biaslab.maps.moments import TINY
from biaslab.maps.streamed import StreamedMaps
from biaslab.maps.views import mean_over_heads
from biaslab.profiles import Profile, head_quality, variance_table

__all__ = ["REGIONS", "diagnostic_tables", "strength_table"]

#: parts of the image that the summary names
REGIONS = ("border", "top", "bottom", "left", "right", "thumbnail")


def diagnostic_tables(
    maps: AttentionMaps, estimator: Profile, *, layers: Sequence[int], per_head: bool, confidence: float
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Measure variance explained and every diagnostic, of the mean over heads and, where they are held, of each head.

    Of single heads also their quality (:func:`biaslab.profiles.head_quality`).

    Parameters
    ----------
    maps : AttentionMaps
        Of one image or more.
    estimator : Profile
        Whose parameters are used; it is not changed.
    layers : sequence of int
        Decoder layers.
    per_head : bool
        Run the diagnostics on single heads too, where the maps hold heads.
    confidence : float
        Of the intervals.

    Returns
    -------
    tables, skipped
        Name -> table with a row (or more) per layer and head, and name -> why it could not be made. Rows of the mean
        over heads come first. q-values of ``dependence`` are adjusted over the layers, and apart from that over all
        heads of all layers.
    """
    tables: dict[str, pd.DataFrame] = {}
    skipped: dict[str, str] = {}
    try:
        tables["variance"] = _variance_table(maps, estimator, layers, confidence)
    except InputError as error:
        skipped["variance"] = str(error)
    if maps.heads != "mean":
        try:
            tables["quality"] = head_quality(maps, layers=layers, confidence=confidence)
        except InputError as error:
            skipped["quality"] = str(error)
    whole = mean_over_heads(maps)
    diagnostics, reasons = diagnose(whole, layers=layers, confidence=confidence)
    if whole is not maps and per_head:
        of_heads, _ = diagnose(maps, names=list(diagnostics), layers=layers, confidence=confidence)
        for name, table in of_heads.items():
            diagnostics[name] = pd.concat([diagnostics[name], table], ignore_index=True)
    return tables | diagnostics, skipped | reasons


def _variance_table(maps: AttentionMaps, estimator: Profile, layers: Sequence[int], confidence: float) -> pd.DataFrame:
    """``variance_table`` with the rows "mean" (the mean over heads), "all" (all heads together) and each head.

    The mean over heads needs its own variance between images, which streamed maps of single heads do not hold.
    """
    if maps.heads == "mean":
        return variance_table(maps, layers=layers, estimator=estimator, confidence=confidence).assign(head="mean")
    table = variance_table(maps, layers=layers, estimator=estimator, per_head=True, confidence=confidence)
    if isinstance(maps, StreamedMaps):
        return table
    mean = variance_table(mean_over_heads(maps), layers=layers, estimator=estimator, confidence=confidence).assign(
        head="mean"
    )
    return pd.concat([mean, table], ignore_index=True)


def strength_table(profile: Profile, *, layers: Sequence[int], over_heads: bool = False) -> pd.DataFrame:
    """Tell of each layer what a profile alone says, for the layout that most images have.

    Parameters
    ----------
    profile : Profile
        Fitted.
    layers : sequence of int
        Decoder layers, all of them fitted.
    over_heads : bool
        Of a profile of single heads, begin each layer with a row of their mean (head "mean").

    Returns
    -------
    DataFrame
        One row per layer and head: layer, head, n (images), map_sd_factor (exp of the standard deviation over positions
        of log expected attention: 1 is a uniform map), lowest, highest (expected attention relative to uniform
        attention), error (mean over positions of the standard error of that ratio; NaN for a mean over heads, whose
        standard deviation a profile of single heads does not hold), then the ratio of attention share to area share of
        every region of the image that the layout has (:data:`REGIONS`).
    """
    layout, n = profile.layout_of()
    rows = []
    for layer in layers:
        expected, std = (f(layout, layer).double().numpy() for f in (profile.expected, profile.std))
        single = profile.provenance_.get("heads") != "mean"
        names = [str(h) for h in range(len(expected))] if single else ["mean"]
        if single and over_heads:
            names = ["mean", *names]
            expected, std = np.vstack([expected.mean(0), expected]), np.vstack([np.full(layout.n, np.nan), std])
        for name, values, errors in zip(names, expected, std / np.sqrt(n), strict=True):
            rows.append({"layer": layer, "head": name, "n": n, **_map_measures(layout, values, errors)})
    return pd.DataFrame(rows)


def _map_measures(layout: TokenLayout, values: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Measure one map (N,) for :func:`strength_table`; NaN ratios of a head that does not see the image."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = values / values.mean()
        measures = {
            "map_sd_factor": float(np.exp(np.log(values + TINY).std())),
            "lowest": relative.min(),
            "highest": relative.max(),
            "error": float((error / values.mean()).mean()),
        }  # fmt: skip
        for region in REGIONS:
            mask = region_mask(layout, region)
            if mask is not None:
                base = np.ones(layout.n, bool) if region == "thumbnail" else ~layout.thumbnail & layout.in_image
                measures[region] = values[mask].mean() / values[base].mean()
    return measures
