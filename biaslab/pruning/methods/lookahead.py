"""Look-ahead: tokens that a later layer will attend to, known before the decoder runs (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning.algorithms.max_min import max_min_orders
from biaslab.pruning.base import Method, Picked, TokenContext, choice, number, required
from biaslab.pruning.batch import TokenBatch, ranked
from biaslab.pruning.context import FittedProfile
from biaslab.pruning.registry import register

__all__ = ["Lookahead"]

_RULES = ("diverse", "top")
_LEAST = 1e-6  # added to a standard deviation that is divided by


class ConditionalProfile(FittedProfile, Protocol):
    """What the method uses of a :class:`biaslab.profiles.LookaheadProfile`."""

    def relevance(self, visual: Tensor, text: Tensor, layout: TokenLayout, *, position: bool = False) -> Tensor:
        """Score (N, D) visual tokens for (T, D) tokens behind the image: (N,) float32."""
        ...


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Lookahead(Method):
    """Keep diverse tokens that the question is about, as a conditional profile foresees them.

    Greedy, in cosine distance of the features: first the most relevant token, then always the one of the largest
    ``q_i * min_j (1 - cos(x_i, x_j))`` over the kept j, where ``q = exp(gamma * z)`` and z is the relevance
    (:meth:`biaslab.profiles.LookaheadProfile.relevance`), standardised over the image. ``gamma = 0`` is DivPrune from
    another first token, a large one is top-k. What n tokens keep is a prefix of the order for any larger n.

    It reads what enters layer K and no attention: at K = 0 the whole decoder runs on what is kept.

    Parameters
    ----------
    profile : LookaheadProfile, optional
        Of this model: ``biaslab fit-bias --estimator lookahead``. Required.
    gamma : float
        Weight of relevance against diversity.
    rule : {"diverse", "top"}
        "top": the most relevant tokens, whatever they show.
    position : bool
        Whether the positional part of the profile counts as relevance: False (default) is debiased.

    Examples
    --------
    >>> import torch
    >>> class Foreseen:
    ...     def relevance(self, visual, text, layout, position=False):
    ...         return torch.tensor([0.0, 1.0, 0.9, 0.1])
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, features=features, text=torch.zeros(3, 2))
    >>> [Lookahead(profile=Foreseen(), rule=rule).select(ctx).indices.tolist() for rule in ("diverse", "top")]
    [[0, 1], [1, 2]]
    """

    profile: ConditionalProfile | None = None
    gamma: float = 1.0
    rule: str = "diverse"
    position: bool = False

    name: ClassVar[str] = "lookahead"
    nested: ClassVar[bool] = True
    conditional: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "text", "profile"})

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("rule", self.rule, _RULES)
        number("gamma", self.gamma, 0)
        if self.profile is not None and not hasattr(self.profile, "relevance"):
            raise InputError(
                f"method {self.name!r} needs a conditional profile: fit one with `biaslab fit-bias --estimator "
                "lookahead`"
            )

    @property
    def needs_layout(self) -> bool:
        """The student looks at where tokens lie."""
        return True

    @property
    def prune_layer(self) -> int | None:
        """The layer that its features enter: 0, or the first before which the model's tokens may be dropped."""
        layers = getattr(self.profile, "layers_", None)
        return None if layers is None else layers[0]

    def validate(self) -> None:
        """Refuse to run without the profile."""
        if self.profile is None:
            raise InputError(
                f"method {self.name!r} needs a profile: pass profile=LookaheadProfile().fit(maps) "
                "(`biaslab fit-bias --estimator lookahead`)"
            )

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for, when tokens are dropped before ``layer``."""
        return {"layer": layer}

    def importance(self, ctx: TokenContext) -> Tensor:
        """Foresee the relevance of each token: (N,)."""
        if self.profile is None:
            raise InputError(f"method {self.name!r} needs a profile")
        visual, text = required(ctx.features, "features"), required(ctx.text, "text")
        return self.profile.relevance(visual, text, ctx.layout, position=self.position)

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List tokens in the order of the choice."""
        ((picked,),) = self.pick_batch(TokenBatch([ctx]), [scores], [[ctx.budget]])
        return picked

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """List tokens in the order of the choice, image after image up to the largest budget."""
        known = [required(own, "scores") for own in scores]
        if self.rule == "top":
            orders = ranked(known)
        else:
            images = [required(ctx.features, "features") for ctx in batch]
            weights = [torch.exp(self.gamma * (s - s.mean()) / (s.std(correction=0) + _LEAST)) for s in known]
            orders = max_min_orders(images, [max(wanted, default=0) for wanted in budgets], weights=weights)
        return [[(order[:n], {}) for n in wanted] for order, wanted in zip(orders, budgets, strict=True)]
