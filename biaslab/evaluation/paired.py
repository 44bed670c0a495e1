"""The samples of a run that can be compared, in pairs, and what is counted of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from biaslab.evaluation.configurations import UNPRUNED
from biaslab.evaluation.schema import record_key
from biaslab.stats.resampling import paired_p_value

__all__ = ["Paired", "without_box"]


def without_box(lines: pd.DataFrame) -> dict[str, int | None]:
    """Count the answers that ended without a box, and those that were cut before they held one."""
    known, empty = lines["truncated"].notna().all(), ~lines["parsed"].astype(bool)
    cut = empty & lines["truncated"].fillna(False).astype(bool)
    return {
        "unparsed": int((empty & ~cut).sum() if known else empty.sum()),
        "truncated": int(cut.sum()) if known else None,
    }


class Paired:
    """The samples of a group that can be compared, in one order for every configuration."""

    def __init__(self, group: pd.DataFrame, configs: list[dict[str, Any]]) -> None:
        by_key = dict(list(group.groupby("key", sort=False)))
        self.configs = [config for config in configs if record_key(config) in by_key]
        lines = [by_key[record_key(config)].set_index("id") for config in self.configs]
        self.errors = [int(part["error"].notna().sum()) for part in lines]
        answered = [part[part["error"].isna()] for part in lines]
        shared = pd.Index(group["id"].unique())
        for part in answered:
            # a configuration that fails everywhere says nothing about samples and must not erase the others
            shared = shared[shared.isin(part.index)] if len(part) else shared
        self.lines = [part.reindex(shared) if len(part) else part for part in answered]
        images = group.drop_duplicates("id").set_index("id")["image_id"]
        self.images = images.reindex(shared).to_numpy(str)
        hits = [
            part["hit"].astype(float).to_numpy() if len(part) else np.full(len(shared), np.nan) for part in self.lines
        ]
        self.hits = np.stack(hits, axis=1) if hits else np.empty((len(shared), 0))

    def find(self, method: str, like: dict[str, Any] | None = None) -> int | None:
        """Find a method's configuration at the keep and layer of another (the unpruned one has none): its index."""
        for i, config in enumerate(self.configs):
            same = like is None or method == UNPRUNED or all(config[name] == like[name] for name in ("keep", "layer"))
            if config["method"] == method and same:
                return i
        return None

    def p_value(self, index: int, reference: str | None) -> float:
        """Test against the reference method at the same keep and layer; NaN where there is none."""
        other = None if reference is None else self.find(reference, self.configs[index])
        if other is None or other == index:
            return float("nan")
        return paired_p_value(self.hits[:, index], self.hits[:, other], self.images)
