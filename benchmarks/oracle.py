"""A method that knows where the target is: the bound beside `benchmarks.lookahead` and `benchmarks.controls`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from biaslab.core.boxes import Box
from biaslab.core.curve import curve_order
from biaslab.datasets.sample import Sample
from biaslab.pruning.algorithms.proportional import proportional
from biaslab.pruning.base import Method, required
from biaslab.pruning.context import TokenContext
from biaslab.pruning.engine.prompt import sample_seed

__all__ = ["Oracle"]

_ELSEWHERE = 0.02  # density of what is not the target's, against 1: single tokens of the rest of the image


@dataclass(frozen=True, eq=False, kw_only=True)
class Oracle(Method):
    """Keep the tokens of the target and of a cell around it, evenly spread where they are too many, few of the rest.

    No method for use: it reads the answer. It is not registered by name.
    """

    name: ClassVar[str] = "oracle"
    #: seed of a sample -> its target, in shares of the image's width and height
    targets: ClassVar[dict[int, Box]] = {}

    @classmethod
    def of(cls, samples: Iterable[Sample], seed: int = 0) -> Oracle:
        """Make the oracle of some samples, for a run of this seed."""
        for sample in samples:
            box, (w, h) = sample.box, (sample.width, sample.height)
            cls.targets[sample_seed(seed, sample.id)] = Box(box.x0 / w, box.y0 / h, box.x1 / w, box.y1 / h)
        return cls()

    @property
    def needs_layout(self) -> bool:
        """The target is a place."""
        return True

    def importance(self, ctx: TokenContext) -> Tensor:
        """1 for the tokens of the target and those around it, 0 for others."""
        cells = torch.tensor(ctx.layout.boxes)
        side = cells[:, 2:] - cells[:, :2]
        box = self.targets[ctx.seed]
        target = torch.tensor([box.x0, box.y0, box.x1, box.y1], dtype=cells.dtype)
        above = (cells[:, 2:] + side > target[:2]).all(1)
        return (above & (cells[:, :2] - side < target[2:]).all(1)).float()

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Choose in proportion."""
        density = required(scores, "scores").clamp(min=_ELSEWHERE)
        return proportional(density, torch.from_numpy(curve_order(ctx.layout)), ctx.budget), {}
