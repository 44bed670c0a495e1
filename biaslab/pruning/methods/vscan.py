"""VScan: tokens salient in the image and in its windows, then those attended to (arXiv 2505.22654)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning.algorithms.merge_weights import merge_weights
from biaslab.pruning.base import Method, Picked, TokenContext, number, required
from biaslab.pruning.budgets import share
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import descending
from biaslab.pruning.methods.fastv import FastV
from biaslab.pruning.methods.staged import Staged
from biaslab.pruning.methods.vision_method import VisionMethod
from biaslab.pruning.registry import register

__all__ = ["VScan"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class VScan(Staged, VisionMethod):
    """Keep tokens that a late block finds salient in the image, and a shallow one in each window (arXiv 2505.22654).

    Of n tokens ``n - floor(local * n)`` are those of largest saliency at ``global_layer``: the attention of the CLS
    token, or, of a tower without one, the attention received. The others are taken from windows of ``window x window``
    tokens, in turn, by saliency at ``local_layer``: the best of each window that is left, then the second, and so on.
    With ``merge`` a token that is dropped joins the kept one whose features (output of ``global_layer``) have the
    largest cosine with its own, and all go on as their mean.

    Published for LLaVA with the blocks 5 and -2 of CLIP and windows of 6, and for Qwen2.5-VL with the blocks 7 (the
    first with full attention) and the last, windows of 4; half by each. These are the defaults, elsewhere the block at
    5 / 24 of the depth.

    By itself it cuts twice: so before the decoder, to three times ``keep``, then to ``keep`` at half of the decoder's
    depth (K = 16, Qwen2.5-VL 14) by the attention of layer K itself, its last row. Published are 50, 33.3 and 16.7 % of
    the tokens and a third of these, on average over the layers 33.3, 22.2 and 11.1 %. At a layer that is named it is
    the first cut alone.

    Unverified: whether 6 is the side of a window or the number of windows along a side, how a remainder is spread over
    windows, by what "nearest" is measured, and where states are merged (here: those that enter layer K).

    Parameters
    ----------
    local : float
        Share of the budget that windows get, in [0, 1].
    local_layer, global_layer : int, optional
        Blocks of the vision tower.
    window : int, optional
        Side of a window in tokens; 6, or 4 in a tower without a CLS token.
    merge : bool
        Whether dropped tokens are merged into kept ones.

    References
    ----------
    arXiv 2505.22654.

    Examples
    --------
    Two windows side by side, of which the right one holds all that is salient in the image:

    >>> from biaslab.attention.vision_record import VisionRecord
    >>> cls = {0: torch.tensor([[0.1, 0.2, 0.0, 0.3]]), 2: torch.tensor([[0.0, 0.1, 0.6, 0.3]])}
    >>> record = VisionRecord(TowerShape(4, True, (0, 1, 2, 3)), cls=cls, features={2: torch.eye(4)})
    >>> ctx = TokenContext(TokenLayout.raster(1, 4, size=(400, 100), family="toy"), budget=2, vision=record)
    >>> VScan(local_layer=0, window=2, merge=False).select(ctx).indices  # 2 of the image, 3 of the right window
    tensor([2, 3])
    >>> ctx.budget = 4
    >>> VScan(local_layer=0, window=2, local=0.75).select(ctx).indices
    tensor([0, 1, 2, 3])
    >>> [(layer, rule.name, round(rule.keep, 3)) for layer, rule in VScan(keep=1 / 18).own_stages(32)]
    [(0, 'vscan', 0.167), (16, 'fastv', 0.056)]
    """

    local: float = 0.5
    local_layer: int | None = None
    global_layer: int | None = None
    window: int | None = None
    merge: bool = True

    name: ClassVar[str] = "vscan"
    source: ClassVar[Citation | None] = Citation(
        key="vscan2025",
        title="VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models",
        year=2025,
        arxiv="2505.22654",
    )
    cost: ClassVar[str] = "saliency in two blocks of the tower; to merge, cosines of the dropped and the kept"
    verified: ClassVar[str] = "partly: windows, their remainder and the measure of nearness are ours"
    image_only: ClassVar[bool] = True
    depths: ClassVar[tuple[float, ...]] = (0.0, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("local", self.local, 0, 1)
        for name in ("local_layer", "global_layer", "window"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputError(f"{name} must be a whole number or None, got {value!r}")
        if self.window is not None and self.window < 1:
            raise InputError(f"window must be at least 1 token, got {self.window}")
        if not isinstance(self.merge, bool):
            raise InputError(f"merge must be true or false, got {self.merge!r}")

    @property
    def needs_layout(self) -> bool:
        """Windows are those of the image."""
        return True

    @property
    def merges(self) -> bool:
        """Whether kept tokens take up others."""
        return self.merge

    def stage_keeps(self, keep: float) -> Sequence[float]:
        """List three times ``keep``, at most all, and ``keep``."""
        return [min(1.0, 3 * keep), keep]

    def stage_rule(self, number: int, keep: float) -> Method:
        """Make the rule of a stage: in the decoder it is attention."""
        return FastV(keep=keep, reads_layer="own") if number else self.with_keep(keep)

    def reads(self, tower: TowerShape) -> VisionRequest:
        """Read saliency at two blocks, and to merge the features of the later one."""
        shallow, late = self._blocks(tower)
        features = VisionRequest(features=(late,) if self.merge else ())
        return self.salient(tower, shallow) | self.salient(tower, late) | features

    def importance(self, ctx: TokenContext) -> Tensor:
        """Take the saliency of the late block: (N,)."""
        record = self.record(ctx)
        return record.saliency(self._blocks(record.tower)[1])

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List the salient tokens of the image, then those of windows."""
        record = self.record(ctx)
        local = share(self.local, ctx.budget)
        best = descending(required(scores, "scores"))[: ctx.budget - local]
        side = self.window or (6 if record.tower.class_token else 4)
        windows = _windows(ctx.layout, side).to(best.device)
        taken = torch.zeros(ctx.n, dtype=torch.bool, device=best.device).index_fill(0, best, True)
        order = _in_turn(record.saliency(self._blocks(record.tower)[0]), windows, taken)
        return torch.cat([best, order[:local]]), {"local": local}

    def merging(self, ctx: TokenContext, indices: Tensor, scores: Tensor | None) -> Tensor | None:
        """Let every dropped token join the kept one that is most like it; None where nothing is dropped."""
        if len(indices) == ctx.n:
            return None
        record = self.record(ctx)
        kept = torch.zeros(ctx.n, dtype=torch.long, device=indices.device).index_fill(0, indices, 1)
        others = kept.argsort(stable=True)[: ctx.n - len(indices)]
        return merge_weights(indices, indices, others, record.features[self._blocks(record.tower)[1]])

    def _blocks(self, tower: TowerShape) -> tuple[int, int]:
        windowed = len(tower.full) < tower.depth
        shallow = tower.full[0] if windowed else tower.nearest_full(5 / 24)
        late = (-2 if tower.class_token and tower.depth > 1 else -1) if self.global_layer is None else self.global_layer
        return tower.layer(shallow if self.local_layer is None else self.local_layer), tower.layer(late)


def _windows(layout: TokenLayout, side: int) -> Tensor:
    """Say by number in which window every token lies, (N,) int64; each tile has windows of its own."""
    frame = layout.frame if isinstance(layout, FramesLayout) else np.zeros_like(layout.tile)
    places = np.stack([frame, layout.tile, layout.row // side, layout.col // side], 1)
    return torch.from_numpy(np.unique(places, axis=0, return_inverse=True)[1].reshape(-1))


def _in_turn(scores: Tensor, windows: Tensor, taken: Tensor) -> Tensor:
    """Order the tokens: the best of every window, best first, then all second ones, and so on; taken ones last."""
    order = descending(scores.masked_fill(taken, -torch.inf))
    grouped = order[windows[order].argsort(stable=True)]
    sizes = torch.zeros_like(windows).scatter_add_(0, windows, torch.ones_like(windows))
    starts = sizes.cumsum(0) - sizes
    rank = torch.zeros_like(windows)
    rank[grouped] = torch.arange(len(windows), device=windows.device) - starts[windows[grouped]]
    rank = rank + taken * len(windows)
    return order[rank[order].argsort(stable=True)]
