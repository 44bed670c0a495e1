"""What every pruning method shares: the budget, what a method sees of one image, and what it returns.

A method is pure tensor code: it never sees a model, and one call handles one image, so that a result cannot
depend on the other images of a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from abc import ABC
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from biaslab.attention.precision import full_precision
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

__all__ = [
    "added_option",
    "ExpectedAttention",
    "Method",
    "Selection",
    "TokenContext",
    "budget",
    "choice",
    "descending",
    "number",
    "required",
]

_ROUNDING = 1e-9  # far above the error of a float product with n < 1e6, far below one token


def share(ratio: float, n: int) -> int:
    """Compute ``floor(ratio * n)`` as it would be in exact decimals: 0.29 * 100 is 29, not 28."""
    return math.floor(ratio * n + _ROUNDING)


def check_keep(keep: Any) -> float | int:
    """Return ``keep`` as a plain float ratio in (0, 1] or a plain int count >= 1.

    Raises
    ------
    InputError
        Anything else: 0, 1.5, NaN, True, a string.
    """
    if isinstance(keep, Integral) and not isinstance(keep, bool) and int(keep) >= 1:
        return int(keep)
    if isinstance(keep, Real) and not isinstance(keep, Integral) and 0 < float(keep) <= 1:
        return float(keep)
    raise InputError(f"keep must be a ratio in (0, 1] or a count of tokens, such as 0.1 or 64; got {keep!r}")


def budget(keep: float | int, n: int) -> int:
    """Count how many of ``n`` visual tokens to keep.

    Parameters
    ----------
    keep : float or int
        Ratio in (0, 1], or a count.
    n : int
        Number of visual tokens, >= 1.

    Returns
    -------
    int
        ``max(1, floor(keep * n))`` for a ratio (guarded against binary rounding: 0.29 of 100 is 29),
        ``min(keep, n)`` for a count.

    Raises
    ------
    InputError
        ``keep`` is neither a ratio in (0, 1] nor a count >= 1.

    Examples
    --------
    >>> budget(0.29, 100), budget(64, 100), budget(0.001, 100)
    (29, 64, 1)
    """
    keep = check_keep(keep)
    return min(keep, n) if isinstance(keep, int) else max(1, min(share(keep, n), n))


@dataclass
class TokenContext:
    """What a method may look at when it chooses among the visual tokens of one image.

    Attributes
    ----------
    layout : TokenLayout
        Where each of the N tokens lies.
    budget : int
        Tokens to keep, 1 .. N.
    seed : int
        This sample's seed; the same for a sample on any number of processes.
    layer : int
        K, the decoder layer in front of which tokens are dropped. ``attention`` belongs to layer K - 1.
    attention : (H, Q, N) float32 Tensor, optional
        Softmax attention (or the method's other ``score``) of Q query rows.
    features : (N, D) Tensor, optional
        Hidden states entering layer K.
    earlier : mapping of int to Tensor
        Layer index -> the same as ``attention`` of further layers below K - 1, for methods that read some.

    Examples
    --------
    >>> layout = TokenLayout.raster(2, 3, size=(300, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, attention=torch.rand(4, 1, 6))
    >>> ctx.n, ctx.device
    (6, device(type='cpu'))
    """

    layout: TokenLayout
    budget: int
    seed: int = 0
    layer: int = 0
    attention: Tensor | None = None
    features: Tensor | None = None
    earlier: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of visual tokens."""
        return self.layout.n

    @property
    def device(self) -> torch.device:
        """Where the selection is computed: with the tensors, else on the CPU."""
        tensor = self.attention if self.attention is not None else self.features
        return torch.device("cpu") if tensor is None else tensor.device


class ExpectedAttention(Protocol):
    """What methods use of a fitted profile: every :class:`biaslab.profiles.Profile` is one."""

    @property
    def hash(self) -> str:
        """Equal hash, equal scores."""
        ...

    def expected(self, layout: TokenLayout, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Return the (1 or H, N) float32 attention that each visual token is expected to draw in a decoder layer."""
        ...

    def std(self, layout: TokenLayout, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Return the (1 or H, N) float32 standard deviation of the attention between images."""
        ...

    def check(
        self,
        *,
        model: str | None = None,
        revision: str | None = None,
        fingerprint: str | None = None,
        family: str | None = None,
        layer: int | None = None,
        queries: Any = None,
        heads: str | int | None = None,
        layout: TokenLayout | str | None = None,
        prompt: Any = None,
        score: str | None = None,
    ) -> None:
        """Refuse a use the profile was not fitted for; what is None is not compared."""
        ...


@dataclass
class Selection:
    """The kept tokens of one image.

    Attributes
    ----------
    indices : (budget,) int64 Tensor
        Strictly ascending positions among the visual tokens of the image.
    scores : (N,) float32 Tensor or None
        Higher is kept first; None for methods without a score.
    info : dict
        What the method reports about its choice, plain Python values.

    Examples
    --------
    >>> Selection(torch.tensor([0, 4])).info
    {}
    """

    indices: Tensor
    scores: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)


def added_option(default: Any) -> Any:
    """Make the field of an option that came after runs had been recorded.

    `Method.options` leaves it out at its default, so that the hashes of those runs stay.
    """
    return field(default=default, metadata={"added": True})


@dataclass(frozen=True, eq=False, kw_only=True)
class Method(ABC):
    """A rule that keeps ``budget`` of N visual tokens.

    A subclass is a frozen keyword-only dataclass whose fields are its hyper-parameters. It sets ``name`` and
    ``needs`` and overrides `importance` (the best-scored tokens are kept) or :meth:`pick` (any other rule);
    :func:`register` makes it known.

    Parameters
    ----------
    keep : float or int
        Share of the visual tokens in (0, 1], or a count.

    Examples
    --------
    >>> class Last(Method):
    ...     name = "last"
    ...
    ...     def importance(self, ctx):
    ...         return torch.arange(ctx.n).float()
    >>> layout = TokenLayout.raster(2, 3, size=(300, 200), family="toy")
    >>> Last().select(TokenContext(layout, budget=2)).indices
    tensor([4, 5])
    """

    keep: float | int = 0.1

    name: ClassVar[str]
    #: what the engine must provide: a subset of {"attention", "features", "profile"}
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check_keep(self.keep))

    # -- what a method defines -------------------------------------------------------------------------------
    @property
    def needs_layout(self) -> bool:
        """Whether the choice depends on where tokens lie in the image (then a true layout is required)."""
        return False

    def importance(self, ctx: TokenContext) -> Tensor | None:
        """Score the tokens: (N,) float32, or None where the rule is not a ranking."""
        return None

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Choose positions to keep, in any order, and what to report. Default: the best scores, ties by index."""
        return descending(required(scores, "scores"))[: ctx.budget], {}

    def validate(self) -> None:  # noqa: B027 (a hook: most methods have nothing to refuse)
        """Refuse, before any work, a method that cannot run as it is configured."""

    # -- what callers use ------------------------------------------------------------------------------------
    def select(self, ctx: TokenContext) -> Selection:
        """Choose the tokens of one image, in full precision whatever autocast surrounds the call.

        Parameters
        ----------
        ctx : TokenContext

        Returns
        -------
        Selection

        Raises
        ------
        InputError
            The context lacks what the method needs, or its shapes do not fit the layout.
        """
        self.validate()
        self._check(ctx)
        with full_precision():
            scores = self.importance(ctx)
            positions, info = self.pick(ctx, scores)
        return Selection(positions.sort().values, scores, info)

    def with_keep(self, keep: float | int) -> Method:
        """Copy the method, at another keep ratio or count."""
        return dataclasses.replace(self, keep=keep)

    @classmethod
    def option_names(cls) -> list[str]:
        """List the names of the hyper-parameters, ``keep`` first."""
        return [f.name for f in dataclasses.fields(cls) if f.init]

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters as JSON-ready values, without ``keep`` and the profile (reported apart).

        Those that came as an `added_option` are left out at their defaults.
        """
        fields = {f.name: f for f in dataclasses.fields(self) if f.init and f.name not in ("keep", "profile")}
        values = {n: getattr(self, n) for n in fields}
        values = {n: v for n, v in values.items() if v != fields[n].default or "added" not in fields[n].metadata}
        # 1 and 1.0 are the same option
        return {n: float(v) if isinstance(v, Integral) and not isinstance(v, bool) else v for n, v in values.items()}

    @property
    def label(self) -> str:
        """The name, with the options that are not at their defaults, as `parse` reads it."""
        default = {f.name: f.default for f in dataclasses.fields(self)}
        changed = {n: v for n, v in self.options().items() if v != default[n]}
        return ":".join([self.name, *(f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in changed.items())])

    @property
    def options_hash(self) -> str:
        """12 hex digits over the method's name and :meth:`options`; equal on every machine."""
        text = json.dumps([self.name, self.options()], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _check(self, ctx: TokenContext) -> None:
        if not 1 <= ctx.budget <= ctx.n:
            raise InputError(f"budget must be 1 .. {ctx.n} visual tokens, got {ctx.budget}")
        for what in ("attention", "features"):
            tensor = getattr(ctx, what)
            if what not in self.needs:
                continue
            if tensor is None:
                raise InputError(f"method {self.name!r} needs {what}: pass it in the TokenContext")
            axis, ndim = (-1, 3) if what == "attention" else (0, 2)
            if tensor.ndim != ndim or tensor.shape[axis] != ctx.n:
                raise InputError(f"{what} of shape {tuple(tensor.shape)} does not fit {ctx.n} visual tokens")


def required(tensor: Tensor | None, what: str) -> Tensor:
    """Return a tensor that the rule cannot do without: `Method.select` has checked for it, other callers may not have.

    Raises
    ------
    InputError
        It is None.
    """
    if tensor is None:
        raise InputError(f"the method needs {what}: call select() with a TokenContext that holds what it needs")
    return tensor


def descending(scores: Tensor) -> Tensor:
    """Sort positions from the highest to the lowest score, equal scores by position."""
    return torch.sort(scores, descending=True, stable=True).indices


def choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Refuse a value that is not one of ``allowed``."""
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False,
    open_high: bool = False, why: str = "",
) -> None:  # fmt: skip
    """Refuse what is not a finite number between two bounds, either of which may be left out of the range.

    Examples
    --------
    >>> number("sigma", 0, 0, open_low=True)
    Traceback (most recent call last):
    biaslab.errors.InputError: sigma must be a number above 0, got 0
    """
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if fits and low <= value <= high and not (open_low and value == low) and not (open_high and value == high):
        return
    if math.isinf(high):
        span = "that is finite" if math.isinf(low) else f"above {low:g}" if open_low else f"of at least {low:g}"
    else:
        span = f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    raise InputError(f"{name} must be a number {span}, got {value!r}{f': {why}' if why else ''}")
