"""The atlas: tables, figures, a card and a row per layer, from maps or from a profile alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from biaslab._util.model_identity import SETTINGS
from biaslab.atlas.build_tables import diagnostic_tables, strength_table
from biaslab.atlas.card import card
from biaslab.atlas.data import AtlasData
from biaslab.atlas.draw import make_displays
from biaslab.atlas.summary import removal_rows
from biaslab.atlas.write import write
from biaslab.core.layers import resolve_layers, shared_layers
from biaslab.diagnostics.probe import ProbeResult, compare
from biaslab.diagnostics.probe.claims import SLOPE_MARGIN
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps
from biaslab.maps.protocol import expect_maps
from biaslab.maps.views import mean_over_heads
from biaslab.profiles import Profile
from biaslab.profiles.fitted import check_fitted
from biaslab.profiles.provenance import covers
from biaslab.profiles.registry import positional
from biaslab.stats.jackknife import check_confidence

if TYPE_CHECKING:
    from biaslab.figures import Display

__all__ = ["BiasAtlas"]


@dataclass(frozen=True, eq=False, repr=False)
class BiasAtlas(AtlasData):
    """Tables, figures and sentences on the positional bias of a model's layers and heads.

    Made by :meth:`from_maps` or :meth:`from_profile`.

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

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
    >>> atlas = BiasAtlas.from_maps(simulate("u-shaped", {layout: 12}, layers=3).maps)
    >>> [name for name in atlas.summary() if name.startswith(("r2_a", "border", "map"))]
    ['r2_asymptotic', 'r2_asymptotic_lo', 'r2_asymptotic_hi', 'border', 'border_lo', 'border_hi', 'map_sd_factor']
    >>> sorted(atlas.skipped)  # streamed maps keep no single images
    ['dependence', 'reliability', 'tile_order']
    """

    @classmethod
    def from_maps(
        cls,
        maps: AttentionMaps,
        *,
        layers: int | Iterable[int] | None = None,
        profile: Profile | None = None,
        estimator: str | Profile = "mean",
        per_head: bool = True,
        probe: ProbeResult | None = None,
        removal: pd.DataFrame | None = None,
        controls: pd.DataFrame | None = None,
        images: Mapping[str, Any] | None = None,
        confidence: float = 0.95,
    ) -> BiasAtlas:
        """Measure maps.

        Parameters
        ----------
        maps : AttentionMaps
            Stored or streamed; streamed ones leave out the measures that need single images.
        layers : int or iterable of int, optional
            Decoder layers; default all that the maps (and the profile) hold.
        profile : Profile, optional
            Fitted on other images, to be drawn and compared with the probe in place of one of these maps. Its
            parameters are the estimator's.
        estimator : str or Profile
            Name or instance (only its parameters are used) of the profile that is fitted on the maps.
        per_head : bool
            Run the diagnostics head by head too, where the maps hold heads. Variance explained always is.
        probe : ProbeResult, optional
            Of the same model, query rows and heads (or the mean over them).
        removal : DataFrame, optional
            Of :func:`biaslab.diagnostics.removal_report`.
        controls : DataFrame, optional
            Of :func:`biaslab.diagnostics.control_table`.
        images : mapping of str, optional
            Image id -> PIL image, path or object with ``.image`` (and ``.box``, ``.expression``): up to three images
            of stored maps are drawn before and after removal. :func:`biaslab.atlas.images_behind` makes it.
        confidence : float
            Of all intervals, in (0, 1).

        Returns
        -------
        BiasAtlas

        Raises
        ------
        InputError
            No images, attention that is not finite, unknown layers or estimator, a confidence outside (0, 1), a
            profile that is not fitted, a table that is none or has no rows.
        ProfileMismatchError
            A profile or probe of another model, query rule, score or heads; a profile of none of the maps' layouts.

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
        >>> maps = simulate("bottom-heavy", {layout: 12}, layers=2).maps
        >>> atlas = BiasAtlas.from_maps(maps, layers=[0, 1])
        >>> atlas.summary()[["layer", "n", "bottom", "top"]].round(1)
           layer   n  bottom  top
        0      0  12     1.8  0.4
        1      1  12     2.2  0.4
        """
        expect_maps(maps)
        check_confidence(confidence)
        available, source = maps.layers, "the maps"
        if profile is not None:
            check_fitted(profile)
            available = shared_layers(available, profile.layers_, (source, "the profile"))
            source = "the maps and the profile"
        layers = resolve_layers(layers, available, source)
        _check_images(maps, layers)
        tables = _checked_tables(removal, controls)
        estimator = _estimator(estimator, profile)
        mean_profile, head_profile = _profiles(maps, estimator, profile, layers)
        measures, skipped = diagnostic_tables(maps, estimator, layers=layers, per_head=per_head, confidence=confidence)
        strengths = [strength_table(p, layers=layers) for p in (mean_profile, head_profile) if p is not None]
        measures["strength"] = pd.concat(strengths, ignore_index=True)
        if probe is not None:
            probed_profile = mean_profile if probe.heads == ["mean"] or head_profile is None else head_profile
            measures["comparison"] = _comparison_table(probe, probed_profile, layers, confidence)
        atlas = cls(
            maps.provenance, layers, measures | tables, skipped, mean_profile, head_profile, estimator, maps, probe,
            images, confidence,
        )  # fmt: skip
        if images is not None:
            try:  # found out now, so that the card can say it
                _ = atlas._examples
            except InputError as error:
                skipped["attention"] = str(error)
        return atlas

    @classmethod
    def from_profile(
        cls,
        profile: Profile,
        *,
        layers: int | Iterable[int] | None = None,
        probe: ProbeResult | None = None,
        confidence: float = 0.95,
    ) -> BiasAtlas:
        """Read a profile alone: its maps, their strength, and whether the probe finds them.

        Parameters
        ----------
        profile : Profile
            Fitted.
        layers : int or iterable of int, optional
            Decoder layers; default all fitted ones.
        probe : ProbeResult, optional
            Of the same model, query rows and heads (or the mean over them).
        confidence : float
            Of the comparison's intervals, in (0, 1).

        Returns
        -------
        BiasAtlas

        Raises
        ------
        InputError
            A profile that is not fitted, unknown layers, or a confidence outside (0, 1).
        ProfileMismatchError
            A probe of another model, query rule, score or heads.

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> from biaslab.profiles import MeanProfile
        >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
        >>> maps = simulate("bottom-heavy", {layout: 12}, layers=2).maps
        >>> atlas = BiasAtlas.from_profile(MeanProfile().fit(maps), layers=1)
        >>> atlas.summary()[["layer", "map_sd_factor", "bottom"]].round(1)
           layer  map_sd_factor  bottom
        0      1            1.9     2.2
        """
        check_confidence(confidence)
        check_fitted(profile)
        if profile.kind == "heads":
            raise InputError("a profile of heads has no atlas: its card tells which heads it chose, and why")
        layers = resolve_layers(layers, profile.layers_, "the profile")
        tables = {"strength": strength_table(profile, layers=layers, over_heads=True)}
        if len(profile.quality_):
            tables["quality"] = profile.quality_[profile.quality_["layer"].isin(layers)].reset_index(drop=True)
        if probe is not None:
            tables["comparison"] = _comparison_table(probe, profile, layers, confidence)
        heads = None if profile.provenance_.get("heads") == "mean" else profile
        return cls(
            profile.provenance_, layers, tables, {}, profile, heads, clone(profile), probe=probe, confidence=confidence
        )

    def card(self, *, margin: tuple[float, float] = SLOPE_MARGIN) -> str:
        r"""Write the atlas in Markdown sentences.

        Parameters
        ----------
        margin : (float, float)
            Slopes of the causal probe on the profile that count as "about the right amount", where the whole interval
            lies between them; the default is :data:`biaslab.diagnostics.probe.claims.SLOPE_MARGIN`.

        Returns
        -------
        str

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
        >>> atlas = BiasAtlas.from_maps(simulate("bottom-heavy", {layout: 12}, layers=2).maps)
        >>> print(*(line for line in atlas.card().splitlines() if line.startswith("#")), sep="\n")
        # Atlas of positional bias: simulated
        ## All layers
        ## Layer by layer
        ## Limits
        """
        return card(self, margin=margin)

    def figures(self) -> dict[str, Display]:
        """Make the Display of everything that can be drawn; the rest is in ``skipped``.

        Returns
        -------
        dict
            Name -> Display, not drawn yet.

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
        >>> atlas = BiasAtlas.from_maps(simulate("bottom-heavy", {layout: 12}, layers=2).maps)
        >>> sorted(atlas.figures())
        ['profile', 'variance']
        """
        return make_displays(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write figures/ (PDF, PNG, CSV), tables/ (CSV; the summary as LaTeX too) and card.md.

        Parameters
        ----------
        folder : str or Path
            Made where it is missing.

        Returns
        -------
        list of Path
            The files written.

        Raises
        ------
        RunFolderError
            The folder cannot be written.
        """
        return write(self, Path(folder))


