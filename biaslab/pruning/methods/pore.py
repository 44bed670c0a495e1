"""PoRe: attention over an exponential of the place in the sequence (arXiv 2508.17807)."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.algorithms.transfer import upload
from biaslab.pruning.base import TokenContext, choice, number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register
from biaslab.pruning.works import PORE

__all__ = ["PoRe"]

FITTED = "fitted"


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class PoRe(AttentionMethod):
    """Keep the tokens with the highest ``A_i / exp(-c i)``, i being the image's placeholders that come after token i.

    Tokens near the text draw more whatever they show: the curve takes that out, and nothing else of the place.

    Parameters
    ----------
    c : float or "fitted"
        Decay per placeholder. Published by hand for each host method and benchmark, 0.001 to 0.005; the default lies
        between and is unverified for any model. 0 is :class:`FastV`. "fitted" divides by an ``exponential`` profile
        (:class:`biaslab.profiles.ExponentialProfile`), whose c is a least-squares slope: no fitter is published.
    padding : {"keep", "drop"}
        "drop": tokens whose cell lies outside the image come last, as published. Default "keep", as everywhere here.
    profile : Profile, optional
        Of the estimator ``exponential``, of the mean over heads, for ``c="fitted"``; of single heads for
        ``heads="quality"``. One or the other.

    References
    ----------
    arXiv 2508.17807.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> layout = TokenLayout.raster(1, 4, size=(400, 100), family="toy")
    >>> attention = torch.tensor([[[0.20, 0.18, 0.21, 0.22]]])  # (1 head, 1 query row, 4 tokens)
    >>> ctx = TokenContext(layout, budget=2, attention=attention)
    >>> PoRe(c=0.2).select(ctx).indices, PoRe(c=0.0).select(ctx).indices
    (tensor([0, 1]), tensor([2, 3]))
    """

    c: Any = 0.003
    padding: str = "keep"

    name: ClassVar[str] = "pore"
    source: ClassVar[Citation | None] = PORE
    cost: ClassVar[str] = "one sort"
    verified: ClassVar[str] = "partly: rule as published, c for no model, padding stays"
    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.c != FITTED:
            if not isinstance(self.c, Real) or isinstance(self.c, bool):
                raise InputError(f"c must be a number or 'fitted', got {self.c!r}")
            number("c", self.c, -1, 1)
        choice("padding", self.padding, ("drop", "keep"))
        profile = self.profile
        if self.c == FITTED:
            if self.heads == "quality":
                raise InputError("c='fitted' and heads='quality' read a profile each: choose one")
            if profile is not None and getattr(profile, "name", None) != "exponential":
                raise InputError("c='fitted' needs a profile of `biaslab fit-bias --estimator exponential`")
            object.__setattr__(self, "profile", None)  # not what heads='quality' asks of one
        super().__post_init__()
        if self.c == FITTED:
            object.__setattr__(self, "profile", profile)
            object.__setattr__(self, "needs", self.needs | {"profile"})

    @property
    def needs_layout(self) -> bool:
        """It counts the placeholders after a token."""
        return True

    @property
    def reads_heads(self) -> bool:
        """Of ``c="fitted"`` the curve of the mean over heads is read."""
        return False if self.c == FITTED else super().reads_heads

    def validate(self) -> None:
        """Refuse to run without the profile."""
        if self.c == FITTED and self.profile is None:
            raise InputError(
                f"method {self.name!r} with c='fitted' needs a profile: `biaslab fit-bias --estimator exponential`"
            )
        super().validate()

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for, when tokens are dropped before ``layer``."""
        if self.c == FITTED:
            return {"layer": self.layer_read(layer), "queries": self.queries, "score": self.score, "heads": "mean"}
        return super().fits(layer, n_heads)

    def importance(self, ctx: TokenContext) -> Tensor:
        """Divide the attention by the curve: (N,), up to a factor."""
        attention = self.over_heads(ctx)
        if self.c == FITTED:
            self.validate()
            read = self.layer_read(ctx.layer)
            scores = attention / ctx.left(self.profile.expected(ctx.whole_layout, read, device=attention.device))[0]
        else:
            after = ctx.layout.placeholders - 1.0 - ctx.layout.placeholder_index
            rise = self.c * after
            scores = attention * upload(np.exp(rise - rise.max()).astype(np.float32), attention.device)
        if self.padding == "keep":
            return scores
        return scores.masked_fill(~upload(np.array(ctx.layout.in_image), ctx.device), -torch.inf)
