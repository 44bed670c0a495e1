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
from biaslab.profiles import Profile, variance_table

__all__ = ["REGIONS", "measured", "strength"]

#: regions of the image that the summary names
REGIONS = ("border", "top", "bottom", "left", "right", "thumbnail")


def measured(
    maps: AttentionMaps, estimator: Profile, layers: Sequence[int], confidence: float, per_head: bool
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Variance explained and every diagnostic, of the mean over heads and, where the maps hold them, of each head.

    Returns
    -------
    tables, skipped
        Name -> table with a row (or more) per layer and head, and name -> why it could not be made. Rows of the mean
        over heads come first. q-values of ``dependence`` are adjusted over the layers, and apart from that over all
        heads of all layers.
    """
    tables, skipped = {}, {}
    try:
        tables["variance"] = _variance(maps, estimator, layers, confidence)
    except InputError as error:
        skipped["variance"] = str(error)
    whole = mean_over_heads(maps)
    found, why = diagnose(whole, layers=layers, confidence=confidence)
    if whole is not maps and per_head:
        of_heads, _ = diagnose(maps, names=list(found), layers=layers, confidence=confidence)
        found = {k: pd.concat([t, of_heads[k]], ignore_index=True) if k in of_heads else t for k, t in found.items()}
    return tables | found, skipped | why


def _variance(maps: AttentionMaps, estimator: Profile, layers: Sequence[int], confidence: float) -> pd.DataFrame:
    """``variance_table`` with the rows "mean" (the mean over heads), "all" (all heads together) and each head.

    The mean over heads needs its own variance between images, which streamed maps of single heads do not hold.
    """
    if maps.heads == "mean":
        return variance_table(maps, layers=layers, estimator=estimator, confidence=confidence).assign(head="mean")
    table = variance_table(maps, layers=layers, estimator=estimator, per_head=True, confidence=confidence)
    if isinstance(maps, StreamedMaps):
        return table
    mean = variance_table(mean_over_heads(maps), layers=layers, estimator=estimator, confidence=confidence)
    return pd.concat([mean.assign(head="mean"), table], ignore_index=True)


def strength(profile: Profile, layers: Sequence[int], over_heads: bool = False) -> pd.DataFrame:
    """What a profile alone tells of each layer, for the layout that most images have.

    Parameters
    ----------
    over_heads : of a profile of single heads, begin each layer with a row of their mean (head "mean").

    Returns
    -------
    DataFrame
        One row per layer and head: layer, head, n (images), factor (exp of the standard deviation over positions of
        log expected attention: 1 is an even map), lowest, highest (expected attention over an even share), error (mean
        over positions of the standard error of that ratio; NaN for a mean over heads, whose spread a profile of single
        heads does not hold), then the ratio of attention share to area share of every
        region of the image that the layout has (:data:`REGIONS`).
    """
    layout, n = profile.layout_of()
    rows = []
    for layer in layers:
        expected, spread = (f(layout, layer).double().numpy() for f in (profile.expected, profile.std))
        single = profile.provenance_.get("heads") != "mean"
        names = [str(h) for h in range(len(expected))] if single else ["mean"]
        if single and over_heads:
            names = ["mean", *names]
            expected, spread = np.vstack([expected.mean(0), expected]), np.vstack([np.full(layout.n, np.nan), spread])
        for name, values, between in zip(names, expected, spread, strict=True):
            rows.append({"layer": layer, "head": name, "n": n, **_of_map(layout, values, between / np.sqrt(n))})
    return pd.DataFrame(rows)


def _of_map(layout: TokenLayout, values: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """What :func:`strength` says of one map (N,); NaN ratios of a head that does not see the image."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = values / values.mean()
        found = {
            "factor": float(np.exp(np.log(values + TINY).std())), "lowest": relative.min(), "highest": relative.max(),
            "error": float((error / values.mean()).mean()),
        }  # fmt: skip
        for region in REGIONS:
            mask = region_mask(layout, region)
            if mask is not None:
                base = np.ones(layout.n, bool) if region == "thumbnail" else ~layout.thumbnail & layout.in_image
                found[region] = values[mask].mean() / values[base].mean()
    return found
