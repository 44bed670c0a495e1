"""Relative attention: attention over what the position draws whatever it shows, then the best of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from biaslab.errors import InputError, ProfileMismatchError

from .attention import AttentionMethod
from .base import TokenContext, choice, number
from .registry import register

if TYPE_CHECKING:
    from biaslab.profiles import Profile

__all__ = ["Relative"]

_OPS = ("ratio", "log", "subtract", "zscore", "none")


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Relative(AttentionMethod):
    """Keep the tokens with the highest debiased attention.

    ``A_rel = A / (A_bias + eps)`` is D2Pruner's importance (arXiv 2512.19443); with the other operations, and
    without the diversity stage, it is ours.

    Parameters
    ----------
    profile : expected attention of each position at layer K - 1. Required unless ``debias="none"``.
    debias : "ratio" (default), "log", "subtract", "zscore", or "none" for raw attention.
    eps : added to the expectation; 1e-7 as in a reproduction of D2Pruner.
    heads : "mean" averages the heads, then debiases (D2Pruner); "each" debiases every head by its own
        expectation, then averages (needs a profile fitted per head).
    """

    profile: Profile | None = None
    debias: str = "ratio"
    eps: float = 1e-7
    heads: str = "mean"

    name: ClassVar[str] = "relative"
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "profile"})

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("debias", self.debias, _OPS)
        choice("heads", self.heads, ("mean", "each"))
        number("eps", self.eps, 0, open_low=True)
        if self.profile is not None and not hasattr(self.profile, "expected"):
            raise InputError("profile must be a fitted profile: load one with biaslab.profiles.load(path)")
        if self.debias == "none":
            object.__setattr__(self, "needs", self.needs - {"profile"})

    @property
    def geometric(self) -> bool:
        """A profile is a map over positions."""
        return self.debias != "none"

    def validate(self) -> None:
        """Refuse to run without the profile."""
        if "profile" in self.needs and self.profile is None:
            raise InputError(
                f"method {self.name!r} needs a profile: pass profile=MeanProfile().fit(maps), "
                "or debias='none' for raw attention"
            )

    def score(self, ctx: TokenContext) -> Tensor:
        """(N,) debiased attention."""
        attention = self.per_head(ctx)
        if self.heads == "mean":
            attention = attention.mean(0, keepdim=True)
        if self.debias == "none":
            return attention.mean(0)
        # here: profiles pull in scikit-learn, which a ranking without a profile does not need
        from biaslab.profiles.debias import debias

        expected = self._map("expected", ctx, attention)
        spread = self._map("spread", ctx, attention) if self.debias == "zscore" else None
        return debias(attention, expected, spread, op=self.debias, eps=self.eps).mean(0)

    def _map(self, what: str, ctx: TokenContext, attention: Tensor) -> Any:
        values = getattr(self.profile, what)(ctx.layout, ctx.layer - 1, device=attention.device)
        if values.shape[0] not in (1, attention.shape[0]) or values.shape[-1] != ctx.n:
            raise ProfileMismatchError(
                f"the profile's map of shape {tuple(values.shape)} does not fit {attention.shape[0]} head(s) "
                f"and {ctx.n} visual tokens: use heads='each' for a per-head profile, else heads='mean'"
            )
        return values
