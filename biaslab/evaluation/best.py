"""How every method of a run compares with the best one at the same keep and layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from biaslab.evaluation.configurations import UNPRUNED
from biaslab.evaluation.schema import KEY_FIELDS, record_key
from biaslab.stats.multiple_testing import holm

if TYPE_CHECKING:
    from biaslab.evaluation.results import Results

__all__ = ["against_best"]


def against_best(results: Results, shown: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test each method against the most accurate one at its keep and layer, in pairs.

    The test is that of `Results.differences`: sign flips over images, two-sided, on the samples that have a verdict
    under every method. p-values are adjusted over all rows (Holm). The best method was chosen by the same samples, so
    that a difference to it is rather taken for one too often than too seldom.

    Parameters
    ----------
    results : Results
    shown : DataFrame, optional
        Rows of the run's table among which the best is looked for; default all.

    Returns
    -------
    DataFrame
        method, options_hash, profile_hash, keep, layer, best (options hash of the best), n, p and p_adjusted (NaN for
        the best itself); a row per pruned configuration.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.evaluation.best import against_best
    >>> results = bl.evaluate(
    ...     bl.load("grounder"), bl.load_dataset("scenes", n=3), methods=["random", "uniform"], keep=0.1, layer=4,
    ...     progress=False,
    ... )
    >>> against_best(results)[["method", "n", "p", "p_adjusted"]]
        method  n    p  p_adjusted
    0   random  3  NaN         NaN
    1  uniform  3  1.0         1.0
    """
    paired = results._paired  # of the same room
    wanted = None if shown is None else {record_key(_plain(row)) for row in shown.to_dict("records")}
    mine = [
        i
        for i, config in enumerate(paired.configs)
        if config["method"] != UNPRUNED and (wanted is None or record_key(config) in wanted)
    ]
    means = paired.hits.mean(axis=0) if len(paired.hits) else np.full(len(paired.configs), np.nan)
    best: dict[tuple, int] = {}
    for i in mine:
        place = paired.configs[i]["keep"], paired.configs[i]["layer"]
        if np.isfinite(means[i]) and (place not in best or means[i] > means[best[place]]):
            best[place] = i
    pairs = [(i, best.get((paired.configs[i]["keep"], paired.configs[i]["layer"]))) for i in mine]
    tested = [(i, j) for i, j in pairs if j is not None and i != j and np.isfinite(means[i])]
    p = dict(zip((i for i, _ in tested), paired.p_values(tested) if tested else [], strict=True))
    rows = [
        {
            **{name: paired.configs[i][name] for name in KEY_FIELDS},
            "best": None if j is None else paired.configs[j]["options_hash"],
            "n": len(paired.hits),
            "p": p.get(i, np.nan),
        }
        for i, j in pairs
    ]
    table = pd.DataFrame(rows, columns=[*KEY_FIELDS, "best", "n", "p"])
    return table.assign(p_adjusted=holm(table["p"].to_numpy(float)))


def _plain(row: dict) -> dict:
    """Give a row of a table the types that records have."""
    own = {name: row[name] for name in KEY_FIELDS}
    own["layer"] = None if pd.isna(own["layer"]) else int(own["layer"])
    return {name: "" if name.endswith("_hash") and pd.isna(value) else value for name, value in own.items()}
