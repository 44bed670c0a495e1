"""A small grounding data set of noise images, and an evaluation of it, for tests and for the processes they start.

Those processes need the images and the methods alone: what evaluates is imported where it is used.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import tiny
from PIL import Image

from biaslab.core.boxes import Box
from biaslab.datasets import content_hash
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError
from biaslab.pruning import Method, Random

if TYPE_CHECKING:
    import pandas as pd

BOXES = (Box(5, 5, 40, 30), Box(0, 20, 30, 39))


def picture(index: int) -> Image.Image:
    """One of a few noise images of different shapes; the negative ones are missing."""
    if index < 0:
        raise InputError("image not found: gone.jpg")
    return tiny.images(index + 1)[index]


@dataclass(frozen=True)
class Toy:
    """``n`` expressions, two per image; ``missing`` are indices of samples without an image."""

    n: int = 6
    missing: tuple[int, ...] = ()
    name: str = "toy"
    split: str = "test"

    @cached_property
    def samples(self) -> list[Sample]:
        return [
            Sample(
                id=f"s{i}",
                image_id=f"image{i // 2}",
                expression=f"the {'red thing' if i % 3 else 'very small green square'} number {i}",
                box=BOXES[i % 2],
                expression_type=("attribute", "location")[i % 2],
                object_size=("small", "medium", "large")[i % 3],
                width=tiny.images(i // 2 + 1)[-1].width,
                height=tiny.images(i // 2 + 1)[-1].height,
                loader=partial(picture, -1 if i in self.missing else i // 2),
            )
            for i in range(self.n)
        ]

    @property
    def hash(self) -> str:
        return content_hash(self.samples)

    def __len__(self) -> int:
        return self.n

    def __iter__(self):
        return iter(self.samples)


@dataclass(frozen=True, eq=False, kw_only=True)
class Doubtful(Method):
    """A rule that warns."""

    name = "doubtful"

    def pick(self, ctx, scores):
        warnings.warn("the rule is in doubt", FutureWarning, stacklevel=1)
        return Random().pick(ctx, scores)


TIMES = ["prefill_ms", "decode_ms", "batch"]
METHODS = ("none", "random", "fastv", "divprune")


def run(out=None, vlm="internvl", dataset=None, methods=METHODS, keep=(0.5, 0.2), layer=2, **options):
    """The evaluation that the tests repeat: 6 samples, 7 configurations, 42 lines."""
    from biaslab.evaluation.runner import evaluate

    settings = {"batch_size": 4, "progress": False, "max_new_tokens": 8, "n_resamples": 200} | options
    model = tiny.vlm(vlm) if isinstance(vlm, str) else vlm
    data = Toy() if dataset is None else dataset
    return evaluate(model, data, methods=methods, keep=keep, layer=layer, out=out, **settings)


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Two sets of sample lines agree in everything but the time they took."""
    import pandas as pd

    pd.testing.assert_frame_equal(a.drop(columns=TIMES), b.drop(columns=TIMES))


def hashed_box(text, size, resized=None):
    """A box from a text that no trained model wrote: some answers hit, some miss, some hold none."""
    code = sum(text.encode())
    if code % 5 == 0:
        return None
    return Box(0, 0, 45, 35) if code % 2 else Box(0, 15, 28, 39)


def profile():
    """A real profile of the tiny InternVL at layer 1."""
    from biaslab import collect
    from biaslab.profiles import MeanProfile

    maps = collect(tiny.vlm("internvl"), tiny.images(8), layers=[1], ids=[str(i) for i in range(8)], progress=False)
    return MeanProfile().fit(maps)
