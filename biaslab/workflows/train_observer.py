"""The second embedded model from seed to folder: train, export, say what the learning curve ended at."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biaslab.grounder.observer.export import export_observer
from biaslab.grounder.observer.recipe import ObserverRecipe
from biaslab.grounder.observer.train import train_observer

__all__ = ["ObserverReport", "build_observer"]


@dataclass(frozen=True)
class ObserverReport:
    """The outcome of a training run.

    Attributes
    ----------
    folder : Path
        The exported model.
    monitor : dict
        Teacher-forced accuracy by task on the last look at the monitor split: of ``"familiar"`` pictures and of
        ``"unfamiliar"`` ones (style and background).
    summary : str
        The same as text.
    files : list of Path
        Files written.
    """

    folder: Path
    monitor: dict[str, dict[str, float]]
    summary: str
    files: list[Path]


def build_observer(
    out: str | Path,
    *,
    recipe: ObserverRecipe,
    device: str | None = None,
    threads: int = 2,
    workers: int = 1,
    progress: bool = True,
) -> ObserverReport:
    """Train the observer (or go on), export it to ``out/model``.

    Parameters
    ----------
    out : str or Path
        Run folder; the same call goes on with an interrupted run.
    recipe : ObserverRecipe
        Sizes, steps and seed.
    device, threads, workers
        As of `biaslab.grounder.observer.train_observer`.
    progress : bool
        Show on stderr how far the training has come.

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
    out = Path(out)
    weights = train_observer(out, recipe=recipe, device=device, threads=threads, workers=workers, progress=progress)
    folder = export_observer(weights, out / "model", size=recipe.size)
    files = [folder / "model.safetensors"]
    monitor: dict[str, Any] = {}
    if (out / "curve.jsonl").exists():
        files.append(Path(shutil.copy(out / "curve.jsonl", folder / "training.jsonl")))
        for line in map(json.loads, files[-1].read_text(encoding="utf-8").splitlines()):
            if "monitor" in line:
                monitor = {"familiar": line["monitor"], "unfamiliar": line["unfamiliar"]}
    rows = [f"{name}: {', '.join(f'{task} {share}' for task, share in part.items())}" for name, part in monitor.items()]
    return ObserverReport(folder, monitor, "\n".join(["Monitor split, teacher-forced:", *rows]), files)
