"""What a pruning method looks at, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from biaslab._util.notebook import InNotebooks
from biaslab._util.one_line import OneLine
from biaslab.attention.vision_record import VisionRecord
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.core.seen import SeenImage

__all__ = ["ExpectedAttention", "FittedProfile", "Rotary", "Selection", "TokenContext", "descending", "required"]


class Rotary(NamedTuple):
    """What turns the queries and keys of an image's tokens.

    Attributes
    ----------
    theta : (J,) float32 Tensor
        Radians per position, fastest first.
    positions : (A, N) int64 Tensor
        Absolute position of every token on each axis: one, or the time, height and width of M-RoPE.
    """

    theta: Tensor
    positions: Tensor


@dataclass(repr=False)
class TokenContext(OneLine):
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
        K, the decoder layer in front of which tokens are dropped. ``attention`` belongs to the layer that the method
        reads (`Method.layer_read`): K - 1, or K itself.
    attention : (H, Q, N) float32 Tensor, optional
        Softmax attention (or the method's other ``score``) of Q query rows.
    features : (N, D) Tensor, optional
        Hidden states entering layer K.
    text : (T, D) Tensor, optional
        Hidden states entering layer K of the tokens behind the image: the question, and what the template puts there.
    earlier : mapping of int to Tensor
        Layer index -> the same as ``attention`` of further layers below K - 1, for methods that read some.
    survivors : (N,) int64 Tensor, optional
        Where an earlier stage of a schedule has dropped tokens: positions of these N among all of the image, ascending.
        ``layout`` is theirs.
    original : TokenLayout, optional
        Then the layout of all tokens of the image: what a map over positions is to be evaluated on.
    other_rows : mapping of str or tuple of int to Tensor
        Kind of query rows -> the same as ``attention`` of them, for methods that read more than one kind.
    keys, values : (Hkv, N, d) Tensor, optional
        Of the visual tokens at the layer read, keys after rotary embedding, as they stand in the KV cache.
    text_keys, text_values : (Hkv, T, d) Tensor, optional
        The same of the tokens of ``text``.
    embeddings : (N, D) Tensor, optional
        What the decoder is given for the visual tokens.
    text_embeddings : (T, D) Tensor, optional
        The same of the tokens of ``text``.
    rotary : Rotary, optional
        Frequencies and positions of the visual tokens.
    prompt : int
        Which prompt of the batch the image belongs to: those of several images share a number.
    vision : VisionRecord, optional
        What the vision tower has shown of these tokens.

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
    text: Tensor | None = None
    survivors: Tensor | None = None
    original: TokenLayout | None = None
    other_rows: Mapping[Any, Tensor] = field(default_factory=dict)
    keys: Tensor | None = None
    values: Tensor | None = None
    text_keys: Tensor | None = None
    text_values: Tensor | None = None
    embeddings: Tensor | None = None
    text_embeddings: Tensor | None = None
    rotary: Rotary | None = None
    prompt: int = 0
    vision: VisionRecord | None = None

    @property
    def n(self) -> int:
        """Number of visual tokens."""
        return self.layout.n

    @property
    def device(self) -> torch.device:
        """Where the selection is computed: with the tensors, else on the CPU."""
        tensors = (self.attention, self.features, self.keys, self.values, self.embeddings, self.survivors)
        known = (tensor.device for tensor in (*tensors, self.vision) if tensor is not None)
        return next((device for device in known if device is not None), torch.device("cpu"))

    @property
    def whole_layout(self) -> TokenLayout:
        """Layout of all tokens of the image, those that an earlier stage has dropped included."""
        return self.layout if self.original is None else self.original

    def left(self, values: Tensor) -> Tensor:
        """Take of a map over all tokens of the image, (..., all), what belongs to those that are left: (..., N).

        Examples
        --------
        >>> whole = TokenLayout.raster(1, 4, size=(4, 1), family="toy")
        >>> some = TokenLayout.raster(1, 2, size=(2, 1), family="toy")
        >>> TokenContext(some, 1, survivors=torch.tensor([0, 3]), original=whole).left(torch.tensor([5, 6, 7, 8]))
        tensor([5, 8])
        """
        return values if self.survivors is None else values[..., self.survivors.to(values.device)]


class FittedProfile(Protocol):
    """What is asked of any fitted profile: its hash, and whether it serves a use."""

    @property
    def hash(self) -> str:
        """Equal hash, equal scores."""
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


class ExpectedAttention(FittedProfile, Protocol):
    """What methods use of a positional profile: every :class:`biaslab.profiles.Profile` is one."""

    def expected(self, layout: TokenLayout, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Return the (1 or H, N) float32 attention that each visual token is expected to draw in a decoder layer."""
        ...

    def std(self, layout: TokenLayout, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Return the (1 or H, N) float32 standard deviation of the attention between images."""
        ...


@dataclass(repr=False)
class Selection(InNotebooks):
    """The kept tokens of one image.

    Attributes
    ----------
    indices : (budget,) int64 Tensor
        Strictly ascending positions among the visual tokens of the image.
    scores : (N,) float32 Tensor or None
        Higher is kept first; None for methods without a score.
    info : dict
        What the method reports about its choice, plain Python values. A list under a name that ends in ``_indices``
        holds positions as ``indices`` does.
    merge : (budget, N) Tensor or None
        Weights of all tokens in the state that each kept one goes on with, not negative, as a rule of sum 1 in each
        row; None where kept tokens go on as they are.
    seen : SeenImage or None
        The image, for drawing; None where it is not known.

    Examples
    --------
    >>> Selection(torch.tensor([0, 4])).info
    {}
    """

    indices: Tensor
    scores: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)
    merge: Tensor | None = None
    seen: SeenImage | None = field(default=None, compare=False)

    @property
    def total(self) -> int | None:
        """How many visual tokens the image has; None where nothing here tells."""
        if self.seen is not None:
            return self.seen.layout.n
        if self.scores is not None:
            return len(self.scores)
        return None if self.merge is None else self.merge.shape[1]

    def __repr__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        return f"Selection(kept {len(self.indices)}{of}{', merged' * (self.merge is not None)})"

    @property
    def sizes(self) -> Tensor:
        """(budget,) int64: how many tokens each kept one stands for.

        Examples
        --------
        >>> Selection(torch.tensor([0, 2]), merge=torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]])).sizes
        tensor([1, 2])
        """
        return torch.ones_like(self.indices) if self.merge is None else (self.merge > 0).sum(1)


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
