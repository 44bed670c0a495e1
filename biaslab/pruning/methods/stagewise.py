"""Stagewise: diverse before the decoder, then what the heads that look at something attend to, in two stages (ours)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.algorithms.max_min import max_min_orders
from biaslab.pruning.base import Method, Picked, TokenContext, number, required
from biaslab.pruning.batch import TokenBatch, prefixes
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.methods.divprune import DivPrune
from biaslab.pruning.registry import register

__all__ = ["Stagewise", "first_share"]

_LEAST = 1e-7  # added to attention before its logarithm
_FLAT = 1e-6  # added to a standard deviation that is divided by


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Stagewise(AttentionMethod):
    """Keep diverse tokens before the decoder, then, twice, diverse ones that localizing heads attend to (ours).

    Before the decoder nothing can have heard the question: :class:`DivPrune` keeps a share n0 of the tokens. Before
    the layers K1 and K2, at ``depths`` of the depth, the relevance of token i is

        z_i = sum_h w_h zscore_i( log(a_h,i + 1e-7) - log(mu_h,i + 1e-7) ),

    over the heads h below K1 that look at something (:func:`biaslab.profiles.head_quality`, w_h its quality; those of
    at least ``share`` of the best), of attention a and expected attention mu; then first the token of the largest
    ``q_i = exp(gamma * zscore(z)_i)``, and always that of the largest ``q_i * min_j (1 - cos(x_i, x_j))`` over the kept
    j, x being the hidden states entering the layer. ``gamma = 0`` is DivPrune.

    The three shares n0, ``sqrt(n0 * keep)`` and ``keep`` cost as many tokens, on average over all layers, as ``keep``
    before layer ``at`` does (`first_share`). Before a layer that is named it is the last rule alone, for one cut, over
    heads below ``below``, by default below K.

    Parameters
    ----------
    keep : float
        Share of the tokens that is left in the end.
    profile : Profile, optional
        Fitted per head, with the quality of heads: ``biaslab fit-bias --heads all --maps FOLDER``. Required.
    gamma : float
        Weight of relevance against diversity.
    share : float
        Of the best quality, that a head must reach to be read.
    debias : bool
        Whether mu is taken off; False: the attention as it is.
    depths : (float, float)
        Of the layers K1 and K2; on a command line ``stagewise:depths=[0.3,0.6]``.
    at : int
        The layer of "``keep`` before layer ``at``", whose cost the schedule has.
    below : int, optional
        Heads of layers below it are read, by default below K.

    Examples
    --------
    >>> [(layer, rule.name, round(rule.keep, 3)) for layer, rule in Stagewise(keep=0.1).own_stages(32)]
    [(0, 'divprune', 0.217), (13, 'stagewise', 0.147), (19, 'stagewise', 0.1)]
    >>> [(layer, rule.name, round(rule.keep, 3)) for layer, rule in Stagewise(keep=0.1).own_stages(10)]
    [(0, 'divprune', 0.489), (4, 'stagewise', 0.221), (6, 'stagewise', 0.1)]
    """

    gamma: float = 0.5
    share: float = 0.25
    debias: bool = True
    depths: tuple[float, float] = (0.4, 0.6)
    at: int = 2
    below: int | None = None

    name: ClassVar[str] = "stagewise"
    display_name: ClassVar[str] = "stagewise"
    cost: ClassVar[str] = "three greedy choices, rows of the layers of its heads"
    verified: ClassVar[str] = "ours"
    nested: ClassVar[bool] = True
    head_words: ClassVar[tuple[str, ...]] = ("mean",)
    takes_profile: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "features", "profile"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chosen", {})
        if self.heads != "mean":
            raise InputError(f"method {self.name!r} reads the heads that its profile rates: leave heads out")
        super().__post_init__()
        number("gamma", self.gamma, 0)
        number("share", self.share, 0, 1, open_low=True)
        if not isinstance(self.debias, bool):
            raise InputError(f"debias must be true or false, got {self.debias!r}")
        depths: Any = tuple(self.depths) if isinstance(self.depths, (list, tuple)) else ()
        if len(depths) != 2 or not 0 < depths[0] < depths[1] < 1:
            raise InputError(f"depths must be two shares of the depth, the first below the second; got {self.depths!r}")
        object.__setattr__(self, "depths", depths)
        for name, least in (("at", 1), ("below", 1)):
            value: Any = getattr(self, name)
            if value is None and name == "below":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a decoder layer from {least} on, got {value!r}")
        if self.profile is not None and not hasattr(self.profile, "quality_"):
            raise InputError("profile must be a fitted profile: load one with biaslab.load_profile(path)")

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters as every method does; layers stay whole numbers."""
        return {**super().options(), "at": self.at, "below": self.below, "depths": self.depths}

    # -- which heads ---------------------------------------------------------------------------------------------------
    @property
    def reads_heads(self) -> bool:
        """It does."""
        return True

    def validate(self) -> None:
        """Refuse to run without a profile that rates heads."""
        quality = None if self.profile is None else self.profile.quality_
        if quality is None or len(quality) == 0:
            raise InputError(
                f"method {self.name!r} needs a profile that tells the quality of heads: "
                "`biaslab fit-bias --heads all --maps FOLDER` makes one"
            )

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for; its layers are those of the heads that are read."""
        return {"layer": None, "queries": self.queries, "score": self.score, "heads": n_heads}

    def check_heads(self, layer: int, n_heads: int) -> None:
        """Refuse a layer below which no head looks at anything."""
        self.chosen_heads(layer)

    def chosen_heads(self, layer: int) -> list[tuple[int, int, float]]:
        """List (layer, head, weight) of the heads that are read before ``layer`` (K), the best first; weights sum to 1.

        Raises
        ------
        InputError
            No head below it looks at anything.
        """
        if self.profile is None:
            return []
        limit = layer if self.below is None else min(layer, self.below)
        known: dict[int, list[tuple[int, int, float]]] = self.__dict__["_chosen"]
        if limit not in known:  # once, not in every prefill
            known[limit] = self._best_below(limit)
        return known[limit]

    def _best_below(self, limit: int) -> list[tuple[int, int, float]]:
        self.validate()
        rated = self.profile.quality_
        rated = rated[(rated["layer"] < limit) & (rated["quality"] > 0)]
        if not len(rated):
            raise InputError(
                f"no head of the layers below {limit} looks at anything: drop tokens before a deeper layer, or fit the "
                "profile on more layers or images"
            )
        rated = rated[rated["quality"] >= self.share * rated["quality"].max()]
        rated = rated.sort_values("quality", ascending=False, kind="stable")
        total = float(rated["quality"].sum())
        return [(int(r.layer), int(r.head), float(r.quality) / total) for r in rated.itertuples()]

    def attention_layers(self, layer: int) -> tuple[int, ...]:
        """List K - 1, then the other layers of its heads."""
        heads = self.chosen_heads(layer)
        return (layer - 1, *sorted({own for own, _, _ in heads} - {layer - 1}))

    # -- the rule ------------------------------------------------------------------------------------------------------
    def importance(self, ctx: TokenContext) -> Tensor:
        """Weigh what the heads attend to, each in standard deviations over the tokens that are left: (N,)."""
        self.validate()
        total = torch.zeros(ctx.n, device=ctx.device, dtype=torch.float32)
        heads = self.chosen_heads(ctx.layer)
        for layer in sorted({own for own, _, _ in heads}):
            logs = (self.per_head(ctx, None if layer == ctx.layer - 1 else layer) + _LEAST).log()
            if self.debias:
                expected = ctx.left(self.profile.expected(ctx.whole_layout, layer, device=logs.device))
                logs = logs - (expected + _LEAST).log()
            for own, head, weight in heads:
                if own == layer:
                    total = total + weight * _standardised(logs[head])
        return total

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose for all images; each budget is a prefix of the order."""
        images = [required(ctx.features, "features") for ctx in batch]
        weights = [torch.exp(self.gamma * _standardised(required(own, "scores"))) for own in scores]
        most = [max(wanted, default=0) for wanted in budgets]
        orders = max_min_orders(images, most, weights=weights)
        return prefixes(orders, budgets)

    # -- the schedule --------------------------------------------------------------------------------------------------
    def own_stages(self, n_layers: int, lowest: int = 0) -> Sequence[tuple[int, Method]] | None:
        """List the layers K with the rule there: diverse before the decoder, then relevant and diverse, twice.

        Raises
        ------
        InputError
            A keep that is a count, or too few layers.
        """
        if isinstance(self.keep, int):
            raise InputError(
                f"method {self.name!r} drops in three stages by shares: give a ratio, or name a layer, as in "
                f"{self.name}@{self.keep}@4"
            )
        first = max(lowest + 1, round(self.depths[0] * n_layers))
        second = max(first + 1, round(self.depths[1] * n_layers))
        if second >= n_layers:
            raise InputError(f"method {self.name!r} has three stages, too many for {n_layers} layers from {lowest} on")
        share = first_share(self.keep, n_layers, (lowest, first, second), at=self.at)
        rule = dataclasses.replace(self, below=first)
        stages: list[tuple[int, Method]] = [] if share >= 1 else [(lowest, DivPrune(keep=share))]
        return [*stages, (first, rule.with_keep(min(1.0, math.sqrt(share * self.keep)))), (second, rule)]


