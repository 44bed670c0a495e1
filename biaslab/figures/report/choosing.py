"""Which samples a report shows: where methods disagree, what is missed, and some at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["MOST", "chosen_samples", "hit_table"]

#: of each of the three choices
N_SHOWN = 20
#: share of the configurations that hit, below which most of them miss
MOST = 0.5
_SEED = 0


def hit_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Arrange the verdicts of a run: a row per sample, a column per configuration, in the order of the data set.

    Parameters
    ----------
    verdicts : DataFrame
        ``Results.verdicts``.

    Returns
    -------
    DataFrame
        1 for a hit, 0 for a miss, NaN without a verdict; the index holds the ids, the columns the configurations' keys.
    """
    known = verdicts[verdicts["error"].isna()]
    frame = pd.DataFrame(
        {
            "id": known["id"].astype(str),
            "index": known["index"],
            "key": known["key"].astype(str),
            "hit": known["hit"].astype(float),
        }
    )
    table = frame.pivot_table(index=["index", "id"], columns="key", values="hit", aggfunc="last")
    return table.droplevel("index")


def chosen_samples(hits: pd.DataFrame, *, n: int = N_SHOWN, apart: np.ndarray | None = None) -> Mapping[str, list[str]]:
    """Choose the samples that a report shows.

    Parameters
    ----------
    hits : DataFrame
        Of `hit_table`.
    n : int
        Samples of each choice.
    apart : (samples,) array, optional
        How much there is disagreement on each sample; default: h (1 - h), h the share of configurations that hit.

    Returns
    -------
    dict of str to list of str
        Id -> why it is shown, in the order in which they are shown: ``"disagree"`` (the most disagreement), ``"miss"``
        (missed by most configurations, those first, or else by at least one; of those that do not disagree as much)
        and ``"random"`` (drawn from all samples with a fixed seed, so that one sees also what is not remarkable). A
        sample may be shown for several reasons.

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab.figures.report.choosing import chosen_samples
    >>> hits = pd.DataFrame({"fastv": [1, 0, 0, 1.0], "random": [1, 1, 0, 1.0]}, index=list("abcd"))
    >>> why = chosen_samples(hits, n=1)
    >>> why["b"][0], why["c"][0], sum("random" in reasons for reasons in why.values())
    ('disagree', 'miss', 1)
    """
    share = hits.mean(axis=1).to_numpy()
    names = hits.index.astype(str).tolist()
    apart = share * (1 - share) if apart is None else np.asarray(apart)
    disagree = [i for i in np.argsort(-apart, kind="stable") if apart[i] > 0][:n]
    missed = [i for i in np.argsort(share, kind="stable") if share[i] < 1 and i not in set(disagree)][:n]
    drawn = sorted(np.random.default_rng(_SEED).permutation(len(names))[:n].tolist())
    why: dict[str, list[str]] = {}
    choices: dict[str, Any] = {"disagree": disagree, "miss": missed, "random": drawn}
    for reason, samples in choices.items():
        for i in samples:
            why.setdefault(names[i], []).append(reason)
    return why
