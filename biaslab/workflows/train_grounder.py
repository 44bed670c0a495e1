"""The embedded grounder from seed to shipped folder: train, export, measure, write the card."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd

from biaslab._util.jsonable import records
from biaslab.datasets.scenes import ScenesDataset
from biaslab.evaluation.runner import evaluate
from biaslab.grounder.export import export
from biaslab.grounder.recipe import Recipe
from biaslab.grounder.train import train_grounder
from biaslab.models import load

__all__ = ["GrounderReport", "build_grounder"]


@dataclass(frozen=True)
class GrounderReport:
    """The outcome of a training run.

    Attributes
    ----------
    folder : Path
        The exported model.
    accuracy : list of dict
        Localization without pruning, one row per type of expression and size of the target; empty where it was not
        measured.
    summary : str
        The same as text.
    files : list of Path
        Files written.
    """

    folder: Path
    accuracy: list[dict]
    summary: str
    files: list[Path]


def build_grounder(
    out: str | Path, *, recipe: Recipe, n_test: int = 2000, weights: Path | None = None, progress: bool = True
) -> GrounderReport:
    """Train the grounder (or go on), export it to ``out/model``, measure it unpruned on the test split.

    Parameters
    ----------
    out : str or Path
        Run folder; the same call goes on with an interrupted run.
    recipe : Recipe
        Sizes, steps and seed.
    n_test : int
        Test expressions, answered by greedy generation; 0 leaves the measurement out.
    weights : Path, optional
        Trained float32 weights to export instead of training.
    progress : bool
        Show on stderr how far the training and the measurement have come.

    Returns
    -------
    GrounderReport
        The exported folder with its card and accuracy.

    Raises
    ------
    UnsupportedError
        Training with torch older than 2.9.

    Examples
    --------
    Skipped as a test, since it trains for about two hours:

    >>> from biaslab.grounder.recipe import Recipe
    >>> from biaslab.workflows.train_grounder import build_grounder
    >>> build_grounder("runs/grounder", recipe=Recipe(seed=0)).folder  # doctest: +SKIP
    PosixPath('runs/grounder/model')
    """
    out = Path(out)
    folder = export(weights or train_grounder(out, recipe=recipe, progress=progress), out / "model", size=recipe.size)
    files = [folder / "model.safetensors"]
    if (out / "curve.jsonl").exists():
        files.append(Path(shutil.copy(out / "curve.jsonl", folder / "training.jsonl")))
    accuracy = pd.DataFrame()
    if n_test:
        vlm = load(str(folder))
        results = evaluate(
            vlm, ScenesDataset("test", n=n_test), methods="none", keep=1.0, layer=1, out=out / "test", batch_size=32,
            processes=recipe.processes, reference=None, progress=progress,
        )  # fmt: skip
        by_size = results.by("object_size").query("expression_type != 'all'")
        accuracy = pd.concat([results.by("expression_type"), by_size])
        accuracy = accuracy[
            ["expression_type", "n", "errors", "unparsed", "truncated", "acc50", "acc50_lo", "acc50_hi", "miou"]
        ]
    files.append(_write_card(folder, recipe, accuracy))
    text = accuracy.to_string(index=False, float_format=lambda v: f"{v:.3f}") if n_test else "not measured"
    return GrounderReport(folder, records(accuracy), f"Acc@0.5 on the test split, no pruning:\n{text}", files)


def _write_card(folder: Path, recipe: Recipe, accuracy: pd.DataFrame) -> Path:
    card = folder / "README.md"
    template = resources.files("biaslab.grounder").joinpath("card_template.md").read_text(encoding="utf-8")
    card.write_text(template.format(recipe=recipe, size=recipe.size, measured=_measured(accuracy)), encoding="utf-8")
    return card


def _measured(accuracy: pd.DataFrame) -> str:
    if accuracy.empty:
        return "Not measured."
    heads = ["expressions", "n", "Acc@0.5 [95 % interval]", "mean IoU", "unparsed", "truncated", "errors"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in accuracy.to_dict("records"):
        interval = f"{100 * r['acc50']:.1f} [{100 * r['acc50_lo']:.1f}, {100 * r['acc50_hi']:.1f}]"
        cells = [r["expression_type"], r["n"], interval, f"{r['miou']:.3f}", r["unparsed"], r["truncated"], r["errors"]]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)
