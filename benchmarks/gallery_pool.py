"""Expressions and questions on the same images of the gallery, for benchmarks that compare two tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmarks.scene_pool import Expressions
from biaslab.datasets.drawn import DRAWN
from biaslab.datasets.sample import Sample

__all__ = ["TASKS", "tasks", "through_tile_border"]

#: name of a task -> its data set
TASKS = {"boxes": "gallery", "questions": "gallery-vqa"}


def tasks(split: str, images: Iterable[int], *, domain: str = "familiar", each: int = 3) -> dict[str, Expressions]:
    """List what is asked of some images: at most ``each`` expressions, and as many questions, the rarest kinds first.

    Examples
    --------
    >>> found = tasks("validation", range(4))
    >>> [len(data) for data in found.values()], len({s.expression_type for s in found["questions"]})
    ([11, 12], 7)
    """
    samples: dict[str, list[Sample]] = {task: [] for task in TASKS}
    asked = {task: Counter(dict.fromkeys(DRAWN[name].kinds, 0)) for task, name in TASKS.items()}
    for index in images:  # both tasks while the image is at hand
        for task, name in TASKS.items():
            drawn, times = DRAWN[name].samples(split, index, domain=domain), asked[task]
            chosen = sorted(drawn, key=lambda sample, times=times: times[sample.expression_type])[:each]
            times.update(sample.expression_type for sample in chosen)
            samples[task] += chosen
    return {task: Expressions(split, samples[task], name) for task, name in TASKS.items()}


def through_tile_border(sample: Sample, grid: tuple[int, int], *, share: float = 0.0) -> bool:
    """Whether the border between two tiles (columns, rows) cuts a sample's box.

    ``share`` of the box's side must lie on either side of the border; 0: any part.

    Examples
    --------
    >>> sample = next(iter(tasks("validation", [0])["boxes"]))
    >>> sample.width, sample.height, tuple(round(v) for v in sample.box.as_tuple())
    (248, 640, (70, 319, 245, 439))
    >>> through_tile_border(sample, (1, 1)), through_tile_border(sample, (1, 3))
    (False, True)
    >>> through_tile_border(sample, (1, 3), share=0.5)
    False
    """
    box = sample.box
    spans = ((box.x0, box.x1, sample.width, grid[0]), (box.y0, box.y1, sample.height, grid[1]))
    return any(
        min(k * side / n - low, high - k * side / n) > share * (high - low)
        for low, high, side, n in spans
        for k in range(1, n)
    )
