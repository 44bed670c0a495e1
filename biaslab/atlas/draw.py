"""The figures of an atlas: as few as tell it all, each of no more layers than a page holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from biaslab.atlas.summary import removal_rows
from biaslab.figures import (
    AurocDisplay,
    DependenceDisplay,
    Display,
    HeadsDisplay,
    ProbeDisplay,
    ProfileDisplay,
    ReliabilityDisplay,
    VarianceDisplay,
)
from biaslab.figures.layers import evenly

if TYPE_CHECKING:
    from biaslab.atlas.data import AtlasData

__all__ = ["displays"]

_MAPS = 12  # layers of the maps with marginals: three rows of panels
_PROBED = 10


def displays(atlas: AtlasData) -> dict[str, Display]:
    """Name -> Display of all that the tables, profiles, probe and pictures allow."""
    tables = atlas.tables
    found: dict[str, Display] = {}
    if "variance" in tables:
        table, heads = tables["variance"], tables["variance"]["head"].astype(str)
        if (heads == "mean").any():  # the line is of what the summary tells; all heads together would be a second one
            table = table[heads != "all"].assign(head=heads.where(heads != "mean", "all"))
        found["variance"] = VarianceDisplay.from_table(table)
    found["profile"] = ProfileDisplay.from_profile(atlas.profile, evenly(atlas.layers, _MAPS))
    if atlas.heads is not None:
        found["heads"] = HeadsDisplay.from_profile(atlas.heads, atlas.layers, variance=tables.get("variance"))
    if "reliability" in tables:
        found["reliability"] = ReliabilityDisplay.from_table(tables["reliability"])
    if "dependence" in tables:
        found["dependence"] = DependenceDisplay.from_table(tables["dependence"])
    if atlas.probe is not None:
        found |= _probe(atlas)
    if "removal" in tables:
        found["removal"] = AurocDisplay.from_table(removal_rows(tables["removal"])[0])
    if atlas.pictures is not None and "attention" not in atlas.skipped:
        found["attention"] = atlas.before_and_after()
    return found


def _probe(atlas: AtlasData) -> dict[str, Display]:
    """A figure per region of the image; of a probe of single heads the first."""
    probe, comparison = atlas.probe, atlas.tables["comparison"]
    profile = atlas.profile if probe.heads == ["mean"] or atlas.heads is None else atlas.heads
    shown = evenly([layer for layer in probe.layers if layer in atlas.layers], _PROBED)
    return {
        "probe" if region == "tiles" else f"probe-{region}": ProbeDisplay.from_probe(
            probe, profile, layers=shown, region=region, comparison=comparison
        )
        for region in probe.regions
    }
