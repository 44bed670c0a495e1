"""The second embedded model from seed to folder: train, export, measure, write the card."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import pandas as pd

from biaslab._util.files import atomic_write
from biaslab._util.jsonable import records
from biaslab.grounder.observer.export import export_observer
from biaslab.grounder.observer.recipe import ObserverRecipe
from biaslab.grounder.observer.start import start_of
from biaslab.grounder.observer.train import train_observer
from biaslab.models import load
from biaslab.workflows.observer_accuracy import accuracy_markdown, observer_accuracy

__all__ = ["ObserverReport", "build_observer"]

CURVE = "training.jsonl"  # of an exported folder


@dataclass(frozen=True)
class ObserverReport:
    """The outcome of a training run.

    Attributes
    ----------
    folder : Path
        The exported model.
    accuracy : list of dict
        Rows of `biaslab.workflows.observer_accuracy.observer_accuracy`; empty where it was not measured.
    summary : str
        The same as text.
    files : list of Path
        Files written.
    """

    folder: Path
    accuracy: list[dict]
    summary: str
    files: list[Path]


def build_observer(
    out: str | Path,
    *,
    recipe: ObserverRecipe,
    device: str | None = None,
    threads: int = 2,
    workers: int = 1,
    n_test: int = 2000,
    weights: Path | None = None,
    start: str | Path | None = None,
    progress: bool = True,
) -> ObserverReport:
    """Train the observer (or go on), export it to ``out/model``, measure it unpruned on the test split.

    Parameters
    ----------
    out : str or Path
        Run folder; the same call goes on with an interrupted run.
    recipe : ObserverRecipe
        Sizes, steps and seed.
    device, threads, workers
        As of `biaslab.grounder.observer.train_observer`.
    n_test : int
        Test expressions, and questions (:func:`biaslab.workflows.observer_accuracy.observer_accuracy`); 0 leaves the
        measurement out.
    weights : Path, optional
        Trained weights, or a checkpoint, to export instead of training.
    start : str or Path, optional
        Model folder of an earlier run, or "observer": train a further leg of the decoder stage from its weights. Its
        learning curve is kept in front of the new one.
    progress : bool
        Show on stderr how far the training and the measurement have come.

    Returns
    -------
    ObserverReport

    Raises
    ------
    UnsupportedError
        Training with torch older than 2.9.

    Examples
    --------
    Skipped as a test, since it trains for hours:

    >>> from biaslab.grounder.observer.recipe import ObserverRecipe
    >>> from biaslab.workflows.train_observer import build_observer
    >>> build_observer("runs/observer", recipe=ObserverRecipe(seed=0)).folder  # doctest: +SKIP
    PosixPath('runs/observer/model')
    """
    out, before = Path(out), None if start is None else start_of(start)
    if before is not None:
        recipe = replace(recipe, leg=before.leg + 1)
    if weights is None:
        weights = train_observer(
            out, recipe=recipe, start=start, device=device, threads=threads, workers=workers, progress=progress
        )
    folder = export_observer(weights, out / "model", size=recipe.size)
    files = [folder / "model.safetensors"]
    curves = [*([before.folder / CURVE] if before else []), out / "curve.jsonl"]
    if lines := [path.read_text(encoding="utf-8") for path in curves if path.exists()]:
        atomic_write(folder / CURVE, "".join(lines))
        files.append(folder / CURVE)
    accuracy, text = pd.DataFrame(), "Not measured."
    if n_test:
        vlm = load(str(folder), device=device)
        processes = threads if vlm.device.type == "cpu" else 1
        accuracy = observer_accuracy(vlm, n=n_test, out=out / "test", processes=processes, progress=progress)
        text = accuracy_markdown(accuracy)
    files.append(_write_card(folder, recipe, text))
    return ObserverReport(folder, records(accuracy), f"Accuracy on the test split, no pruning:\n{text}", files)


def _write_card(folder: Path, recipe: ObserverRecipe, measured: str) -> Path:
    card, lines = folder / "README.md", []
    if (folder / CURVE).exists():
        lines = [json.loads(line) for line in (folder / CURVE).read_text(encoding="utf-8").splitlines()]
    ends: dict[int, int] = {}  # the last step of each leg
    for line in lines:
        if line["stage"] == "decoder":
            ends[line.get("leg", 0)] = line["step"]
    decoder_steps = " and ".join(map(str, ends.values())) or str(recipe.decoder_steps)
    template = resources.files("biaslab.grounder.observer").joinpath("card_template.md").read_text(encoding="utf-8")
    text = template.format(
        recipe=recipe, size=recipe.size, measured=measured, decoder_steps=decoder_steps, took=_took(lines)
    )
    card.write_text(text, encoding="utf-8")
    return card


def _took(lines: list[dict]) -> str:
    """Say how long the training took: seconds start again where a run goes on, so their falls end a sitting."""
    if not lines:
        return ""
    seconds = [line["seconds"] for line in lines]
    ends = [now for now, then in zip(seconds, [*seconds[1:], 0], strict=True) if then < now]
    return f"It took {sum(ends) / 3600:.1f} hours in {len(ends)} sittings."
