"""Figures and tables of a run folder, and of one pruned image: what the verbs draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.tables import write_table
from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.evaluation.results import Results
from biaslab.figures import AccuracyDisplay, KeptFramesDisplay, KeptTokensDisplay, save, save_table, style

if TYPE_CHECKING:
    from biaslab.evaluation.one_video import VideoAnswer
    from biaslab.evaluation.single_image import PrunedAnswer

__all__ = ["draw_kept", "draw_run"]


#: what a pruner has to beat, and what it has to keep up with
_BASELINES = ("random", "divprune", "none")


def draw_run(run: str | Path | Results, *, metric: str | None = None, venue: str | None = None) -> list[Path]:
    """Draw accuracy against keep ratio and against FLOPs, and write the LaTeX table.

    Parameters
    ----------
    run : str, Path or Results
        Run folder of an evaluation, or its results.
    metric : str, optional
        ``"acc50"``, ``"retention"``, ``"miou"`` or ``"target_kept"``; default: the accuracy of the run.
    venue : str, optional
        Sets the column width: ``"cvpr"``, ``"icml"``, ``"neurips"``, ``"iclr"`` or ``"aaai"``.

    Returns
    -------
    list of Path
        Files written, below ``figures/`` and ``tables/`` of the run folder.

    Raises
    ------
    RunFolderError
        `run` holds no run, or cannot be written.
    InputError
        Unknown metric or venue, results without a run folder, or no finished sample to draw.

    Examples
    --------
    Skipped as a test, since it needs a finished run and draws for seconds:

    >>> from biaslab.workflows.run_figures import draw_run
    >>> draw_run("runs/k4", venue="icml")  # doctest: +SKIP
    [PosixPath('runs/k4/figures/acc50-keep.pdf'), ...]
    """
    results = run if isinstance(run, Results) else Results.load(run)
    folder, labels = results.folder, results.labels
    metric = results.accuracy if metric is None else metric
    if folder is None:
        raise InputError("these results have no run folder: evaluate with out=FOLDER")
    if results.verdicts.empty:
        raise InputError(f"{folder} has no finished sample yet: run `biaslab evaluate --out {folder}` first")
    if results.verdicts["error"].notna().all():
        raise InputError(f"{folder} has no verdict to draw: {results.failures}")
    written: list[Path] = []
    axes = ("keep", "tflops") if results.table["tflops_decoder"].notna().any() else ("keep",)  # of a family without
    with style(venue):
        for x in axes:
            display = AccuracyDisplay.from_results(results, metric=metric, labels=labels).plot(x=x)
            written += save(display, folder / "figures" / f"{metric}-{x}", close=True)
        written += save_table(results, folder / "tables" / metric, metric=metric, labels=labels)
    return written + _differences(results, folder / "tables")


def _differences(results: Results, folder: Path) -> list[Path]:
    """Write paired differences in Acc@0.5 to each baseline of the run, with intervals and p-values."""
    written = []
    for reference in (r for r in _BASELINES if r in set(results.verdicts["method"].unique())):
        table = results.differences(reference)
        if not table.empty:
            table.insert(1, "label", table["options_hash"].map(results.labels).fillna(table["method"]))
            written += write_table(table, folder / f"differences-to-{reference}", results.run["identity"]["model"])
    return written


def draw_kept(
    image: Any, answers: Sequence[PrunedAnswer], *, expression: str, out: str | Path, target: Box | None = None
) -> list[Path]:
    """Draw the tokens that each method keeps of one image, with its answer.

    Parameters
    ----------
    image : PIL image, array or path
        The image.
    answers : sequence of PrunedAnswer
        Of :func:`biaslab.compare_methods`; the unpruned answer has a panel where there is no other.
    expression : str
        The referring expression.
    out : str or Path
        Figure without extension.
    target : Box, optional
        The true box, in pixels of the image.

    Returns
    -------
    list of Path
        PDF, PNG and CSV.

    Raises
    ------
    InputError
        No answer.
    RunFolderError
        The place cannot be written.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.workflows.run_figures import draw_kept
    >>> draw_kept(None, [], expression="the red ball", out="kept")
    Traceback (most recent call last):
    ...
    biaslab.errors.InputError: there is no answer to draw: choose at least one method
    """
    pruned: list[tuple[PrunedAnswer, Any]] = [(a, a.selection) for a in answers if a.selection is not None]
    if not pruned:  # the picture with the unpruned answer's box
        pruned = [(answer, range(answer.layout.n)) for answer in answers]
    if not pruned:
        raise InputError("there is no answer to draw: choose at least one method")
    display = KeptTokensDisplay.from_selections(
        image,
        pruned[0][0].layout,
        {answer.method: selection for answer, selection in pruned},
        target=target,
        answers={answer.method: answer.answer.box for answer, _ in pruned},
        expression=expression,
        model=pruned[0][0].model,
    )
    return save(display.plot(), out, close=True)


def draw_kept_of_frames(
    frames: Sequence[Any], answers: Sequence[VideoAnswer], *, question: str, out: str | Path
) -> list[Path]:
    """Draw the tokens that each method keeps of every frame of a video.

    Parameters
    ----------
    frames : sequence of PIL images, arrays or paths
    answers : sequence of VideoAnswer
        Of :func:`biaslab.evaluation.one_video.compare_on_video`; the unpruned answer has a row where there is no other.
    question : str
    out : str or Path
        Figure without extension.

    Returns
    -------
    list of Path
        PDF, PNG and CSV.

    Raises
    ------
    InputError
        No answer.
    RunFolderError
        The place cannot be written.
    """
    pruned = {answer.method: answer.selections for answer in answers if answer.selections is not None}
    if not answers:
        raise InputError("there is no answer to draw: choose at least one method")
    whole: list[Any] = [range(layout.n) for layout in answers[0].layouts]
    display = KeptFramesDisplay.from_selections(
        frames, answers[0].layouts, pruned or {answers[0].method: whole}, question=question, model=answers[0].model
    )
    return save(display.plot(), out, close=True)
