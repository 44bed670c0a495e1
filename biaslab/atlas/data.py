"""What an atlas holds, and the row per layer that is read off it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from biaslab._util.watermark import stamp_table
from biaslab.atlas.pictures import before_and_after
from biaslab.atlas.summary import summary_table
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps
from biaslab.probe import ProbeResult
from biaslab.profiles import Profile

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.figures import AttentionDisplay

__all__ = ["AtlasData"]


@dataclass(frozen=True, eq=False)
class AtlasData:
    """Everything that is known of the positional bias of a model's layers and heads.

    Made by :meth:`from_maps` or :meth:`from_profile`.

    Attributes
    ----------
    about : provenance of the maps, or of the profile.
    layers : decoder layers.
    tables : name -> DataFrame: "variance", "reliability", "mass", "tile_order", "dependence" (rows "mean" and, where
        the maps hold them, of each head), "strength" of the profile's maps, and, where given, "comparison" (probe
        against profile), "removal", "controls".
    skipped : name -> why it could not be measured or drawn.
    profile : of the mean over heads.
    heads : profile of single heads, or None.
    maps, probe, pictures : as given, or None.
    estimator : whose parameters were used; not fitted.
    confidence : of the intervals.
    """

    about: Mapping[str, Any]
    layers: list[int]
    tables: dict[str, pd.DataFrame]
    skipped: dict[str, str]
    profile: Profile
    heads: Profile | None
    estimator: Profile
    maps: AttentionMaps | None = None
    probe: ProbeResult | None = None
    pictures: Mapping[str, Any] | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for table in self.tables.values():
            stamp_table(table, self.about)

    @property
    def layouts(self) -> dict[str, TokenLayout]:
        """Layout key -> layout of the images that were measured (of a profile alone: that it was fitted on)."""
        return self.profile.layouts_ if self.maps is None else self.maps.layouts

    @property
    def counts(self) -> dict[str, int]:
        """Layout key -> number of those images."""
        if self.maps is None:
            return self.profile.counts_
        return {key: self.maps.moments(self.layers[0], key).n for key in self.maps.layouts}

    def summary(self) -> pd.DataFrame:
        """One row per layer; see :func:`biaslab.atlas.summary.summary_table` for the columns."""
        return stamp_table(summary_table(self.tables, self.layers), self.about)

    def before_and_after(self, layer: int | None = None, *, debias: str = "ratio") -> AttentionDisplay:
        """Up to three of the ``pictures``, with their own attention raw and debiased by the other folds' profile.

        Parameters
        ----------
        layer : default the one that position explains best.
        debias : debias operation.

        Raises
        ------
        InputError
            No pictures, none that the maps hold, or maps without single images.
        """
        if self.maps is None or self.pictures is None:
            raise InputError("before and after needs stored maps and pictures=: give both to BiasAtlas.from_maps")
        if layer is None and debias == "ratio":
            return self._examples
        layer = self._most_positional() if layer is None else layer
        return before_and_after(self.maps, self.pictures, layer, self.estimator, debias)

    @cached_property
    def _examples(self) -> AttentionDisplay:
        return before_and_after(self.maps, self.pictures, self._most_positional(), self.estimator)

    def _most_positional(self) -> int:
        summary = self.summary()
        known = "r2" in summary and summary["r2"].notna().any()
        return int(summary.loc[summary["r2"].idxmax(), "layer"]) if known else self.layers[0]
