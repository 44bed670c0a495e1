"""Where the time of an unpruned answer goes, and what pruning could save of it at most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

__all__ = ["SHARES", "answer_limits", "answer_shares", "limit_texts", "limit_word"]

#: parts of an unpruned answer; they sum to 1
SHARES = ("share_vision", "share_below", "share_above", "share_decode")


def answer_shares(runs: pd.DataFrame, selection_ms: float = 0.0) -> dict[str, float]:
    """Share an unpruned answer out to the vision tower, the layers below and from K on, and decoding.

    Parameters
    ----------
    runs : DataFrame
        Of the unpruned model, one row per batch of images and round, in ms: ``vision_ms, prefill_ms, decode_ms``;
        ``below_ms``, the prefill before layer K begins; ``floor_decode_ms``, what decoding took in the same round with
        one visual token of each image left from layer K on. The last two are NaN where there is no K.
    selection_ms : float
        What a method's attention rows, scores and selection take, and recording the vision tower for it.

    Returns
    -------
    dict of str to float
        ``share_vision, share_below, share_above, share_decode``: medians of vision tower, prefill and decoding over
        their sum, the prefill split by the median of what came before K in each, so that they sum to 1. ``share_above``
        begins with layer K and ends with the first token: the output head is in it.
        ``share_prefill``: both together, the only one known without K. ``share_decode_visual``, a part of
        ``share_decode``: the upper bound of what pruning at K can take off decoding. ``share_selection``:
        ``selection_ms`` as a share of the same answer, which comes on top of it.

    Notes
    -----
    Decoding is shortened by attention over fewer entries of the cache alone. How long attention to the visual entries
    of layers >= K takes cannot be told from outside a step, but no method leaves fewer than one visual token: what
    decoding takes less with one is a bound for all, measured by the same clock. It is 0 where nothing is saved.

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab.workflows.bench_limits import answer_shares
    >>> times = {"vision_ms": 10.0, "prefill_ms": 40.0, "decode_ms": 50.0, "below_ms": 15.0, "floor_decode_ms": 45.0}
    >>> shares = answer_shares(pd.DataFrame([times]), selection_ms=2.0)
    >>> {name: round(shares[f"share_{name}"], 2) for name in ("below", "above", "decode_visual", "selection")}
    {'below': 0.15, 'above': 0.25, 'decode_visual': 0.05, 'selection': 0.02}
    """
    vision, prefill, decode = (float(runs[f"{part}_ms"].median()) for part in ("vision", "prefill", "decode"))
    below = float((runs["below_ms"] / runs["prefill_ms"]).median())
    left = min(float((runs["floor_decode_ms"] / runs["decode_ms"]).median()), 1.0)  # NaN stays NaN
    times = {
        "share_vision": vision,
        "share_below": below * prefill,
        "share_above": (1 - below) * prefill,
        "share_prefill": prefill,
        "share_decode": decode,
        "share_decode_visual": (1 - left) * decode,
        "share_selection": selection_ms,
    }
    return {name: time / (vision + prefill + decode) for name, time in times.items()}


def answer_limits(shares: Mapping[str, float]) -> dict[str, float]:
    """Give the speed-ups if what pruning can shorten took no time (Amdahl's law).

    Parameters
    ----------
    shares : mapping
        Of :func:`answer_shares`.

    Returns
    -------
    dict of str to float
        ``limit_prefill``: without layers >= K; ``limit_decode``: without attention to visual tokens in them;
        ``limit_total``: of the whole answer, without both; ``limit_with_selection``: the same with the method's own
        selection added.

    Examples
    --------
    >>> from biaslab.workflows.bench_limits import answer_limits
    >>> shares = {"share_below": 0.15, "share_above": 0.25, "share_decode": 0.5, "share_decode_visual": 0.05,
    ...           "share_selection": 0.1}
    >>> {name: round(limit, 2) for name, limit in answer_limits(shares).items()}
    {'limit_prefill': 2.67, 'limit_decode': 1.11, 'limit_total': 1.43, 'limit_with_selection': 1.25}
    """
    below, above, decode, visual, selection = (
        shares[f"share_{name}"] for name in ("below", "above", "decode", "decode_visual", "selection")
    )
    left = 1 - above - visual
    return {
        "limit_prefill": _over(below + above, below),
        "limit_decode": _over(decode, decode - visual),
        "limit_total": _over(1.0, left),
        "limit_with_selection": _over(1.0, left + selection),
    }


def limit_texts(table: pd.DataFrame) -> list[str]:
    r"""Say, one sentence for each K, where the time of an unpruned answer goes and what pruning can save of it.

    Parameters
    ----------
    table : DataFrame
        Of :func:`biaslab.workflows.bench_table.bench_table`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab.workflows.bench_limits import limit_texts
    >>> row = {"layer": 2, "share_vision": 0.1, "share_below": 0.15, "share_above": 0.25, "share_decode": 0.5,
    ...        "share_decode_visual": 0.05, "limit_total": 1 / 0.7}
    >>> print(limit_texts(pd.DataFrame([row]))[0].replace(". ", ".\n"))
    An unpruned answer, K = 2: vision tower 10.0 %, layers < 2 15.0 %, layers >= 2 25.0 %, decoding 50.0 %.
    Pruning saves at most the layers >= 2 and, in decoding, 5.0 % of the answer: limit 1.43x.
    """
    texts = []
    for row in table.dropna(subset=["layer"]).drop_duplicates("layer").sort_values("layer").to_dict("records"):
        k = int(row["layer"])
        vision, below, above, decode = (f"{100 * row[name]:.1f} %" for name in SHARES)
        first = f"layers < {k}" if k else "embeddings"
        parts = f"vision tower {vision}, {first} {below}, layers >= {k} {above}, decoding {decode}"
        limit = "the limit of what pruning can save is not known: decoding with one visual token could not be measured"
        if not np.isnan(row["limit_total"]):
            visual = f"in decoding, {100 * row['share_decode_visual']:.1f} % of the answer"
            limit = f"pruning saves at most the layers >= {k} and, {visual}: {limit_word(row['limit_total'])}"
        texts.append(f"An unpruned answer, K = {k}: {parts}. {limit[0].upper()}{limit[1:]}.")
    return texts


def limit_word(limit: float) -> str:
    """Write a limit; "" where it is not known.

    Examples
    --------
    >>> from biaslab.workflows.bench_limits import limit_word
    >>> limit_word(1.434), limit_word(float("inf")), limit_word(float("nan"))
    ('limit 1.43x', 'no limit', '')
    """
    if np.isnan(limit):
        return ""
    return "no limit" if np.isinf(limit) else f"limit {limit:.2f}x"


def _over(whole: float, left: float) -> float:
    return np.inf if left <= 0 else whole / left  # NaN stays NaN
