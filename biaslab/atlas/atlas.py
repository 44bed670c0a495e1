"""The atlas: tables, figures, a card and a row per layer, from maps or from a profile alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from biaslab.atlas.card import card
from biaslab.atlas.data import AtlasData
from biaslab.atlas.draw import displays
from biaslab.atlas.measures import measured, strength
from biaslab.atlas.pictures import reaches
from biaslab.atlas.summary import removal_rows
from biaslab.atlas.write import write
from biaslab.core.layers import resolve_layers, shared_layers
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps
from biaslab.maps.views import mean_over_heads
from biaslab.probe import ProbeResult, compare
from biaslab.profiles import Profile, make
from biaslab.profiles.fitted import check_fitted
from biaslab.stats.jackknife import check_confidence

if TYPE_CHECKING:
    from biaslab.figures import Display

__all__ = ["BiasAtlas"]


@dataclass(frozen=True, eq=False)
class BiasAtlas(AtlasData):
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

    @classmethod
    def from_maps(
        cls,
        maps: AttentionMaps,
        estimator: str | Profile = "mean",
        profile: Profile | None = None,
        probe: ProbeResult | None = None,
        removal: pd.DataFrame | None = None,
        controls: pd.DataFrame | None = None,
        pictures: Mapping[str, Any] | None = None,
        layers: int | Iterable[int] | None = None,
        confidence: float = 0.95,
        per_head: bool = True,
    ) -> BiasAtlas:
        """Measure maps.

        Parameters
        ----------
        maps : AttentionMaps; streamed ones leave out what needs single images.
        estimator : name or instance (only its parameters are used) of the profile that is fitted on the maps.
        profile : fitted on other images, to be drawn and compared with the probe in place of one of these maps. Its
            parameters are the estimator's.
        probe : of the same model, query rows and heads (or the mean over them).
        removal : of :func:`biaslab.diagnostics.removal_report`.
        controls : of :func:`biaslab.diagnostics.control_table`.
        pictures : image id -> PIL image, path or object with ``.image`` (and ``.box``, ``.expression``): up to three
            images of stored maps are drawn before and after removal. :func:`biaslab.atlas.pictures_from` makes it.
        layers : default all that the maps (and the profile) hold.
        confidence : of all intervals.
        per_head : run the diagnostics head by head too, where the maps hold heads. Variance explained always is.

        Raises
        ------
        InputError
            No images, attention that is not finite, unknown layers or estimator, a confidence outside (0, 1), a
            profile that is not fitted, a table that is none or has no rows.
        ProfileMismatchError
            A profile or probe of another model, query rule, score or heads; a profile of none of the maps' layouts.
        """
        check_confidence(confidence)
        known, what = maps.layers, "the maps"
        if profile is not None:
            check_fitted(profile)
            known, what = shared_layers(known, profile.layers_, (what, "the profile")), "the maps and the profile"
        layers = resolve_layers(layers, known, what)
        _check_images(maps, layers)
        given = _given(removal, controls)
        chosen = clone(profile) if profile is not None else make(estimator) if isinstance(estimator, str) else estimator
        whole, heads = _profiles(maps, chosen, profile, layers)
        tables, skipped = measured(maps, chosen, layers, confidence, per_head)
        strengths = [strength(p, layers) for p in (whole, heads) if p is not None]
        tables["strength"] = pd.concat(strengths, ignore_index=True)
        if probe is not None:
            against = whole if probe.heads == ["mean"] or heads is None else heads
            tables["comparison"] = _compared(probe, against, layers, confidence)
        about = maps.provenance
        atlas = cls(about, layers, tables | given, skipped, whole, heads, chosen, maps, probe, pictures, confidence)
        if pictures is not None:
            try:  # found out now, so that the card can say it
                _ = atlas._examples
            except InputError as error:
                skipped["attention"] = str(error)
        return atlas

    @classmethod
    def from_profile(
        cls,
        profile: Profile,
        probe: ProbeResult | None = None,
        layers: int | Iterable[int] | None = None,
        confidence: float = 0.95,
    ) -> BiasAtlas:
        """What a profile alone can tell: its maps, their strength, and whether the probe finds them.

        Raises
        ------
        InputError
            A profile that is not fitted, unknown layers, or a confidence outside (0, 1).
        ProfileMismatchError
            A probe of another model, query rule, score or heads.
        """
        check_confidence(confidence)
        check_fitted(profile)
        layers = resolve_layers(layers, profile.layers_, "the profile")
        tables = {"strength": strength(profile, layers, over_heads=True)}
        if probe is not None:
            tables["comparison"] = _compared(probe, profile, layers, confidence)
        heads = None if profile.provenance_.get("heads") == "mean" else profile
        return cls(
            profile.provenance_, layers, tables, {}, profile, heads, clone(profile), probe=probe, confidence=confidence
        )

    def card(self) -> str:
        """The atlas in Markdown sentences."""
        return card(self)

    def figures(self) -> dict[str, Display]:
        """Name -> Display of everything that can be drawn; what cannot is in :attr:`skipped`."""
        return displays(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write figures/ (PDF, PNG, CSV), tables/ (CSV; the summary as LaTeX too) and card.md; the files written.

        Raises
        ------
        RunFolderError
            The folder cannot be written.
        """
        return write(self, Path(folder))