def first_share(keep: float, n_layers: int, layers: tuple[int, int, int], *, at: int = 2) -> float:
    """Compute the share n0 of a first stage so that three cost what one cut before layer ``at`` does.

    The stages leave n0, ``sqrt(n0 * keep)`` and ``keep`` of the tokens. Cost is what a layer sees on average: n0 solves
    ``l0 + (l1 - l0) n0 + (l2 - l1) sqrt(n0 keep) + (L - l2) keep = at + (L - at) keep``.

    Parameters
    ----------
    keep : float
        Share of the tokens in the end.
    n_layers : int
        L.
    layers : (int, int, int)
        l0, l1, l2, where the stages stand.
    at : int

    Returns
    -------
    float
        In [keep, 1].

    Examples
    --------
    >>> n0 = first_share(0.1, 10, (0, 4, 6))
    >>> round(n0, 3), round((4 * n0 + 2 * (0.1 * n0) ** 0.5 + 4 * 0.1) / 10, 3), round((2 + 8 * 0.1) / 10, 3)
    (0.489, 0.28, 0.28)
    """
    zero, one, two = layers
    left = at + (n_layers - at) * keep - zero - (n_layers - two) * keep
    a, b = one - zero, (two - one) * math.sqrt(keep)
    root = (-b + math.sqrt(b * b + 4 * a * max(left, 0.0))) / (2 * a)
    return min(1.0, max(keep, root * root))


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.std(correction=0) + _FLAT)
