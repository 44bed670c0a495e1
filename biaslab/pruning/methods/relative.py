"""Relative attention: attention over what the position draws whatever it shows, then the best of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.attention.debiasing import DEBIAS, debias, head_weights, normalised, sinks
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.pruning.algorithms.transfer import upload
from biaslab.pruning.base import ExpectedAttention, TokenContext, added_option, choice, number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register
from biaslab.pruning.works import D2PRUNER, PORE

__all__ = ["Relative", "inside"]

_OPS = ("ratio", "log", "subtract", "zscore", "lognormal_rank", "none")


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Relative(AttentionMethod):
    """Keep the tokens with the highest debiased attention.

    ``A_rel = A / (A_bias + eps)`` is D2Pruner's importance (arXiv 2512.19443); with the other operations, and
    without the diversity stage, it is ours.

    Parameters
    ----------
    profile : Profile, optional
        Expected attention of each position at layer K - 1, fitted on the method's ``score``.
        Required unless ``debias="none"``.
    debias : str
        "ratio" (default), "log", "subtract", "zscore", "lognormal_rank", or "none" for raw attention.
    eps : float
        Added to the expectation; 1e-7 as in a reproduction of D2Pruner.
    heads : {"mean", "all", "weighted", "quality"}, or sequence of int or of (int, float)
        "mean" averages the heads, then debiases (D2Pruner); "all" debiases every head by its own expectation, then
        averages; "weighted" averages with weights that are the larger the less of a head is positional
        (:func:`biaslab.attention.debiasing.head_weights`); "quality" and named heads, as of :class:`AttentionMethod`,
        debias each by its own expectation, then average those. All but "mean" need a profile fitted per head.
    strength : float
        Of the removal, in [0, 1]; 1 (default) removes the whole expectation, 0 ranks as raw attention does
        (:func:`biaslab.profiles.strength.choose_strength`). Heads that are averaged weigh as the operation scales them.
    normalise : {"none", "mass"}
        "mass": attention and expectation are divided by what the image's tokens draw together, head by head, before
        the operation; padding and sinks are left out of that sum. Of consequence for "subtract", "zscore",
        "lognormal_rank" and for heads debiased apart.
    padding : {"keep", "drop"}
        "drop": tokens whose cell lies outside the image come last (PoRe).
    sinks : float
        0 (default) for none; else a token whose expected attention exceeds so many times the median (above 1, for
        example 20) is a sink: left out of the normalisation, its score unchanged otherwise.

    References
    ----------
    D2Pruner: arXiv 2512.19443. PoRe: arXiv 2508.17807.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> class Ramp:
    ...     def expected(self, layout, layer, device=None):
    ...         return torch.arange(1, layout.n + 1)[None] / layout.n
    >>> attention = torch.tensor([[[0.2, 0.12, 0.28, 0.4]]])  # (1 head, 1 query row, 4 tokens)
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=2, attention=attention)
    >>> Relative(profile=Ramp()).select(ctx).indices, Relative(debias="none").select(ctx).indices
    (tensor([0, 3]), tensor([2, 3]))
    """

    profile: ExpectedAttention | None = None
    debias: str = "ratio"
    eps: float = 1e-7
    heads: Any = "mean"
    strength: float = added_option(1.0)
    normalise: str = added_option("none")
    padding: str = added_option("keep")
    sinks: float = added_option(0.0)

    name: ClassVar[str] = "relative"
    display_name: ClassVar[str] = "relative attention"
    source: ClassVar[Citation | None] = D2PRUNER
    cost: ClassVar[str] = "one sort"
    verified: ClassVar[str] = "ours; ratio as D2Pruner's importance"
    nested: ClassVar[bool] = True
    takes_profile: ClassVar[bool] = True
    head_words: ClassVar[tuple[str, ...]] = ("mean", "all", "weighted", "quality")
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "profile"})

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("debias", self.debias, _OPS)
        choice("normalise", self.normalise, ("none", "mass"))
        choice("padding", self.padding, ("keep", "drop"))
        number("strength", self.strength, 0, 1)
        number("sinks", self.sinks, 0)
        if 0 < self.sinks <= 1:
            raise InputError(f"sinks must be 0 for none, or a multiple of the median above 1; got {self.sinks}")
        if self.sinks and self.normalise == "none":
            raise InputError("sinks are left out of a normalisation: pass normalise='mass' with them")
        if self.debias == "none" and (self.heads == "weighted" or self.sinks):
            raise InputError("weighted heads and sinks are read from a profile: choose a debias operation")
        number("eps", self.eps, 0, open_low=True)
        self._check_profile()
        if self.debias == "none" and self.heads != "quality":
            object.__setattr__(self, "needs", self.needs - {"profile"})

    def _check_profile(self) -> None:
        """Refuse what is no profile, as soon as it is given."""
        if self.profile is not None and not hasattr(self.profile, "expected"):
            raise InputError("profile must be a fitted profile: load one with biaslab.load_profile(path)")

    @property
    def needs_layout(self) -> bool:
        """A profile is a map over positions, and padding lies outside the image."""
        return self.debias != "none" or self.padding == "drop"

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters as every method does; ``heads`` stands where earlier labels have it."""
        options = super().options()
        heads, names = options.pop("heads"), list(options)
        after = names.index("eps") + 1
        return {n: {**options, "heads": heads}[n] for n in [*names[:after], "heads", *names[after:]]}

    def citations(self) -> tuple[Citation, ...]:
        """List D2Pruner, with PoRe where padding is dropped, and what the score is from."""
        return super().citations() + ((PORE,) if self.padding == "drop" else ())

    def validate(self) -> None:
        """Refuse to run without the profile."""
        if self.heads == "quality":
            super().validate()
        if "profile" in self.needs and self.profile is None:
            raise InputError(
                f"method {self.name!r} needs a profile: pass profile=MeanProfile().fit(maps), "
                "or debias='none' for raw attention"
            )

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for, when tokens are dropped before ``layer``."""
        heads = "mean" if self.heads == "mean" else n_heads
        use = {"layer": self.layer_read(layer), "queries": self.queries, "score": self.score, "heads": heads}
        return use | ({"layout": None} if self.debias == "none" else {})  # then heads alone are read of it

    def importance(self, ctx: TokenContext) -> Tensor:
        """Debias the attention: (N,)."""
        attention = self.per_head(ctx)
        if self.heads == "mean":
            attention = attention.mean(0, keepdim=True)
        scores = self._scores(ctx, attention)
        return scores.masked_fill(~inside(ctx), -torch.inf) if self.padding == "drop" else scores

    def _scores(self, ctx: TokenContext, attention: Tensor) -> Tensor:
        """Average the debiased attention over heads, padding not yet put last: (N,)."""
        weights = None if self.heads in ("mean", "all", "weighted") else self.head_weights_of(ctx, len(attention))
        if self.debias == "none":
            return attention.mean(0) if weights is None else weights @ attention
        expected = self._map("expected", ctx, attention)
        with_std = DEBIAS[self.debias].needs_std or self.heads == "weighted"
        std = self._map("std", ctx, attention) if with_std else None
        if self.heads == "weighted" and std is not None:
            weights = head_weights(expected, std)
        if weights is not None and (len(weights) != len(attention) or len(expected) != len(attention)):
            raise ProfileMismatchError(
                f"heads={self.heads!r} needs a profile fitted per head: fit one with --heads all"
            )
        if self.normalise == "mass":
            shown = inside(ctx)
            within = shown & ~sinks(expected, self.sinks) if self.sinks else shown
            std = None if std is None else normalised(std, within=within, by=expected)
            attention, expected = normalised(attention, within=within), normalised(expected, within=within)
        out = debias(attention, expected, std, operation=self.debias, eps=self.eps, strength=self.strength)
        return out.mean(0) if weights is None else weights @ out

    def _map(self, what: str, ctx: TokenContext, attention: Tensor) -> Tensor:
        read = getattr(self.profile, what)
        values = ctx.left(read(ctx.whole_layout, self.layer_read(ctx.layer), device=attention.device))
        if values.shape[0] not in (1, attention.shape[0]) or values.shape[-1] != ctx.n:
            raise ProfileMismatchError(
                f"the profile's map of shape {tuple(values.shape)} does not fit {attention.shape[0]} head(s) "
                f"and {ctx.n} visual tokens: use heads='all' for a per-head profile, else heads='mean'"
            )
        return values


def inside(ctx: TokenContext) -> Tensor:
    """Tell which tokens lie in the image: (N,) bool."""
    return upload(np.array(ctx.layout.in_image), ctx.device)
