"""What a run says of samples that failed, of answers that were cut, and of configurations without a verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

__all__ = ["RETRY", "cut_answers", "failed_lines", "failures", "unanswered"]

RETRY = "the same command with --retry-errors (retry_errors=True) tries them again"


def failed_lines(samples: pd.DataFrame) -> set[tuple[str, str]]:
    """List the sample runs that ended in an error, by id and key of the configuration."""
    failed = samples[samples["error"].notna()]
    return set(zip(failed["id"], failed["key"], strict=True))


def failures(samples: pd.DataFrame, earlier: Collection[tuple[str, str]] = ()) -> str:
    """Say how many sample runs failed, and the first cause.

    Parameters
    ----------
    samples : DataFrame
        The lines of the run.
    earlier : collection of (str, str)
        Those that had failed before this call and were not tried again (:func:`failed_lines`).

    Returns
    -------
    str
        One line; empty where nothing failed. Causes of an earlier call are told as such.
    """
    failed = samples[samples["error"].notna()]
    if failed.empty:
        return ""
    old = pd.Series([name in earlier for name in zip(failed["id"], failed["key"], strict=True)], index=failed.index)
    total = len(samples)
    if old.all():
        return (
            f"{len(failed)} of {total} sample runs failed in an earlier call and were not tried again (the first cause "
            f"then: {failed['error'].iloc[0]}): {RETRY}"
        )
    earlier_ones = f", {int(old.sum())} of them in an earlier call" if old.any() else ""
    return (
        f"{len(failed)} of {total} sample runs failed and have no verdict{earlier_ones}, the first with: "
        f"{failed['error'][~old].iloc[0]}; once the cause is put right, {RETRY}"
    )


def cut_answers(samples: pd.DataFrame, limit: Any) -> str:
    """Say how many answers were cut before they held a box, or an answer; empty where none was."""
    cut = samples["truncated"].fillna(False).astype(bool) & ~samples["parsed"].fillna(True).astype(bool)
    if not cut.any():
        return ""
    return (
        f"{int(cut.sum())} of {len(samples)} answers were cut at {limit} new tokens before they held an answer and "
        "count as misses: raise --max-new-tokens (max_new_tokens=) in a new run folder"
    )


def unanswered(samples: pd.DataFrame, configs: Iterable[dict[str, Any]], keys: Iterable[str]) -> list[dict[str, Any]]:
    """List the configurations that were tried and have not one verdict."""
    without = set(samples["key"].unique()) - set(samples["key"][samples["error"].isna()].unique())
    return [config for config, key in zip(configs, keys, strict=True) if key in without]
