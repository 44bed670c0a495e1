"""Figures and tables of a run folder, and of one pruned image: what the verbs draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.tables import write_table
from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.evaluation.results import Results
from biaslab.figures import AccuracyDisplay, KeptFramesDisplay, KeptTokensDisplay, save, save_table, style
from biaslab.figures.saving import check_formats
from biaslab.pruning.display_names import display_names
from biaslab.workflows.print_labels import check_labels

if TYPE_CHECKING:
    from biaslab.evaluation.one_video import VideoAnswer
    from biaslab.evaluation.single_image import PrunedAnswer

__all__ = ["draw_kept", "draw_kept_of_frames", "draw_run", "kept_title"]


#: what a pruner has to beat, and what it has to keep up with
_BASELINES = ("random", "divprune", "none")


def draw_run(
    runs: str | Path | Results | Sequence[str | Path | Results],
    *,
    methods: Sequence[str] | None = None,
    keep: float | int | Sequence[float | int] | None = None,
    layer: int | Sequence[int] | None = None,
    metric: str | None = None,
    labels: Mapping[str, str] | None = None,
    venue: str | None = None,
    font: str | None = None,
    formats: Sequence[str] = ("pdf", "png"),
    out: str | Path | None = None,
) -> list[Path]:
    """Draw accuracy against keep ratio and against FLOPs, and write the LaTeX table, of one run or of several.

    Parameters
    ----------
    runs : str, Path or Results, or sequence of these
        Run folders of evaluations, or their results. Several of one model and data set are one comparison, others stand
        side by side.
    methods : sequence of str, optional
        Which, in this order: names, or labels with options; default all.
    keep, layer : number or sequence of these, optional
        Keep ratios or counts, and prune layers; default all.
    metric : str, optional
        ``"acc50"``, ``"retention"``, ``"miou"`` or ``"target_kept"``; default: the accuracy of the run.
    labels : mapping of str, optional
        Method, its label with options, or options hash -> its name in print.
    venue : str, optional
        Sets widths and font: ``"cvpr"``, ``"eccv"``, ``"icml"``, ... (:func:`biaslab.figures.style`).
    font : str, optional
        ``"serif"``, ``"sans"`` or an installed family; default that of the venue.
    formats : sequence of str
        Of ``"pdf"``, ``"png"`` and ``"svg"``.
    out : str or Path, optional
        Folder that gets ``figures/`` and ``tables/``; default the run folder. Needed where there are several runs.

    Returns
    -------
    list of Path
        Files written, below ``figures/`` and ``tables/``.

    Raises
    ------
    RunFolderError
        A folder holds no run, or cannot be written.
    InputError
        Unknown metric, method, name, format, venue or font, results without a run folder, several without `out`, or no
        finished sample to draw.

    Examples
    --------
    Skipped as a test, since it needs a finished run and draws for seconds:

    >>> from biaslab.workflows.run_figures import draw_run
    >>> draw_run("runs/k4", venue="icml", labels={"d2pruner": "D2Pruner (ours)"})  # doctest: +SKIP
    [PosixPath('runs/k4/figures/acc50-keep.pdf'), ...]
    """
    given = [runs] if isinstance(runs, str | Path | Results) else list(runs)
    formats = check_formats(formats)
    with style(venue, font=font):
        if not given:
            raise InputError("no run to draw: name one or more run folders")
        if out is None and len(given) > 1:
            raise InputError(
                f"{len(given)} runs in one figure belong to none of them: say where it goes with out=FOLDER"
            )
        opened = [run if isinstance(run, Results) else Results.load(run) for run in given]
        for results in opened:
            _check_drawable(results)
        folder = opened[0].folder if out is None else Path(out)
        if folder is None:
            raise InputError("these results have no run folder: evaluate with out=FOLDER, or pass out=FOLDER here")
        whole = opened[0] if len(opened) == 1 else opened
        metric = opened[0].accuracy if metric is None else metric
        check_labels(opened, labels)
        choices: dict[str, Any] = {
            "metric": metric, "layer": layer, "keep": keep, "methods": methods, "labels": labels,
        }  # fmt: skip
        written: list[Path] = []
        known = all(results.table["tflops_decoder"].notna().any() for results in opened)  # not of every family
        for x in ("keep", "tflops") if known else ("keep",):
            display = AccuracyDisplay.from_results(whole, **choices).plot(x=x)
            place = folder / "figures" / f"{metric}-{'flops' if x == 'tflops' else x}"
            written += save(display, place, formats=formats, close=True)
        written += save_table(whole, folder / "tables" / metric, **choices)
    return written + (_differences(opened[0], folder / "tables") if len(opened) == 1 else [])


def _check_drawable(results: Results) -> None:
    folder = results.folder
    if results.verdicts.empty:
        where = f"{folder} has" if folder is not None else "these results have"
        raise InputError(f"{where} no finished sample yet: run `biaslab evaluate --out {folder or 'FOLDER'}` first")
    if results.verdicts["error"].notna().all():
        raise InputError(f"{folder or 'these results'} has no verdict to draw: {results.failures}")


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
    image: Any,
    answers: Sequence[PrunedAnswer],
    *,
    expression: str,
    out: str | Path,
    target: Box | None = None,
    keep: float | int | None = None,
) -> list[Path]:
    """Draw the tokens that each method keeps of one image, with its answer.

    Parameters
    ----------
    image : PIL image, array or path
        The image.
    answers : sequence of PrunedAnswer
        Of :func:`biaslab.compare_methods`; the unpruned answer's panel comes first.
    expression : str
        The referring expression.
    out : str or Path
        Figure without extension.
    target : Box, optional
        The true box, in pixels of the image.
    keep : float or int, optional
        What was asked for, which the title says, with the layer where that is one for all.

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
    if not answers:
        raise InputError("there is no answer to draw: choose at least one method")
    shown = display_names(answer.method for answer in answers)
    names = [shown[answer.method] for answer in answers]
    pruned = any(answer.selection is not None for answer in answers)
    display = KeptTokensDisplay.from_selections(
        image,
        answers[0].layout,
        {name: answer.selection for name, answer in zip(names, answers, strict=True)},
        target=target,
        answers={name: answer.answer.box for name, answer in zip(names, answers, strict=True)},
        expression=expression,
        title=kept_title(keep, _one_layer(answers)) if keep is not None and pruned else None,
        model=answers[0].model,
    )
    return save(display.plot(), out, close=True)


