"""The whole probe: measure, compare, write tables, figures and the card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from biaslab._util.tables import write_table
from biaslab.core.layers import resolve_layers
from biaslab.errors import RunFolderError
from biaslab.figures import LocationAccuracyDisplay, ProbeDisplay, save
from biaslab.figures.layers import evenly
from biaslab.maps.base import AttentionMaps
from biaslab.probe.card import card
from biaslab.probe.compare import compare
from biaslab.probe.measure import measure
from biaslab.probe.result import ProbeResult
from biaslab.probe.stimuli import ProbeDesign
from biaslab.profiles import Profile

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["ProbeReport", "probe", "write"]

_DRAWN = 10  # layers of the figure, evenly chosen of a deep model


@dataclass(frozen=True)
class ProbeReport:
    """What `probe` found: the measurement, its comparison (None without a profile), the card, the files written."""

    result: ProbeResult
    comparison: pd.DataFrame | None
    card: str
    files: list[Path]


def probe(
    vlm: VLM,
    design: ProbeDesign,
    profile: Profile | AttentionMaps | None = None,
    layers: int | Iterable[int] | None = None,
    heads: str = "mean",
    queries: str = "last",
    locate: bool = False,
    out: str | Path | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> ProbeReport:
    """Measure a design (see `measure`), compare it with a profile or maps (`compare`), and write it all to ``out``.

    A profile of another model, query rule, score or head reduction is refused before any picture is shown.

    Returns
    -------
    ProbeReport
        With ``out``: probe.csv (the map of every layer), comparison.csv, accuracy.csv, card.md and figures/.
    """
    if isinstance(profile, Profile):
        n_heads = vlm.model.config.get_text_config().num_attention_heads
        known = {"model": vlm.name, "revision": vlm.revision, "family": vlm.family.name, "score": "attention"}
        profile.check(**known, queries=queries, heads="mean" if heads == "mean" else n_heads)
        layers = resolve_layers(layers, profile.layers_, "the profile", "fit")
    result = measure(
        vlm, design, layers=layers, heads=heads, queries=queries, batch_size=batch_size, out=out, progress=progress,
        locate=locate,
    )  # fmt: skip
    comparison = None if profile is None else compare(result, profile)
    text = card(result, comparison, profile)
    files = [] if out is None else write(Path(out), result, comparison, text, profile)
    return ProbeReport(result, comparison, text, files)


def write(
    folder: Path,
    result: ProbeResult,
    comparison: pd.DataFrame | None,
    text: str,
    profile: Profile | AttentionMaps | None,
) -> list[Path]:
    """Tables, card and figures of a probe.

    Raises
    ------
    RunFolderError
        The folder cannot be written.
    """

    tables = {"probe": result.table(), "comparison": comparison}
    if result.iou is not None:
        tables["accuracy"] = result.accuracy()
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            if table is not None:
                files += write_table(table, folder / name, result.settings)
        files.append(folder / "card.md")
        files[-1].write_text(text, encoding="utf-8")
    except OSError as err:
        raise RunFolderError(f"{folder} cannot be written ({err.strerror or err}): choose another folder") from None
    shown = evenly(result.layers, _DRAWN)
    for region in result.regions:
        name = "probe" if region == "tiles" else f"probe-{region}"
        display = ProbeDisplay.from_probe(result, profile, comparison=comparison, region=region, layers=shown)
        files += save(display.plot(), folder / "figures" / name, close=True)
    if result.iou is not None:
        display = LocationAccuracyDisplay.from_probe(result).plot()
        files += save(display, folder / "figures" / "accuracy-by-place", close=True)
    return files
