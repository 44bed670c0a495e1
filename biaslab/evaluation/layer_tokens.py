"""Visual tokens that each decoder layer saw, of what a run has recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab.evaluation.matching import mean_share
from biaslab.evaluation.recorded_methods import budget_of

__all__ = ["mean_share_of", "tokens_per_layer"]


def tokens_per_layer(lines: pd.DataFrame, config: Mapping[str, Any], n_layers: int) -> list[float]:
    """Average over samples how many visual tokens each decoder layer saw.

    Parameters
    ----------
    lines : DataFrame
        Verdicts of one configuration: ``tokens`` and ``tokens_kept``.
    config : mapping
        Its record in ``run.json``.
    n_layers : int
        Decoder layers.

    Returns
    -------
    list of float
        One per layer.

    Examples
    --------
    >>> lines = pd.DataFrame({"tokens": [100, 200], "tokens_kept": [10, 20]})
    >>> stages = [{"layer": 1, "keep": 0.5}, {"layer": 3, "keep": 0.1}]
    >>> tokens_per_layer(lines, {"layer": 1, "options": {"stages": stages}}, 4)
    [150.0, 75.0, 75.0, 15.0]
    """
    tokens, starts, left = _cuts(lines, config)
    means = [float(np.mean(counts)) for counts in (tokens, *left)]
    ends = [*starts, n_layers]
    return [mean for mean, start, end in zip(means, [0, *starts], ends, strict=True) for _ in range(start, end)]


def mean_share_of(lines: pd.DataFrame, config: Mapping[str, Any], n_layers: int | None) -> float:
    """Average over samples what share of its visual tokens a decoder layer saw, on average over all layers.

    Arguments are those of `tokens_per_layer`; NaN where earlier versions did not note the number of layers.
    """
    if config["layer"] is None or n_layers is None:
        return 1.0 if config["layer"] is None else float("nan")
    tokens, starts, left = _cuts(lines, config)
    if len(starts) == 1:
        return mean_share(n_layers, starts[0], tokens, left[0]).mean()
    return mean_share(n_layers, starts, tokens, left).mean()


def _cuts(lines: pd.DataFrame, config: Mapping[str, Any]) -> tuple[Any, list[int], list[Any]]:
    """Give the tokens of every line, the layers of the cuts, and for each cut what it left of every line's."""
    tokens, kept = (lines[name].astype(float) for name in ("tokens", "tokens_kept"))
    stages = config.get("options", {}).get("stages")
    if stages is None:
        layer = config["layer"]
        return tokens, ([] if layer is None else [layer]), ([] if layer is None else [kept])
    counts = [budget_of(stage) for stage in stages]
    # a line holds what the last one left
    before = [_left(counts[: i + 1], tokens) for i in range(len(counts) - 1)]
    return tokens, [stage["layer"] for stage in stages], [*before, kept]


def _left(stages: Sequence[Callable[[int], int]], tokens: pd.Series) -> pd.Series:
    """Count what some stages leave of each line's tokens."""
    counts = {n: float(min(kept(int(n)) for kept in stages)) for n in tokens.unique()}
    return tokens.map(counts)
