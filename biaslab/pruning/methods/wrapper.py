"""What the methods share that let another method choose part of what is kept."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from biaslab.attention.precision import full_precision
from biaslab.errors import InputError
from biaslab.pruning.base import Method, Picked, Selection, TokenContext
from biaslab.pruning.citation import Citation
from biaslab.pruning.registry import parse

__all__ = ["Wrapper"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Wrapper(Method):
    """A rule around another method, which chooses what the rule leaves open.

    Parameters
    ----------
    keep : float or int
        Of the rule; the method's own does not count.
    method : str or Method
        The other method. On a command line it comes last, with its own options behind it:
        ``protected:rule=ivc:method=d2pruner:theta=0.7``.
    profile : Profile, optional
        For a method that needs one and has none.
    """

    method: Any = "fastv"
    profile: Any = None

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __post_init__(self) -> None:
        super().__post_init__()
        inner: Any = parse(self.method) if isinstance(self.method, str) else self.method
        if not isinstance(inner, Method):
            raise InputError(f"method must be a pruning method or its name, such as 'fastv'; got {self.method!r}")
        if inner.conditional:
            raise InputError(
                f"method {inner.name!r} reads the whole image and cannot choose part of it: name another method"
            )
        if inner.merges:
            raise InputError(
                f"method {inner.name!r} merges what it drops, which it cannot do with part of an image: switch it off"
            )
        if self.profile is not None and "profile" in inner.needs:
            options: dict[str, Any] = {"profile": self.profile}
            inner = dataclasses.replace(inner, **options)
        object.__setattr__(self, "method", inner)
        object.__setattr__(self, "profile", getattr(inner, "profile", None))
        object.__setattr__(self, "needs", inner.needs | self.own_needs)
        object.__setattr__(self, "profile_kind", inner.profile_kind)
        object.__setattr__(self, "before_decoder", inner.before_decoder)

    # -- what a rule defines -----------------------------------------------------------------------------------------
    @property
    def own_needs(self) -> frozenset[str]:
        """What the rule reads beside what the method does."""
        return frozenset()

    @abstractmethod
    def choose(self, images: Sequence[TokenContext], budgets: Sequence[Sequence[int]]) -> list[list[Selection]]:
        """Choose for several images at several budgets each, as `select_budgets`."""

    @property
    def innermost(self) -> Method:
        """The method that chooses, inside all that is around it."""
        inner = self.method
        return inner.innermost if isinstance(inner, Wrapper) else inner

    # -- what the method decides -------------------------------------------------------------------------------------
    @property
    def prune_layer(self) -> int | None:
        """The only layer K of the method; None where any will do."""
        return self.method.prune_layer

    @property
    def raw_values(self) -> bool:
        """Whether the method reads values that are made without the layer's norm."""
        return self.method.raw_values

    @property
    def needs_layout(self) -> bool:
        """As the method does."""
        return self.method.needs_layout

    @property
    def queries(self) -> Any:
        """Query rows that the method reads; None for none."""
        return getattr(self.method, "queries", None)

    @property
    def query_kinds(self) -> tuple[Any, ...]:
        """All kinds of query rows that it reads."""
        return getattr(self.method, "query_kinds", ())

    @property
    def score(self) -> str:
        """What it reads in the place of attention."""
        return getattr(self.method, "score", "attention")

    def layer_read(self, layer: int) -> int:
        """Name the layer that the method reads."""
        return self.method.layer_read(layer)

    def attention_layers(self, layer: int) -> tuple[int, ...]:
        """List the layers whose attention it reads."""
        return self.method.attention_layers(layer)

    @property
    def reads_heads(self) -> bool:
        """Whether its profile must be one of single heads."""
        return self.method.reads_heads

    def check_heads(self, layer: int, n_heads: int) -> None:
        """Refuse heads that a layer does not have."""
        self.method.check_heads(layer, n_heads)

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what its profile must have been fitted for."""
        return self.method.fits(layer, n_heads)

    def validate(self) -> None:
        """Refuse what the method refuses."""
        self.method.validate()

    def check_width(self, width: int) -> None:
        """Refuse features that the method cannot read."""
        self.method.check_width(width)

    def citations(self) -> tuple[Citation, ...]:
        """List the works of the rule, then those of the method."""
        return tuple(dict.fromkeys((*super().citations(), *self.method.citations())))

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters, the method last and as one word."""
        own = {name: value for name, value in super().options().items() if name != "method"}
        return {**own, "method": self.method.label}

    def _hashed_options(self) -> dict[str, Any]:
        return {**self.options(), "method": f"{self.method.name} {self.method.options_hash}"}

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List what is kept, ascending, and what the rule and the method report."""
        ((chosen,),) = self.choose([ctx], [[ctx.budget]])
        return chosen.indices, chosen.info

    # -- what callers use --------------------------------------------------------------------------------------------
    def select(self, ctx: TokenContext) -> Selection:
        """Choose the tokens of one image."""
        return self.select_budgets([ctx], [[ctx.budget]])[0][0]

    def select_budgets(self, images: Sequence[TokenContext], budgets: Sequence[Sequence[int]]) -> list[list[Selection]]:
        """Choose the tokens of several images at several budgets each."""
        self.validate()
        for ctx, wanted in zip(images, budgets, strict=True):
            for n in wanted:
                self._check(dataclasses.replace(ctx, budget=n))
        if not any(budgets):
            return [[] for _ in budgets]
        with full_precision():
            return self.choose(list(images), budgets)
