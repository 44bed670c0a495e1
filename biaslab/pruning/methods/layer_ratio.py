"""Layer ratio: the attention of layer K - 1 over that of a shallower layer of the same forward, no calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.base import TokenContext, number
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register

__all__ = ["LayerRatio"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class LayerRatio(AttentionMethod):
    """Keep the tokens whose attention has grown most since a shallow layer.

    ``A_(K-1) / (A_over + eps)``, both averaged over heads and query rows, from one prefill. The shallow layer stands
    for what positions draw whatever they show, so the ratio is a debiasing without a profile; dividing by a
    profile as well would do it twice, which is why this is a method of its own. It is not free of content: what
    the shallow layer has found already is divided out too.

    Known from a reproduction of D2Pruner (arXiv 2512.19443), which reports that the best ratio falls behind the raw
    attention of the deeper layer.

    Parameters
    ----------
    over : int
        Index of the shallow decoder layer, below K - 1. Default 0, the only one that any K >= 2 allows.
    heads : str, or sequence of int or of (int, float)
        As of :class:`AttentionMethod`, of layer K - 1 alone: of the shallow layer always the mean.
    eps : float
        Added to the shallow layer's attention. Where that layer has a sliding window, tokens outside it have no
        attention there, and eps alone decides.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> deep, shallow = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]]), torch.tensor([[[0.4, 0.1, 0.4, 0.1]]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=1, layer=3, attention=deep, earlier={0: shallow})
    >>> LayerRatio().select(ctx).indices  # the token that gained most, not the one that draws most
    tensor([1])
    """

    over: int = 0
    eps: float = 1e-7

    name: ClassVar[str] = "layer_ratio"
    display_name: ClassVar[str] = "layer ratio"
    cost: ClassVar[str] = "one sort"
    verified: ClassVar[str] = "partly: known from a reproduction"
    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.over, bool) or not isinstance(self.over, int) or self.over < 0:
            raise InputError(f"over must be the index of a decoder layer, 0 or more; got {self.over!r}")
        number("eps", self.eps, 0, open_low=True)

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters as every method does; the layer stays a whole number."""
        return {**super().options(), "over": self.over}

    def attention_layers(self, layer: int) -> tuple[int, ...]:
        """List the layer that is read and ``over``, which must lie below it."""
        deep = self.layer_read(layer)
        if self.over >= deep:
            name, least = ("K - 1", self.over + 2) if deep < layer else ("K", self.over + 1)
            raise InputError(
                f"method {self.name!r} divides by the attention of layer {self.over}, which must lie below "
                f"layer {name} = {deep}: use K >= {least}{' or a smaller over' if self.over else ''}"
            )
        return (deep, self.over)

    def importance(self, ctx: TokenContext) -> Tensor:
        """Divide the two layers' attention: (N,)."""
        return self.over_heads(ctx) / (self.per_head(ctx, self.over).mean(0) + self.eps)
