"""`report`: one HTML file of a run folder, or of two runs in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab._util.arguments import as_path, at_least_one
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.number_text import count_text, is_number
from biaslab._util.output_place import check_output_file, check_page_name
from biaslab.core.layout import TokenLayout
from biaslab.datasets.question import Question
from biaslab.datasets.sample import Sample
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation.results import Results
from biaslab.evaluation.runner import expect_dataset
from biaslab.figures.report.choosing import chosen_samples, hit_table
from biaslab.figures.report.folder_page import folder_page, is_measured
from biaslab.figures.report.page import render
from biaslab.figures.report.pair_page import check_pair, pair_page, paired_table
from biaslab.figures.report.run_page import run_page
from biaslab.figures.report.viewer_data import Shown, lines_of
from biaslab.models.expected import expect_model
from biaslab.profiles import Profile
from biaslab.workflows.print_labels import check_labels
from biaslab.workflows.run_sources import dataset_of, layout_finder, profiles_of_run, samples_of_run

if TYPE_CHECKING:
    from biaslab.datasets.base import Dataset
    from biaslab.models.vlm import VLM

__all__ = ["REPORT_FILE", "report", "samples_shown", "samples_with_attention"]

REPORT_FILE = "report.html"


def report(
    run: str | Path | Results,
    other: str | Path | Results | None = None,
    *,
    dataset: Dataset | None = None,
    vlm: VLM | None = None,
    layers: Sequence[int] | None = None,
    n: int = 20,
    labels: Mapping[str, str] | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write one HTML file of a run: what was found, charts, tables, samples to click through, cost, provenance.

    The file holds all it shows and asks the network for nothing.

    Parameters
    ----------
    run : str, Path or Results
        Run folder of ``evaluate`` (or its results), of ``demo``, ``probe`` or an atlas.
    other : str, Path or Results, optional
        A second run of ``evaluate`` on samples of the same data: both are compared in pairs.
    dataset : Dataset, optional
        Of the run; by default it is opened as ``run.json`` says. Samples whose content is not what the run saw are
        shown without image.
    vlm : VLM, optional
        The model of the run: the attention of the shown samples is captured, and what each stage of a schedule left.
    layers : sequence of int, optional
        Whose attention; by default the one that the first pruned configuration reads.
    n : int
        Samples of each kind: where methods disagree, misses, at random.
    labels : mapping of str, optional
        Method, its label with options, or options hash -> its name in the report; default as papers name them. How a
        command line spells it stays in the provenance, in the tables' CSV and where one points at a name.
    out : str or Path, optional
        The file; by default ``report.html`` in the run folder, for two runs in the first one's.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    RunFolderError
        `run` is no run, or the place cannot be written.
    InputError
        No verdict in the run, two runs that share no sample or no configuration, results without a folder and no
        `out`, another model than the run's, or a label for a method that no run has.

    Examples
    --------
    >>> import tempfile
    >>> import biaslab as bl
    >>> from biaslab.workflows.make_report import report
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     results = bl.evaluate(
    ...         bl.load("grounder"), bl.load_dataset("scenes", n=2), methods=["none", "random"], keep=0.1, layer=4,
    ...         out=folder, progress=False,
    ...     )
    ...     "<h2>What was found</h2>" in report(folder).read_text()
    True
    """
    at_least_one("n", n)
    for given in (run, other):
        if given is not None and not isinstance(given, (str, Path, Results)):
            raise InputError(
                f"a report is of a run folder or of results, not of {type(given).__name__}: pass one of those"
            )
    if not isinstance(run, Results) and is_measured(run):
        if any(given is not None for given in (other, dataset, vlm, layers)):
            raise InputError(f"{run} is no run of evaluate: report it alone")
        if labels:
            raise InputError(f"{run} is no run of evaluate and has no methods to name: leave the labels out")
        file = _place(out, Path(run))
        return _written(file, render(folder_page(Path(run))))
    results = _results(run)
    file = _place(out, results.folder)
    if other is None:
        check_labels([results], labels)
        return _written(file, render(_of_one(results, dataset, vlm, layers, n, labels)))
    if vlm is not None:
        raise InputError("attention is shown of one run: report each of the two alone, or leave the model out")
    second = _results(other)
    check_labels([results, second], labels)
    return _written(file, render(_of_two(results, second, dataset, n, labels)))


