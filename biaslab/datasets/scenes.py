"""The procedural scenes as a grounding data set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache, partial
from itertools import count
from typing import ClassVar

from PIL import Image

from biaslab.datasets.base import ShownDataset, content_hash, register
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError
from biaslab.scenes import Scene, scene

#: the last 64 scenes are at hand: whoever asks about one shows it next
cached_scene = lru_cache(maxsize=64)(scene)


def _image(split: str, index: int) -> Image.Image:
    return cached_scene(split, index).image


@register("scenes")
class ScenesDataset(ShownDataset):
    """Referring expressions of one split of the procedural scenes.

    Parameters
    ----------
    split : {"test", "validation", "calibration", "train", "monitor"}
    n : int
        Number of expressions; scenes are taken from the first on, up to three expressions each (one per type),
        so the first n of a longer data set are the same samples.

    Raises
    ------
    InputError
        For an unknown split, or n below 1.

    Examples
    --------
    >>> [(sample.expression, sample.object_size) for sample in ScenesDataset("test", n=2)]
    [('big elephant left of the sheep', 'large'), ('eggplant', 'medium')]
    """

    name = "scenes"
    box_form: ClassVar[str] = "xyxy"

    def __init__(self, split: str = "test", *, n: int = 300) -> None:
        if n < 1:
            raise InputError(f"scenes: n is {n}, give at least 1 expression")
        cached_scene(split, 0)  # refuses an unknown split before any work
        self.split, self.n = split, n

    @property
    def recipe(self) -> dict[str, str | int]:
        """What ``load_dataset("scenes", ...)`` needs to make the same data."""
        return {"split": self.split, "n": self.n}

    @cached_property
    def _samples(self) -> list[Sample]:
        samples: list[Sample] = []
        numbers = count()
        while len(samples) < self.n:
            samples += samples_of(cached_scene(self.split, next(numbers)))
        return samples[: self.n]

    @cached_property
    def hash(self) -> str:
        """Hash of the ids, expressions and boxes."""
        return content_hash(self._samples)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)


def samples_of(shown: Scene) -> list[Sample]:
    """List the referring expressions of one scene, at most one of each type.

    Examples
    --------
    >>> [sample.expression for sample in samples_of(scene("test", 0))]
    ['big elephant left of the sheep', 'eggplant']
    """
    width, height = shown.image.size
    return [
        Sample(
            id=f"{shown.id}-{e.expression_type}",
            image_id=shown.id,
            expression=e.text,
            box=shown.objects[e.target].box,
            expression_type=e.expression_type,
            object_size=shown.objects[e.target].object_size,
            width=width,
            height=height,
            loader=partial(_image, shown.split, shown.index),
        )
        for e in shown.expressions
    ]
