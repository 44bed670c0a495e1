"""What an atlas holds, and the row per layer that is read off it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from biaslab._util.notebook import InNotebooks
from biaslab._util.watermark import stamp_table
from biaslab.atlas.images import before_and_after
from biaslab.atlas.summary import summary_table
from biaslab.diagnostics.probe import ProbeResult
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps
from biaslab.profiles import Profile

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.figures import AttentionDisplay

__all__ = ["AtlasData"]


@dataclass(frozen=True, eq=False, repr=False)
class AtlasData(InNotebooks):
    """What an atlas holds: the tables on a model's layers and heads, and what they were made of.

    Attributes
    ----------
    provenance : mapping
        Of the maps, or of the profile.
    layers : list of int
        Decoder layers.
    tables : dict of str to DataFrame
        "variance", "reliability", "mass", "tile_order", "dependence", of frames "frame_order", "frame_mass" and
        "frame_top" (rows "mean" and, where the maps hold them, of each head), "strength" of the profile's maps,
        "quality" of single heads, where it can be told, and, where passed in, "comparison" (probe against profile),
        "removal", "controls".
    skipped : dict of str to str
        Name -> why it could not be measured or drawn.
    profile : Profile
        Of the mean over heads.
    heads : Profile or None
        Of single heads.
    estimator : Profile
        Whose parameters were used; not fitted.
    maps, probe, images
        As passed in, or None.
    confidence : float
        Of the intervals.
    """

    provenance: Mapping[str, Any]
    layers: list[int]
    tables: dict[str, pd.DataFrame]
    skipped: dict[str, str]
    profile: Profile
    heads: Profile | None
    estimator: Profile
    maps: AttentionMaps | None = None
    probe: ProbeResult | None = None
    images: Mapping[str, Any] | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for table in self.tables.values():
            stamp_table(table, self.provenance)

    def __repr__(self) -> str:
        about = f"n={self.provenance.get('n')}, layers={self.layers}, tables={list(self.tables)}"
        return f"{type(self).__name__}({self.provenance.get('model')!r}, {about})"

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
        """Read one row per layer off the tables.

        Returns
        -------
        DataFrame
            Columns as in :func:`biaslab.atlas.summary.summary_table`.
        """
        return stamp_table(summary_table(self.tables, self.layers), self.provenance)

    def before_and_after(self, *, layer: int | None = None, debias: str = "ratio") -> AttentionDisplay:
        """Show up to three of the ``images`` with their own attention, raw and debiased by the other folds' profile.

        Parameters
        ----------
        layer : int, optional
            Default the one that position explains best.
        debias : str
            Debias operation.

        Returns
        -------
        AttentionDisplay

        Raises
        ------
        InputError
            No images, none that the maps hold, or maps without single images.
        """
        if self.maps is None or self.images is None:
            raise InputError("before and after needs stored maps and images=: give both to BiasAtlas.from_maps")
        if layer is None and debias == "ratio":
            return self._examples
        layer = self._most_positional() if layer is None else layer
        return before_and_after(self.maps, self.images, self.estimator, layer=layer, debias=debias)

    @cached_property
    def _examples(self) -> AttentionDisplay:
        assert self.maps is not None and self.images is not None  # the callers have looked
        return before_and_after(self.maps, self.images, self.estimator, layer=self._most_positional())

    def _most_positional(self) -> int:
        summary = self.summary()
        if "r2" not in summary or summary["r2"].isna().all():
            return self.layers[0]
        return int(summary["layer"].to_numpy()[np.nanargmax(summary["r2"].to_numpy(float))])
