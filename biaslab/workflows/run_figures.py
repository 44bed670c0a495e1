"""Figures and tables of a run folder, and of one pruned picture: what the verbs draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.tables import write_table
from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.evaluation.results import Results
from biaslab.figures import AccuracyDisplay, KeptTokensDisplay, save, save_table, style

if TYPE_CHECKING:
    from biaslab.evaluation.single_image import PrunedAnswer

__all__ = ["draw_kept", "draw_run"]


#: what a pruner has to beat, and what it has to keep up with
_BASELINES = ("random", "divprune", "none")


def draw_run(run: str | Path | Results, metric: str = "acc50", venue: str | None = None) -> list[Path]:
    """Accuracy against keep ratio and against FLOPs, and the LaTeX table, into ``figures/`` and ``tables/``.

    Raises
    ------
    RunFolderError
        `run` holds no run, or cannot be written.
    InputError
        Unknown metric or venue, or no finished sample to draw.
    """
    results = run if isinstance(run, Results) else Results.load(run)
    folder, labels = results.folder, results.labels
    if results.samples.empty:
        raise InputError(f"{folder} has no finished sample yet: run `biaslab evaluate --out {folder}` first")
    written: list[Path] = []
    with style(venue):
        for x in ("keep", "tflops"):
            display = AccuracyDisplay.from_results(results, metric=metric, labels=labels).plot(x=x)
            written += save(display, folder / "figures" / f"{metric}-{x}", close=True)
        written += save_table(results, folder / "tables" / metric, metric=metric, labels=labels)
    return written + _differences(results, folder / "tables")


def _differences(results: Results, folder: Path) -> list[Path]:
    """Paired differences in Acc@0.5 to each baseline of the run, with intervals and p-values."""
    written = []
    for reference in (r for r in _BASELINES if r in set(results.samples["method"])):
        table = results.differences(reference)
        if not table.empty:
            table.insert(1, "label", table["options_hash"].map(results.labels).fillna(table["method"]))
            written += write_table(table, folder / f"differences-to-{reference}", results.run["identity"]["model"])
    return written


def draw_kept(
    image: Any, found: Sequence[PrunedAnswer], expression: str, out: str | Path, target: Box | None = None
) -> list[Path]:
    """What each method kept of one picture, with its answer; the unpruned answer has no panel of its own."""
    pruned = [f for f in found if f.selection is not None]
    if not pruned:
        raise InputError("nothing was pruned: choose at least one method besides none")
    display = KeptTokensDisplay.from_selections(
        image,
        pruned[0].layout,
        {f.method: f.selection for f in pruned},
        target=target,
        answers={f.method: f.answer.box for f in pruned},
        expression=expression,
        model=pruned[0].model,
    )
    return save(display.plot(), out, close=True)
