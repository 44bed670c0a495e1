"""How well the observer answers without pruning: by task, domain, size, tiling and form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from biaslab.datasets.loading import load_dataset
from biaslab.datasets.sample import OBJECT_SIZES
from biaslab.evaluation.runner import evaluate
from biaslab.scenes.gallery import DOMAINS, grid_of, visual_tiles
from biaslab.stats.resampling import ImageBootstrap

if TYPE_CHECKING:
    from biaslab.datasets.sample import Sample
    from biaslab.models.vlm import VLM

__all__ = ["accuracy_markdown", "observer_accuracy"]

_LONGEST = 24  # tokens; a box has 10
_TASKS = {"boxes": "gallery", "questions": "gallery-vqa"}


def observer_accuracy(vlm: VLM, *, n: int, out: str | Path, processes: int = 1, progress: bool = True) -> pd.DataFrame:
    """Answer expressions and questions of the gallery's test split by greedy generation, nothing pruned.

    Parameters
    ----------
    vlm : VLM
    n : int
        Expressions, and questions, of familiar images; of every unfamiliar domain and of held-out forms half as many.
    out : path
        Folder of the runs, which an interrupted call goes on with.
    processes : int
    progress : bool

    Returns
    -------
    DataFrame
        Columns data (domain, or "held-out forms"), task ("boxes" or "questions"), part ("all", a type or category, a
        size class of targets, a number of visual tiles), n, accuracy (of boxes at an IoU of 0.5), lo, hi (95 %,
        bootstrap over images), unparsed, errors.
    """
    held_out = {"domain": "familiar", "forms": "held-out"}
    data = {domain: {"domain": domain} for domain in DOMAINS} | {"held-out forms": held_out}
    rows = []
    for name, options in data.items():
        for task, source in _TASKS.items():
            count = n if name == "familiar" else max(1, n // 2)
            asked = load_dataset(source, split="test", n=count, **options)
            results = evaluate(
                vlm, asked, methods="none", keep=1.0, layer=1,
                out=Path(out) / f"{name.replace(' ', '-')}-{task}", batch_size=32, processes=processes, reference=None,
                max_new_tokens=_LONGEST, progress=progress,
            )  # fmt: skip
            samples = list(asked)
            lines = results.samples.set_index("id").loc[[sample.id for sample in samples]]
            rows += [{"data": name, "task": task, **row} for row in _rows(samples, lines, task == "boxes")]
    return pd.DataFrame(rows)


def _rows(samples: list[Sample], lines: pd.DataFrame, boxes: bool) -> Iterable[dict[str, Any]]:
    bootstrap = ImageBootstrap([sample.image_id for sample in samples])
    hit = lines["hit"].fillna(False).to_numpy(float)
    unparsed, failed = ~lines["parsed"].fillna(True).to_numpy(bool), lines["error"].notna().to_numpy()
    for part, inside in _parts(samples, boxes).items():
        value, low, high = bootstrap.mean(np.where(inside, hit, np.nan))
        counts = {"unparsed": int((unparsed & inside).sum()), "errors": int((failed & inside).sum())}
        yield {"part": part, "n": int(inside.sum()), "accuracy": value, "lo": low, "hi": high, **counts}


def _parts(samples: list[Sample], boxes: bool) -> dict[str, np.ndarray]:
    """Tell of every part which samples are in it."""
    kinds = [sample.expression_type for sample in samples]
    tiles = np.array([visual_tiles(grid_of((sample.width, sample.height))) for sample in samples])
    parts = {"all": np.ones(len(samples), bool)}
    parts |= {kind: np.array(kinds) == kind for kind in dict.fromkeys(kinds)}
    if boxes:
        sizes = np.array([sample.object_size for sample in samples])
        parts |= {f"{size} targets": sizes == size for size in OBJECT_SIZES if (sizes == size).any()}
    return parts | {"one tile" if n == 1 else f"{n} tiles": tiles == n for n in np.unique(tiles).tolist()}


def accuracy_markdown(table: pd.DataFrame) -> str:
    """Lay out what `observer_accuracy` found: for each task a table, parts down, data across.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"data": "familiar", "task": "boxes", "part": "all", "n": 40, "accuracy": 0.9, "lo": 0.8, "hi": 0.95}
    >>> print(accuracy_markdown(pd.DataFrame([row | {"unparsed": 1, "errors": 0}])))
    boxes (n): 1 unparsed, 0 errors
    <BLANKLINE>
    | | familiar |
    |---|---|
    | all | 90.0 [80.0, 95.0] (40) |
    """
    parts = []
    for task, own in table.groupby("task", sort=False):
        whole = own[own["part"] == "all"]
        parts.append(f"{task} (n): {whole['unparsed'].sum()} unparsed, {whole['errors'].sum()} errors\n")
        names = list(dict.fromkeys(own["data"]))
        lines = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
        for part, row in own.groupby("part", sort=False):
            at = row.set_index("data")
            cells = [_cell(at.loc[name]) if name in at.index else "-" for name in names]
            lines.append(f"| {part} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts).rstrip()


def _cell(row: Any) -> str:
    interval = "" if np.isnan(row["lo"]) else f" [{100 * row['lo']:.1f}, {100 * row['hi']:.1f}]"  # of too few images
    return f"{100 * row['accuracy']:.1f}{interval} ({row['n']})"
