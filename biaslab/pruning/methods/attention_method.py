"""What the methods that rank tokens by attention share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from biaslab.attention.scores import SCORES
from biaslab.errors import InputError
from biaslab.pruning.base import Method, TokenContext, added_option, choice, required

__all__ = ["AttentionMethod"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionMethod(Method):
    """A method that reads the attention of query rows to the visual tokens at layer K - 1.

    Parameters
    ----------
    queries : "last" (the last prompt token, as FastV and D2Pruner), "text" (all text after the image), or
        absolute positions in the prompt, negative ones counted from its end. Several rows are averaged.
    score : the score that takes the place of attention, a key of :data:`biaslab.attention.scores.SCORES`: "attention"
        (default), "no_rope" (the rotary embedding taken out; FEATHER, arXiv 2412.13180), "value_norm" (times the
        norm of the value; its mean over heads leans to heads with long values). A profile must be of the same score.
    """

    queries: str | tuple[int, ...] = "last"
    score: str = added_option("attention")

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __post_init__(self) -> None:
        super().__post_init__()
        queries: Any = self.queries
        if not isinstance(queries, str):
            try:
                queries = tuple(int(q) for q in queries)
            except (TypeError, ValueError):
                queries = ()
        if queries not in ("last", "text") and (isinstance(queries, str) or not queries):
            raise InputError(f"queries must be 'last', 'text' or prompt positions; got {self.queries!r}")
        object.__setattr__(self, "queries", queries)
        choice("score", self.score, tuple(SCORES))

    def attention_layers(self, layer: int) -> tuple[int, ...]:
        """Decoder layers that are read when tokens are dropped before ``layer`` (K): K - 1, then others below it.

        Raises
        ------
        InputError
            The method cannot be run at this K.
        """
        return (layer - 1,)

    def per_head(self, ctx: TokenContext, layer: int | None = None) -> Tensor:
        """(H, N) float32 attention of each head, averaged over the query rows; of layer K - 1 or an earlier one."""
        attention = ctx.attention if layer is None else ctx.earlier.get(layer)
        return required(attention, "attention").float().mean(1)

    def _check(self, ctx: TokenContext) -> None:
        super()._check(ctx)
        for layer in self.attention_layers(ctx.layer)[1:]:
            given = ctx.earlier.get(layer)
            if given is None:
                raise InputError(f"method {self.name!r} needs attention of layer {layer}: pass it as earlier={{...}}")
            if given.ndim != 3 or given.shape[-1] != ctx.n:
                shape = tuple(given.shape)
                raise InputError(f"attention {shape} of layer {layer} does not fit {ctx.n} visual tokens")
