"""Localization heads: keep what the few heads that localise attend to (arXiv 2503.06287)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.base import TokenContext
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import FittedProfile
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register

__all__ = ["LocalizationHeads"]


class HeadProfile(FittedProfile, Protocol):
    """What the method uses of a :class:`biaslab.profiles.LocalizationHeadsProfile`."""

    @property
    def heads_(self) -> list[tuple[int, int]]:
        """The (layer, head) to read."""
        ...


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class LocalizationHeads(AttentionMethod):
    """Keep the tokens with the highest attention of the localization heads, summed.

    ``s_i = sum over the chosen (l, h) of A^(l)_h,i``. Which heads are chosen is fitted once per model, without labels
    (:class:`biaslab.profiles.LocalizationHeadsProfile`); they may lie in any layers below K, read in the same forward.

    Published for grounding (the sum, smoothed, is boxed), not for pruning: that tokens are kept by the sum is ours, and
    nothing is smoothed.

    Parameters
    ----------
    profile : LocalizationHeadsProfile, optional
        Of this model: ``biaslab fit-bias --estimator localization_heads``. Required.

    References
    ----------
    arXiv 2503.06287.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> class Chosen:
    ...     heads_ = [(2, 1), (0, 0)]
    >>> deep = torch.tensor([[[0.4, 0.0, 0.0, 0.0]], [[0.1, 0.2, 0.0, 0.1]]])  # (2 heads, 1 query row, 4 tokens)
    >>> shallow = torch.tensor([[[0.0, 0.0, 0.0, 0.2]], [[0.5, 0.0, 0.0, 0.0]]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, layer=3, attention=deep, earlier={0: shallow})
    >>> LocalizationHeads(profile=Chosen()).select(ctx).indices
    tensor([1, 3])
    """

    profile: HeadProfile | None = None

    name: ClassVar[str] = "localization_heads"
    display_name: ClassVar[str] = "localization heads"
    source: ClassVar[Citation | None] = Citation(
        key="localization_heads2025",
        title="Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding",
        year=2025,
        arxiv="2503.06287",
        authors=("Seil Kang", "Jinyeong Kim", "Junhyeok Kim", "Seong Jae Hwang"),
        venue="CVPR 2025",
    )
    cost: ClassVar[str] = "rows of the layers of its heads, one sort"
    verified: ClassVar[str] = "partly: heads as in the paper, votes per image unverified; pruning by them is ours"
    nested: ClassVar[bool] = True
    profile_kind: ClassVar[str] = "heads"
    takes_profile: ClassVar[bool] = True
    head_words: ClassVar[tuple[str, ...]] = ("mean",)
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "profile"})

    def __post_init__(self) -> None:
        if self.heads != "mean":
            raise InputError(f"method {self.name!r} reads the heads of its profile: leave heads out")
        super().__post_init__()
        if self.profile is not None and not hasattr(self.profile, "heads_"):
            raise InputError(
                f"method {self.name!r} needs a head profile: fit one with `biaslab fit-bias --estimator {self.name}`"
            )

    @property
    def reads_heads(self) -> bool:
        """It does."""
        return True

    def validate(self) -> None:
        """Refuse to run without the profile."""
        if self.profile is None:
            raise InputError(
                f"method {self.name!r} needs a profile: pass profile=LocalizationHeadsProfile().fit(maps) "
                f"(`biaslab fit-bias --estimator {self.name}`)"
            )

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for; its layers are those of its heads."""
        return {"layer": None, "queries": self.queries, "score": self.score, "heads": n_heads}

    def attention_layers(self, layer: int) -> tuple[int, ...]:
        """List the layer that every method reads, then the other layers of its heads, which must be there by then."""
        first = self.layer_read(layer)
        chosen = [] if self.profile is None else self.profile.heads_
        if deep := [(own, head) for own, head in chosen if own > first]:
            above = layer - first  # 1, or 0 where layer K itself is read
            raise InputError(
                f"method {self.name!r} reads layer {deep[0][0]} head {deep[0][1]}, which is not there before layer "
                f"K = {layer}: use K >= {max(own for own, _ in deep) + above}, or choose heads among the layers below "
                f"(`biaslab fit-bias --estimator {self.name} --layers 0-{first}`)"
            )
        return (first, *sorted({own for own, _ in chosen} - {first}))

    def importance(self, ctx: TokenContext) -> Tensor:
        """Sum the attention of the heads: (N,)."""
        self.validate()
        assert self.profile is not None
        first, rows = self.layer_read(ctx.layer), []
        for layer in sorted({own for own, _ in self.profile.heads_}):
            each = self.per_head(ctx, None if layer == first else layer)
            rows += [each[head] for own, head in self.profile.heads_ if own == layer]
        return torch.stack(rows).sum(0)
