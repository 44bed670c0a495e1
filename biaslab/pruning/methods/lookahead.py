"""Look-ahead: tokens that a later layer will attend to, known before the decoder runs (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from biaslab.core.curve import curve_order
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning.algorithms.max_min import max_min_orders
from biaslab.pruning.algorithms.mmr import mmr_orders
from biaslab.pruning.algorithms.proportional import proportional_batch
from biaslab.pruning.base import Method, Picked, TokenContext, added_option, choice, number, required
from biaslab.pruning.batch import TokenBatch, alike, padded, prefixes, ranked
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import FittedProfile
from biaslab.pruning.methods.d2pruner import D2Pruner
from biaslab.pruning.registry import register
from biaslab.pruning.works import D2PRUNER, IDPRUNER

__all__ = ["Lookahead"]

#: rule -> the options that it alone reads
_RULES = {
    "proportional": ("power", "floor"),
    "diverse": ("gamma",),
    "top": (),
    "graph": ("alpha", "theta", "pivot_ratio"),
    "mmr": ("lam",),
}
_GREEDY = ("diverse", "top", "mmr")  # what they keep of a smaller budget is a prefix
_CURVES = 64  # layouts whose curves are kept
_LEAST = 1e-6  # added to a standard deviation that is divided by


class ConditionalProfile(FittedProfile, Protocol):
    """What the method uses of a :class:`biaslab.profiles.LookaheadProfile`."""

    def relevance(self, visual: Tensor, text: Tensor, layout: TokenLayout, *, position: bool = False) -> Tensor:
        """Score (N, D) visual tokens for (T, D) tokens behind the image: (N,) float32.

        A profile may have a ``relevance_batch`` as :meth:`biaslab.profiles.LookaheadProfile.relevance_batch` as well.
        """
        ...


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Lookahead(Method):
    """Keep tokens that the question is about, as a conditional profile foresees them.

    Of each image z is the relevance (:meth:`biaslab.profiles.LookaheadProfile.relevance`) and x the features that
    enter layer K. Five rules choose by it, ties by the lower index:

    - "proportional" (ours): as many tokens in each part of the image as it is foreseen to be attended, evenly spread.
      The density ``(softmax(z)_i + floor / N) ** power`` is sampled systematically along a Hilbert curve through the
      image (:func:`biaslab.pruning.algorithms.proportional.proportional`): in an object that draws all attention
      neighbours are kept side by side, on a larger one every second or third, of what draws none a few.
    - "diverse" (ours): first the most relevant token, then always the one of the largest
      ``exp(gamma * s_i) * min_j (1 - cos(x_i, x_j))`` over the kept j, s being z standardised over the image.
      ``gamma = 0`` is DivPrune from another first token, a large one is "top".
    - "top": the largest z, whatever they show.
    - "mmr", maximal marginal relevance as in IDPruner: first the most relevant token, then always the one of the
      largest ``lam * (z_i - min z) / (max z - min z + 1e-6) - (1 - lam) * max_j cos(x_i, x_j)``. ``lam = 1`` is "top".
    - "graph", the second stage of :class:`D2Pruner` with z in the place of relative attention: of n tokens the first
      ``floor(pivot_ratio * n)`` by z, the pivots; of the others, in descending z, those that are no neighbour of one so
      taken (pivots suppress none). Neighbours are i and j with
      ``alpha * cos(x_i, x_j) + (1 - alpha) * (1 - d_ij / d_max) > theta``, d being the distance of their cells in the
      image. Where this ends before n, the best of the rest follow.

    What n tokens keep is a prefix of the order for any larger n by "diverse", "top" and "mmr" alone. It reads what
    enters layer K and no attention: at K = 0 the whole decoder runs on what is kept. No step waits for the device, but
    for the few rounds of "graph", which all images of a batch share; "proportional" has no steps that follow each
    other, whatever n is.

    Parameters
    ----------
    profile : LookaheadProfile, optional
        Of this model: ``biaslab fit-bias --estimator lookahead``. Required.
    gamma : float
        Weight of relevance against diversity, for "diverse" alone.
    rule : {"proportional", "diverse", "top", "graph", "mmr"}
        On a command line ``lookahead:rule=mmr:lam=0.7``.
    position : bool
        Whether the positional part of the profile counts as relevance: False (default) is debiased.
    power, floor : float
        Of the density, for "proportional" alone. ``power`` above 1 is bolder than what is foreseen; ``floor`` is what
        all tokens share alike, as a share of the sum.
    lam : float
        Lambda, the weight of relevance against redundancy in [0, 1], for "mmr" alone; 0.5 as published.
    alpha, theta, pivot_ratio : float
        Of the graph, for "graph" alone; as :class:`D2Pruner` says, with its defaults.

    Notes
    -----
    ``Selection.info`` is empty; of "graph" what :class:`D2Pruner` reports.

    References
    ----------
    "graph": D2Pruner, arXiv 2512.19443. "mmr": IDPruner, arXiv 2602.13315.

    Examples
    --------
    Tokens 0 and 1 show the same, 2 something else, 3 something between:

    >>> import torch
    >>> class Foreseen:
    ...     def relevance(self, visual, text, layout, position=False):
    ...         return torch.tensor([0.9, 1.0, 0.3, 0.5])
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, features=features, text=torch.zeros(3, 2))
    >>> kept = lambda rule, **options: (
    ...     Lookahead(profile=Foreseen(), rule=rule, **options).select(ctx).indices.tolist())
    >>> kept("proportional"), kept("diverse"), kept("top"), kept("mmr"), kept("graph", alpha=1.0, pivot_ratio=0.0)
    ([0, 1], [1, 2], [0, 1], [1, 2], [1, 3])
    """

    profile: ConditionalProfile | None = None
    gamma: float = 1.0
    rule: str = "proportional"
    position: bool = False
    power: float = 1.5
    floor: float = 0.5
    lam: float = added_option(0.5)
    alpha: float = added_option(0.5)
    theta: float = added_option(0.8)
    pivot_ratio: float = added_option(0.7)

    name: ClassVar[str] = "lookahead"
    display_name: ClassVar[str] = "look-ahead"
    cost: ClassVar[str] = "a student of what enters the decoder, then the rule's"
    verified: ClassVar[str] = "ours"
    conditional: ClassVar[bool] = True
    profile_kind: ClassVar[str] = "conditional"
    needs: ClassVar[frozenset[str]] = frozenset({"features", "text", "profile"})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_curves", {})
        choice("rule", self.rule, _RULES)
        number("gamma", self.gamma, 0)
        number("lam", self.lam, 0, 1)
        number("power", self.power, 0)
        number("floor", self.floor, 0)
        for rule, options in _RULES.items():
            for option in options:
                if rule != self.rule and getattr(self, option) != getattr(type(self), option):
                    raise InputError(f"{option} does nothing without rule={rule}: add it, or leave {option} out")
        object.__setattr__(self, "nested", self.rule in _GREEDY)
        if self.rule == "graph":
            self._graph()  # refuses its options
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

    def citations(self) -> tuple[Citation, ...]:
        """List the work that the rule of choice is from; the others are ours."""
        return {"graph": (D2PRUNER,), "mmr": (IDPRUNER,)}.get(self.rule, ())

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

    def importance_batch(self, batch: TokenBatch) -> Sequence[Tensor]:
        """Foresee the relevance of the tokens of several images; those of one size together."""
        together = getattr(self.profile, "relevance_batch", None)
        if together is None:
            return [self.importance(ctx) for ctx in batch]
        found: dict[int, Tensor] = {}
        for which in alike([ctx.n for ctx in batch]):
            own = [batch[i] for i in which]
            texts, layouts = [required(ctx.text, "text") for ctx in own], [ctx.layout for ctx in own]
            scores = together(batch.features_of(which), texts, layouts, position=self.position)
            found.update(zip(which, scores, strict=True))
        return [found[i] for i in range(len(batch))]

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose for all images and budgets; greedy rules list an order of which each budget is a prefix."""
        known = [required(own, "scores") for own in scores]
        if self.rule == "graph":
            return self._graph().pick_batch(batch, known, budgets)
        if self.rule == "proportional":
            return self._proportional(batch, known, budgets)
        orders = self._orders(batch, known, [max(wanted, default=0) for wanted in budgets])
        return prefixes(orders, budgets)

    def _orders(self, batch: TokenBatch, scores: Sequence[Tensor], most: Sequence[int]) -> list[Tensor]:
        if self.rule == "top":
            return ranked(scores)
        images = [required(ctx.features, "features") for ctx in batch]
        if self.rule == "mmr":
            return mmr_orders(images, most, scores, lam=self.lam)
        weights = [torch.exp(self.gamma * (s - s.mean()) / (s.std(correction=0) + _LEAST)) for s in scores]
        return max_min_orders(images, most, weights=weights)

    def _proportional(
        self, batch: TokenBatch, scores: Sequence[Tensor], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose for images of one size and the same budgets together."""
        found: dict[int, list[Picked]] = {}
        for which in alike([(len(own), *wanted) for own, wanted in zip(scores, budgets, strict=True)]):
            own = padded([scores[i] for i in which], 0)
            double = own.dtype if own.device.type == "mps" else torch.float64
            density = (own.softmax(1, dtype=double) + max(self.floor, _LEAST) / own.shape[1]) ** self.power
            curves = [self._curve(batch[i].layout, own.device) for i in which]
            order = curves[0] if len({id(curve) for curve in curves}) == 1 else torch.stack(curves)
            chosen = proportional_batch(density, order, budgets[which[0]])
            found.update((i, [(rows[row], {}) for rows in chosen]) for row, i in enumerate(which))
        return [found[i] for i in range(len(batch))]

    def _curve(self, layout: TokenLayout, device: torch.device) -> Tensor:
        curves: dict[tuple[str, torch.device], Tensor] = self.__dict__["_curves"]
        known = (layout.key, device)
        if known not in curves:
            if len(curves) >= _CURVES:
                curves.pop(next(iter(curves)))
            curves[known] = torch.from_numpy(curve_order(layout)).to(device)
        return curves[known]

    def _graph(self) -> D2Pruner:
        """Make the method whose second stage chooses; what it debiases does not matter, it is handed scores."""
        return D2Pruner(debias="none", alpha=self.alpha, theta=self.theta, pivot_ratio=self.pivot_ratio)