def _of_one(
    results: Results,
    dataset: Dataset | None,
    vlm: VLM | None,
    layers: Sequence[int] | None,
    n: int,
    labels: Mapping[str, str] | None,
) -> Any:
    seen = samples_with_attention(results, dataset, vlm, layers, n=n)
    targets = {
        sample.id: _centre(sample)
        for sample in seen.samples.values()
        if _has_target(sample) and sample.width and sample.height
    }
    return run_page(
        results, seen.shown, targets=targets, profiles=seen.profiles, expected=seen.expected, missing=seen.missing,
        labels=labels,
    )  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What is shown of a run's samples.

    Attributes
    ----------
    shown : list of Shown
    samples : dict of str to Sample
        All of the run, by id.
    profiles : dict of str to Profile
        Of the run, by hash.
    expected : dict
        Of `biaslab.figures.report.viewer_data.viewer_data`.
    missing : list of str
        What cannot be shown, and why.
    """

    shown: list[Shown]
    samples: dict[str, Sample]
    profiles: dict[str, Profile]
    expected: dict[str, dict[int, np.ndarray]]
    missing: list[str]


def samples_with_attention(
    results: Results, dataset: Dataset | None, vlm: VLM | None, layers: Sequence[int] | None, *, n: int
) -> Seen:
    """Choose the samples of a run that are shown, and look at them with its model where that is at hand.

    Raises
    ------
    InputError
        As of `report`, or layers without a model.
    """
    if dataset is not None:
        expect_dataset(dataset)
    if vlm is not None:
        expect_model(vlm)
    elif layers is not None:
        raise InputError("layers are of the attention that a model is asked for: give vlm= too, or leave them out")
    shown, found, missing = samples_shown(results, dataset, n=n, vlm=vlm)
    profiles, unread = profiles_of_run(results)
    expected: dict[str, dict[int, np.ndarray]] = {}
    undivided: list[str] = []
    if vlm is not None:
        from biaslab.workflows.shown_attention import with_attention

        shown, expected, undivided = with_attention(
            vlm, results, shown, found, layers=layers, profiles=list(profiles.values())
        )
    return Seen(shown, found, profiles, expected, [*missing, *unread, *undivided])


def samples_shown(
    results: Results, dataset: Dataset | None = None, *, n: int = 20, vlm: VLM | None = None
) -> tuple[list[Shown], dict[str, Sample], list[str]]:
    """Choose the samples of a run that are shown and open their images.

    Parameters
    ----------
    results : Results
    dataset : Dataset, optional
    n : int
        As of `report`.
    vlm : VLM, optional
        The run's model, by which it is known where tokens lie.

    Returns
    -------
    shown : list of Shown
    samples : dict of str to Sample
        All of the run, by id.
    missing : list of str
        What cannot be shown, and why.
    """
    why = chosen_samples(hit_table(results.verdicts), n=n)
    found, changed, missing = _samples(results, dataset)
    shown, unplaced = _shown([results], why, found, changed, vlm)
    return shown, found, [*missing, *unplaced]


def _of_two(first: Results, second: Results, dataset: Dataset | None, n: int, labels: Mapping[str, str] | None) -> Any:
    check_pair(first, second)
    if dataset is not None:
        expect_dataset(dataset)
    table, hits, apart = paired_table(first, second)
    why = chosen_samples(hits, n=n, apart=apart)
    found, changed, missing = _samples(first, dataset)
    shown, unplaced = _shown([first, second], why, found, changed)
    return pair_page(first, second, table, shown, missing=[*missing, *unplaced], labels=labels)


def _results(run: str | Path | Results) -> Results:
    results = run if isinstance(run, Results) else Results.load(run)
    if results.verdicts.empty or results.verdicts["error"].notna().all():
        why = results.failures or "it has no finished sample yet"
        raise InputError(f"{results.folder or 'the run'} has no verdict to report: {why}")
    return results


def _place(out: str | Path | None, folder: Path | None) -> Path:
    if out is None:
        if folder is None:
            raise InputError("these results have no folder: name the file with out=")
        out = folder / REPORT_FILE
    file = as_path("out", out)
    check_page_name("a report", file)
    return check_output_file(file, suffix=".html")


def _written(file: Path, text: str) -> Path:
    with writing_to(file):
        atomic_write(file, text)
    return file


def _samples(results: Results, dataset: Dataset | None) -> tuple[dict[str, Sample], set[str], list[str]]:
    """Open what the run looked at; where that cannot be had, a sentence says so and the rest is shown."""
    try:
        return *samples_of_run(results, dataset_of(results.run) if dataset is None else dataset), []
    except (BiaslabError, OSError) as error:
        if dataset is not None:  # somebody asked for it
            raise
        return {}, set(), [f"Images and expressions are not shown: {error}"]


def _shown(
    runs: Sequence[Results],
    why: Mapping[str, Sequence[str]],
    found: Mapping[str, Sample],
    changed: set[str],
    vlm: VLM | None = None,
) -> tuple[list[Shown], list[str]]:
    """Open the images of the chosen samples and find out where their tokens lie under each run."""
    missing = _without_content(why, found, changed)
    unopened: list[str] = []
    finders = [_finder(results, vlm, missing) for results in runs]
    lines = [lines_of(results, list(why)) for results in runs]
    tokens = [{name: line["tokens"] for (name, _), line in of.items() if is_number(line.get("tokens"))} for of in lines]
    shown = []
    for name, reasons in why.items():
        sample = found.get(name)
        if sample is None:
            target = next((line["target"] for (own, _), line in lines[0].items() if own == name), None)
            shown.append(Shown(id=name, why=reasons, target=target, layouts=[None] * len(runs)))
            continue
        try:
            image = sample.image()
        except (BiaslabError, OSError) as error:
            unopened.append(f"{name}: {error}")
            image = None
        size = (sample.width, sample.height) if sample.width and sample.height else None
        size = image.size if image is not None else size
        layouts = [
            None if size is None else _layout(find, size, count.get(name), missing)
            for find, count in zip(finders, tokens, strict=True)
        ]
        shown.append(
            Shown(
                id=name,
                image_id=sample.image_id,
                text=sample.expression,
                why=reasons,
                image=image,
                size=size,
                layouts=layouts,
                target=sample.box.as_tuple() if _has_target(sample) else None,
                answers=sample.answers if isinstance(sample, Question) else (),
            )
        )
    if unopened:
        these = f"The images of {len(unopened)} of {count_text(len(why), 'sample')} cannot be opened"
        missing[f"{these}; the first is {unopened[0]}"] = None
    return shown, list(missing)


def _without_content(why: Mapping[str, Any], found: Mapping[str, Sample], changed: set[str]) -> dict[str, None]:
    """Say which of the chosen samples have neither image nor expression, where others of the run have."""
    lacking = [name for name in why if name not in found]
    if not found or not lacking:
        return {}
    others = sum(name in changed for name in lacking)
    gone = len(lacking) - others
    reasons = [f"the content of {others} is not what the run saw"] if others else []
    reasons += [f"{gone} {'is' if gone == 1 else 'are'} not in the data set"] if gone else []
    return {
        f"Shown without image and expression: {len(lacking)} of {count_text(len(why), 'sample')} "
        f"({', '.join(reasons)}). Name the data set of the run with --dataset.": None
    }


def _finder(
    results: Results, vlm: VLM | None, missing: dict[str, None]
) -> Callable[[tuple[int, int]], TokenLayout] | None:
    try:
        return layout_finder(results.run, vlm)
    except (BiaslabError, OSError, ValueError) as error:
        missing[f"Where tokens lie is not shown: {error}; in Python results.view(vlm=model) shows it"] = None
        return None


def _layout(find: Any, size: tuple[int, int], tokens: Any, missing: dict[str, None]) -> TokenLayout | None:
    if find is None or tokens is None:
        return None
    try:
        layout = find(size)
    except (BiaslabError, ValueError) as error:
        missing[f"Where tokens of images of {size[0]} x {size[1]} pixels lie is not shown: {error}"] = None
        return None
    if layout.n != int(tokens):
        missing[
            f"Where tokens lie is not shown for images of {size[0]} x {size[1]} pixels: the run had {int(tokens)}, "
            f"this version of the processor makes {layout.n}."
        ] = None
        return None
    return layout


def _centre(sample: Sample) -> tuple[float, float]:
    box = sample.box
    return (box.x0 + box.x1) / 2 / sample.width, (box.y0 + box.y1) / 2 / sample.height


def _has_target(sample: Sample) -> bool:
    return sample.has_evidence if isinstance(sample, Question) else True
