"""What the methods that rank tokens by attention share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from biaslab.errors import InputError

from .base import Method, TokenContext

__all__ = ["AttentionMethod"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionMethod(Method):
    """A method that reads the attention of query rows to the visual tokens at layer K - 1.

    Parameters
    ----------
    queries : "last" (the last prompt token, as FastV and D2Pruner), "text" (all text after the image), or
        absolute positions in the prompt, negative ones counted from its end. Several rows are averaged.
    """

    queries: str | tuple[int, ...] = "last"

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

    def per_head(self, ctx: TokenContext) -> Tensor:
        """(H, N) float32 attention of each head, averaged over the query rows."""
        return ctx.attention.float().mean(1)
