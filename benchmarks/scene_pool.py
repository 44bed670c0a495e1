"""Scenes rendered by several processes and held in memory, for benchmarks that need thousands of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image

from biaslab.datasets.base import content_hash
from biaslab.datasets.drawn import DRAWN
from biaslab.datasets.sample import Sample
from biaslab.datasets.scenes import samples_of
from biaslab.scenes import scene

__all__ = ["Expressions", "Picture", "expressions", "pictures"]

_AT_ONCE = 64  # scenes a process is handed


@dataclass(frozen=True)
class Picture:
    """A scene as calibration asks about it: its pixels, and the expression."""

    id: str
    pixels: np.ndarray
    expression: str

    def image(self) -> Image.Image:
        """Make the image."""
        return Image.fromarray(self.pixels)

    def mentions(self, names: Sequence[str]) -> bool:
        """Whether the expression says one of some names."""
        return mentions(self.expression, names)


@dataclass
class Expressions:
    """Referring expressions on scenes that are held in memory: a data set."""

    split: str
    samples: list[Sample]
    name: str = "scenes"

    @property
    def hash(self) -> str:
        """Hash of the content."""
        return content_hash(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def mentions(text: str, names: Sequence[str]) -> bool:
    """Whether a text says one of some names, as a word."""
    return any(re.search(rf"\b{re.escape(name)}\b", text) for name in names)


def pictures(split: str, n: int, processes: int) -> list[Picture]:
    """Render the first n scenes of a split, those without an expression left out."""
    return [picture for part in _mapped(_asked, split, n, processes) for picture in part]


def expressions(split: str, first: int, n: int, processes: int) -> Expressions:
    """List ``n`` expressions of a split behind the first ``first``, as `ScenesDataset` numbers them."""
    found: list[Sample] = []
    start, step = 0, 512 * max(1, processes)
    while len(found) < first + n:
        count = min(step, first + n - len(found))
        found += [sample for part in _mapped(_samples, split, count, processes, start) for sample in part]
        start += count
    return Expressions(split, found[first : first + n])


def _mapped(make: Any, split: str, n: int, processes: int, start: int = 0) -> list[Any]:
    parts = [range(i, min(i + _AT_ONCE, start + n)) for i in range(start, start + n, _AT_ONCE)]
    if processes < 2:
        return [make(split, part) for part in parts]
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        return list(pool.map(partial(make, split), parts))


def _asked(split: str, indices: range) -> list[Picture]:
    made = []
    for index in indices:
        if samples := DRAWN["scenes"].samples(split, index):
            first = samples[0]
            made.append(Picture(first.image_id, np.asarray(first.image()), first.expression))
    return made


def _samples(split: str, indices: range) -> list[Sample]:
    made = []
    for index in indices:
        shown = scene(split, index)
        load = partial(Image.fromarray, np.asarray(shown.image))
        made += [replace(sample, loader=load) for sample in samples_of(shown)]
    return made
