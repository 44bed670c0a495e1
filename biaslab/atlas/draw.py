"""The figures of an atlas: as few as tell it all, each of no more layers than a page holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from biaslab.atlas.summary import removal_rows
from biaslab.figures import (
    AurocDisplay,
    DependenceDisplay,
    Display,
    FrameMassDisplay,
    HeadRatingDisplay,
    HeadsDisplay,
    ProbeDisplay,
    ProfileDisplay,
    ReliabilityDisplay,
    VarianceDisplay,
)
from biaslab.figures.layers import evenly

if TYPE_CHECKING:
    from biaslab.atlas.data import AtlasData
    from biaslab.diagnostics.probe import ProbeResult

__all__ = ["make_displays"]

_MAPS = 12  # layers of the maps with marginals: three rows of panels
_PROBED = 10


def make_displays(atlas: AtlasData) -> dict[str, Display]:
    """Make the Display, by name, of all that the tables, profiles, probe and images allow."""
    tables, model = atlas.tables, atlas.provenance.get("model")
    displays: dict[str, Display] = {}
    if "variance" in tables:
        table, heads = tables["variance"], tables["variance"]["head"].astype(str)
        if (heads == "mean").any():  # the line is of what the summary tells; all heads together would be a second one
            table = table[heads != "all"].assign(head=heads.where(heads != "mean", "all"))
        displays["variance"] = VarianceDisplay.from_table(table, model=model)
    displays["profile"] = ProfileDisplay.from_profile(atlas.profile, layers=evenly(atlas.layers, _MAPS))
    if atlas.heads is not None:
        displays["heads"] = HeadsDisplay.from_profile(atlas.heads, layers=atlas.layers, variance=tables.get("variance"))
    if "quality" in tables and len(tables["quality"]) > 1:
        displays["quality"] = HeadRatingDisplay.from_table(tables["quality"], provenance=atlas.provenance)
    if "reliability" in tables:
        displays["reliability"] = ReliabilityDisplay.from_table(tables["reliability"], model=model)
    if "dependence" in tables:
        displays["dependence"] = DependenceDisplay.from_table(tables["dependence"], model=model)
    if "frame_mass" in tables:
        displays["frames"] = FrameMassDisplay.from_table(tables["frame_mass"])
    if atlas.probe is not None:
        displays |= _probe_displays(atlas, atlas.probe)
    if "removal" in tables:
        displays["removal"] = AurocDisplay.from_table(removal_rows(tables["removal"])[0], model=model)
    if atlas.images is not None and "attention" not in atlas.skipped:
        displays["attention"] = atlas.before_and_after()
    return displays


def _probe_displays(atlas: AtlasData, probe: ProbeResult) -> dict[str, Display]:
    """Make a figure per region of the image; of a probe of single heads the first."""
    comparison = atlas.tables["comparison"]
    profile = atlas.profile if probe.heads == ["mean"] or atlas.heads is None else atlas.heads
    layers = evenly([layer for layer in probe.layers if layer in atlas.layers], _PROBED)
    return {
        "probe" if region == "tiles" else f"probe-{region}": ProbeDisplay.from_probe(
            probe, profile=profile, layers=layers, region=region, comparison=comparison
        )
        for region in probe.regions
    }