def _check_images(maps: AttentionMaps, layers: list[int]) -> None:
    if not maps.n:
        raise InputError("the maps hold no images: collect() over at least one image first")
    for layer in layers:
        if not all(np.isfinite(maps.moments(layer, key).mean).all() for key in maps.layouts):
            raise InputError(
                f"attention of layer {layer} is not finite in these maps: leave that layer out, or collect again with "
                "the model in another dtype"
            )


def _given(removal: Any, controls: Any) -> dict[str, pd.DataFrame]:
    """Copies of the tables that were given; refuses what is no such table."""
    columns = {"removal": ("layer", "debias", "auroc", "n"), "controls": ("layer", "control", "r", "r_lo", "r_hi")}
    found = {}
    for name, table in {"removal": removal, "controls": controls}.items():
        if table is None:
            continue
        if not isinstance(table, pd.DataFrame) or not set(columns[name]) <= set(table):
            maker = "removal_report" if name == "removal" else "control_table"
            raise InputError(
                f"{name} is no table of biaslab.diagnostics.{maker}: it needs columns {', '.join(columns[name])}"
            )
        if (removal_rows(table)[0] if name == "removal" else table).empty:
            of = " of all locations (location 'all')" if name == "removal" else ""
            raise InputError(f"{name} has no rows{of}: pass the whole table, or leave it out")
        found[name] = table.copy()
    return found


def _profiles(
    maps: AttentionMaps, estimator: Profile, given: Profile | None, layers: list[int]
) -> tuple[Profile, Profile | None]:
    """Profiles of the mean over heads and of single heads (None where the maps hold their mean only)."""
    if given is not None:
        about = {k: maps.provenance.get(k) for k in ("model", "revision", "family", "queries", "score")}
        mean = given.provenance_.get("heads") == "mean"
        given.check(**about, heads="mean" if mean else maps.heads)
        if not any(reaches(given, layout) for layout in maps.layouts.values()):
            given.check(layout=next(iter(maps.layouts.values())))
        if maps.heads == "mean" or not mean:
            return (given, None) if mean else (clone(estimator).fit(mean_over_heads(maps), layers=layers), given)
    heads = None if maps.heads == "mean" else clone(estimator).fit(maps, layers=layers)
    return given or clone(estimator).fit(mean_over_heads(maps), layers=layers), heads


def _compared(probe: ProbeResult, profile: Profile, layers: list[int], confidence: float) -> pd.DataFrame:
    table = compare(probe, profile, confidence=confidence)
    table = table[table["layer"].isin(layers)].reset_index(drop=True)
    if table.empty:
        raise InputError(f"the probe holds layers {probe.layers}, none of the atlas's {layers}: choose some it has")
    return table