def _estimator(estimator: str | Profile, profile: Profile | None) -> Profile:
    if profile is not None:
        return clone(profile)
    return positional(estimator)


def _check_images(maps: AttentionMaps, layers: list[int]) -> None:
    if not maps.n:
        raise InputError("the maps hold no images: collect() over at least one image first")
    for layer in layers:
        if not all(np.isfinite(maps.moments(layer, key).mean).all() for key in maps.layouts):
            raise InputError(
                f"attention of layer {layer} is not finite in these maps: leave that layer out, or collect again with "
                "the model in another dtype"
            )


def _checked_tables(removal: Any, controls: Any) -> dict[str, pd.DataFrame]:
    """Copy the caller's tables by name; refuse one without the columns or rows of its kind."""
    columns = {"removal": ("layer", "debias", "auroc", "n"), "controls": ("layer", "control", "r", "r_lo", "r_hi")}
    tables: dict[str, pd.DataFrame] = {}
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
        tables[name] = table.copy()
    return tables


def _profiles(
    maps: AttentionMaps, estimator: Profile, other: Profile | None, layers: list[int]
) -> tuple[Profile, Profile | None]:
    """Profiles of the mean over heads and of single heads (None where the maps hold their mean only)."""
    if other is not None:
        settings = {k: maps.provenance.get(k) for k in (*SETTINGS, "queries", "score")}
        of_mean = other.provenance_.get("heads") == "mean"
        other.check(**settings, heads="mean" if of_mean else maps.heads)
        if not any(covers(other, layout) for layout in maps.layouts.values()):
            other.check(layout=next(iter(maps.layouts.values())))
        if maps.heads == "mean" or not of_mean:
            return (other, None) if of_mean else (clone(estimator).fit(mean_over_heads(maps), layers=layers), other)
    heads = None if maps.heads == "mean" else clone(estimator).fit(maps, layers=layers)
    return other or clone(estimator).fit(mean_over_heads(maps), layers=layers), heads


def _comparison_table(probe: ProbeResult, profile: Profile, layers: list[int], confidence: float) -> pd.DataFrame:
    table = compare(probe, profile, confidence=confidence)
    table = table[table["layer"].isin(layers)].reset_index(drop=True)
    if table.empty:
        raise InputError(f"the probe holds layers {probe.layers}, none of the atlas's {layers}: choose some it has")
    return table
