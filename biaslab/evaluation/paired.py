"""The samples of a run that can be compared, in pairs, and what is counted of the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from biaslab.evaluation.configurations import UNPRUNED
from biaslab.evaluation.schema import record_key
from biaslab.stats.image_codes import ImageCodes
from biaslab.stats.paired_signs import SignFlips, paired_p_values
from biaslab.stats.resampling import ImageBootstrap

__all__ = ["MEANS", "MEDIANS", "Paired", "without_box"]

MEANS = ("target_auroc", "target_kept", "tflops_vision", "tflops_projector", "tflops_decoder")
MEDIANS = ("prefill_ms", "decode_ms")  # the first batch of a run pays for warming up
_COUNTED = ("parsed", "truncated", "iou", "tokens", "tokens_kept", *MEANS, *MEDIANS, "peak_mb")


def without_box(lines: pd.DataFrame) -> dict[str, int | None]:
    """Count the answers that ended without a box, and those that were cut before they held one."""
    known, empty = lines["truncated"].notna().all(), ~lines["parsed"].astype(bool)
    cut = empty & lines["truncated"].fillna(False).astype(bool)
    return {
        "unparsed": int((empty & ~cut).sum() if known else empty.sum()),
        "truncated": int(cut.sum()) if known else None,
    }


class Paired:
    """The samples of a group that can be compared, in one order for every configuration.

    Parameters
    ----------
    group : DataFrame
        Verdicts (:mod:`biaslab.evaluation.verdicts`) with text as categoricals.
    configs : list of dict
        Configurations of the run; those without a line in the group are left out.
    n_resamples : int
        Resamples of the intervals.
    flips : SignFlips
        Random signs of all tests.

    Attributes
    ----------
    errors : list of int
        Failed lines of each configuration.
    images : ImageCodes
        Image of every sample that can be compared.
    hits : (n, configurations) array
        NaN for a configuration without a verdict.
    """

    def __init__(self, group: pd.DataFrame, configs: list[dict[str, Any]], n_resamples: int, flips: SignFlips) -> None:
        keys = list(group["key"].cat.categories)
        column = {key: i for i, key in enumerate(keys)}
        there = np.bincount(_codes(group["key"]), minlength=len(keys)) > 0
        present = [(c, column.get(record_key(c), -1)) for c in configs]
        self.configs = [config for config, code in present if code >= 0 and there[code]]
        codes = [code for _, code in present if code >= 0 and there[code]]
        place, first = _in_order_of_appearance(_codes(group["id"]))
        row = np.full((len(first), len(keys)), -1, np.int64)  # of each sample under each configuration
        row[place, _codes(group["key"])] = np.arange(len(group))
        row = row[:, codes]
        failed = group["error"].notna().to_numpy()
        verdict = (row >= 0) & ~np.where(row >= 0, failed[row], True)
        self.errors = [int(count) for count in ((row >= 0) & ~verdict).sum(0)]
        # a configuration that fails everywhere says nothing about samples and must not erase the others
        tried = np.asarray(verdict.any(0))
        shared = np.asarray(verdict[:, tried].all(1))
        names, images = group["image_id"].cat.categories.to_numpy(str), _codes(group["image_id"])[first[shared]]
        self.images = ImageCodes.of(np.append(names, "None")[images] if len(images) else images)
        self.n_resamples, self.flips = n_resamples, flips
        hit = group["hit"].astype(float).to_numpy()
        self.hits = np.full((int(shared.sum()), len(codes)), np.nan)
        self.hits[:, tried] = hit[row[np.ix_(shared, tried)]]
        self._counted = group[list(_COUNTED)]
        self._rows = [row[shared, i] if tried[i] else row[:0, i] for i in range(len(codes))]

    def lines(self, index: int) -> pd.DataFrame:
        """Take what is counted and averaged of a configuration, on the samples that can be compared."""
        return self._counted.take(self._rows[index])

    @cached_property
    def bootstrap(self) -> ImageBootstrap:
        """Resamples of the images, drawn once for all that is asked."""
        return ImageBootstrap(self.images, n_resamples=self.n_resamples)

    def find(self, method: str, like: dict[str, Any] | None = None) -> int | None:
        """Find a method's configuration at the keep and layer of another (the unpruned one has none): its index."""
        for i, config in enumerate(self.configs):
            same = like is None or method == UNPRUNED or all(config[name] == like[name] for name in ("keep", "layer"))
            if config["method"] == method and same:
                return i
        return None

    def pairs(self, reference: str | None) -> list[tuple[int, int]]:
        """List each configuration with that of the reference method at the same keep and layer, where there is one."""
        if reference is None:
            return []
        found = [(i, self.find(reference, config)) for i, config in enumerate(self.configs)]
        return [(i, j) for i, j in found if j is not None and j != i]

    def p_values(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Test pairs of configurations, by sign flips over images."""
        a, b = ([pair[side] for pair in pairs] for side in (0, 1))
        return paired_p_values(self.hits[:, a] - self.hits[:, b], self.images, flips=self.flips).tolist()


def _codes(column: pd.Series) -> np.ndarray:
    return column.cat.codes.to_numpy()


def _in_order_of_appearance(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumber codes by where each is met first: the new codes, and the first place of each."""
    place, kinds = pd.factorize(codes)
    first = np.full(len(kinds), -1)
    first[place[::-1]] = np.arange(len(codes))[::-1]  # of repeated places the last, that is the first, is kept
    return place, first
