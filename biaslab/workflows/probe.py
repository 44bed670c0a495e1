"""The causal placement test: measure, compare, write tables, figures and the card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from biaslab._util.files import atomic_write, writing_to
from biaslab._util.launch import Launch
from biaslab._util.progress import phase
from biaslab._util.tables import write_table
from biaslab.core.layers import resolve_layers
from biaslab.diagnostics.probe.card import card
from biaslab.diagnostics.probe.comparison import compare
from biaslab.diagnostics.probe.measuring import measure_share
from biaslab.diagnostics.probe.result import ProbeResult
from biaslab.diagnostics.probe.stimuli import ProbeDesign
from biaslab.evaluation.provenance_file import write_provenance
from biaslab.evaluation.sharing import share_of_cores
from biaslab.figures import LocationAccuracyDisplay, ProbeDisplay, save
from biaslab.figures.layers import evenly
from biaslab.maps.base import AttentionMaps
from biaslab.profiles import Profile

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["ProbeReport", "probe", "write"]

_DRAWN = 10  # layers of the figure, evenly chosen of a deep model


@dataclass(frozen=True)
class ProbeReport:
    """A causal placement test with its comparison.

    Attributes
    ----------
    result : ProbeResult or None
        The measurement; None in a process of several that leaves the rest of the work to another one.
    comparison : DataFrame or None
        Slope and correlation of the measured maps on a profile, one row per layer (and head); None without a profile.
    card : str
        The findings in words, Markdown.
    files : list of Path
        Files written.
    """

    result: ProbeResult | None
    comparison: pd.DataFrame | None
    card: str
    files: list[Path]


def probe(
    vlm: VLM,
    design: ProbeDesign,
    *,
    layers: int | Iterable[int] | None = None,
    heads: str = "mean",
    queries: str = "last",
    profile: Profile | AttentionMaps | None = None,
    batch_size: int = 16,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    locate: bool = False,
    launch: Launch | None = None,
) -> ProbeReport:
    """Measure the effect of an object's place on attention, compare it with a profile, write tables and figures.

    Parameters
    ----------
    vlm : VLM
        The model.
    design : ProbeDesign
        Objects, backgrounds and places; see :func:`biaslab.diagnostics.probe.design_for`.
    layers : int or iterable of int, optional
        Decoder layers; default the profile's, or all.
    heads : str
        ``"mean"`` over heads, or ``"all"`` for one map per head.
    queries : str
        Query rows: ``"last"`` (prompt token) or ``"text"`` (all after the image).
    profile : Profile or AttentionMaps, optional
        Compared with the measured maps; see :func:`biaslab.diagnostics.probe.compare`.
    batch_size : int
        Images per forward.
    out : str or Path, optional
        Folder for probe.csv (the map of every layer), comparison.csv, accuracy.csv, card.md, provenance.json and
        figures/. The same call goes on with an interrupted one.
    progress : bool
        Show a progress bar.
    workers : int, optional
        Threads that make the images ahead of the model, as in :func:`biaslab.diagnostics.probe.measure`.
    locate : bool
        Also generate the answers: localization accuracy as a function of place.
    launch : Launch, optional
        Which process of how many this one is. Default: what torchrun, ``accelerate launch`` or ``srun`` say. Each
        process then measures its share of the batches into a log of its own in ``out``, none waits for another, and
        the one that finds them complete compares and writes.

    Returns
    -------
    ProbeReport
        The measurement, its comparison and the files written.

    Raises
    ------
    ProfileMismatchError
        A profile of another model, query rule, score or head reduction; before any image is shown.
    RunFolderError
        The folder cannot be written.

    Examples
    --------
    Two objects at four places:

    >>> import biaslab as bl
    >>> from biaslab.diagnostics.probe import design_for
    >>> from biaslab.workflows.probe import probe
    >>> vlm = bl.load("grounder")
    >>> design = design_for(vlm, grid=(2, 2), pairs=2, scale=(0.5, 0.9))
    >>> report = probe(vlm, design, layers=[3], progress=False)
    >>> report.result.table()[["layer", "row", "col"]].drop_duplicates().shape
    (4, 3)
    """
    launch = Launch.from_environment() if launch is None else launch
    if isinstance(profile, Profile):
        config: Any = vlm.model.config
        n_heads = config.get_text_config().num_attention_heads
        profile.check(
            model=vlm.name, revision=vlm.revision, fingerprint=vlm.fingerprint, family=vlm.family.name,
            score="attention", queries=queries, heads="mean" if heads == "mean" else n_heads,
        )  # fmt: skip
        layers = resolve_layers(layers, profile.layers_, "the profile", "fit")
    with share_of_cores(vlm.device, launch.local_world_size):
        result = measure_share(
            vlm, design, launch, layers=layers, heads=heads, queries=queries, batch_size=batch_size, out=out,
            progress=progress, workers=workers, locate=locate,
        )  # fmt: skip
    if result is None:
        return ProbeReport(None, None, "", [])
    with phase("compare and draw", show=progress):
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
    """Write tables, card, provenance and figures of a probe.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    result : ProbeResult
        The measurement.
    comparison : DataFrame or None
        Of :func:`biaslab.diagnostics.probe.compare`.
    text : str
        The card.
    profile : Profile, AttentionMaps or None
        Drawn beside the measured maps.

    Returns
    -------
    list of Path
        Files written.

    Raises
    ------
    RunFolderError
        The folder cannot be written.
    """
    tables = {"probe": result.table(), "comparison": comparison}
    if result.iou is not None:
        tables["accuracy"] = result.accuracy()
    files = []
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            if table is not None:
                files += write_table(table, folder / name, result.settings)
        files.append(folder / "card.md")
        atomic_write(files[-1], text)
    files.append(write_provenance(folder, result.settings, profile=profile if isinstance(profile, Profile) else None))
    layers = evenly(result.layers, _DRAWN)
    for region in result.regions:
        name = "probe" if region == "tiles" else f"probe-{region}"
        display = ProbeDisplay.from_probe(result, layers=layers, profile=profile, region=region, comparison=comparison)
        files += save(display.plot(), folder / "figures" / name, close=True)
    if result.iou is not None:
        accuracy = LocationAccuracyDisplay.from_probe(result)
        files += save(accuracy.plot(), folder / "figures" / "accuracy-by-place", close=True)
    return files