def _one_layer(answers: Sequence[PrunedAnswer]) -> int | None:
    """Find the layer before which all methods drop tokens; None where they differ."""
    layers = {answer.layer for answer in answers if answer.selection is not None}
    return next(iter(layers)) if len(layers) == 1 else None


def kept_title(keep: float | int, layer: int | None) -> str:
    """Say what is kept and from where on, for the title of a figure.

    Examples
    --------
    >>> from biaslab.workflows.run_figures import kept_title
    >>> kept_title(0.1, 4), kept_title(64, None)
    ('10 % kept before layer 4', '64 tokens kept')
    """
    kept = f"{100 * keep:g} % kept" if isinstance(keep, float) and keep <= 1 else f"{keep:g} tokens kept"
    return kept if layer is None else f"{kept} before layer {layer}"


def draw_kept_of_frames(
    frames: Sequence[Any],
    answers: Sequence[VideoAnswer],
    *,
    question: str,
    out: str | Path,
    title: str | None = None,
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
    title : str, optional
        What is said of all frames.

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
    shown = display_names(answer.method for answer in answers)
    pruned = {shown[answer.method]: answer.selections for answer in answers if answer.selections is not None}
    if not answers:
        raise InputError("there is no answer to draw: choose at least one method")
    whole: list[Any] = [range(layout.n) for layout in answers[0].layouts]
    display = KeptFramesDisplay.from_selections(
        frames, answers[0].layouts, pruned or {shown[answers[0].method]: whole}, question=question, title=title,
        model=answers[0].model,
    )  # fmt: skip
    return save(display.plot(), out, close=True)
