"""What is kept of a running vision tower, on the tokens that the decoder is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from biaslab.core.layers import resolve_layer, resolve_layers

__all__ = ["TowerShape", "VisionRecord", "VisionRequest", "joined"]


@dataclass(frozen=True)
class TowerShape:
    """What a method may know of a vision tower before it runs.

    Attributes
    ----------
    depth : int
        Blocks.
    class_token : bool
        Whether a CLS token stands in front of the patches.
    full : tuple of int
        Blocks in which a patch sees its whole image (or tile); in the others it sees its window alone.

    Examples
    --------
    >>> clip = TowerShape(24, True, tuple(range(24)))
    >>> clip.layer(-2), clip.layers((8, -1))
    (22, (8, 23))
    >>> TowerShape(32, False, (7, 15, 23, 31)).nearest_full(1 / 3)
    7
    """

    depth: int
    class_token: bool
    full: tuple[int, ...]

    def layer(self, asked: int) -> int:
        """Resolve one block, negative ones counted from the end; others raise `InputError`."""
        return self.layers((asked,))[0]

    def layers(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """Resolve blocks, negative ones counted from the end; others raise `InputError`."""
        return tuple(resolve_layers(asked, self.depth, "the vision tower")) if asked else ()

    def nearest_full(self, share: float) -> int:
        """Find the block with full attention that is nearest to a share of the depth, the lower of two."""
        return min(self.full, key=lambda index: (abs(index - share * self.depth), index))


@dataclass(frozen=True)
class VisionRequest:
    """Which blocks of a vision tower are read, and for what.

    Attributes
    ----------
    cls, received, features, keys : tuple of int
        Blocks, as the fields of :class:`VisionRecord`; negative ones count from the end.

    Examples
    --------
    >>> both = VisionRequest(cls=(-2,)) | VisionRequest(cls=(22,), features=(22,))
    >>> both.resolved(TowerShape(24, True, tuple(range(24))))
    VisionRequest(cls=(22,), received=(), features=(22,), keys=())
    """

    cls: tuple[int, ...] = ()
    received: tuple[int, ...] = ()
    features: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()

    def __or__(self, other: VisionRequest) -> VisionRequest:
        """Ask for what either asks for."""
        each = {f.name: (*getattr(self, f.name), *getattr(other, f.name)) for f in fields(self)}
        return VisionRequest(**{name: tuple(dict.fromkeys(layers)) for name, layers in each.items()})

    def resolved(self, tower: TowerShape) -> VisionRequest:
        """Count negative blocks from the end; one the tower does not have raises `InputError`."""
        return VisionRequest(**{f.name: tower.layers(getattr(self, f.name)) for f in fields(self)})


_NOTHING: Mapping[int, Tensor] = {}


@dataclass(frozen=True, eq=False)
class VisionRecord:
    """What the vision tower has shown of one image, on its N decoder tokens.

    Where several patches make a token, each value is the mean over them; where the model scales its raster of patches
    down (LLaVA-OneVision beyond 9 tiles), values are scaled as features are, by bilinear interpolation.

    Attributes
    ----------
    tower : TowerShape
    cls : mapping of int to (H, N) float32 Tensor, or None
        Block -> softmax attention of the CLS token, per head, over all tokens of its tile; None where the tower has no
        CLS token.
    received : mapping of int to (N,) float32 Tensor
        Block -> attention that a patch receives, averaged over heads and over all queries of its sequence: the tile,
        the CLS token among them; the image; or, in a block with windows, the window.
    features : mapping of int to (N, D) float32 Tensor
        Block -> its output.
    keys : mapping of int to (N, H * D) float32 Tensor
        Block -> the keys of all heads, after rotary embedding where the tower has one.

    Examples
    --------
    >>> import torch
    >>> shape = TowerShape(24, True, tuple(range(24)))
    >>> record = VisionRecord(shape, cls={22: torch.tensor([[0.1, 0.6, 0.2]])}, received={22: torch.rand(3)})
    >>> record.n, record.saliency(-2)
    (3, tensor([0.1000, 0.6000, 0.2000]))
    >>> record.at(torch.tensor([1, 2])).saliency(22)
    tensor([0.6000, 0.2000])
    """

    tower: TowerShape
    cls: Mapping[int, Tensor] | None = None
    received: Mapping[int, Tensor] = field(default_factory=lambda: _NOTHING)
    features: Mapping[int, Tensor] = field(default_factory=lambda: _NOTHING)
    keys: Mapping[int, Tensor] = field(default_factory=lambda: _NOTHING)

    @property
    def n(self) -> int:
        """N; 0 of an empty record."""
        return next((each.shape[-1] if name in ("cls", "received") else len(each) for name, each in self._each()), 0)

    @property
    def device(self):
        """Where the tensors lie; None of an empty record."""
        return next((each.device for _, each in self._each()), None)

    def saliency(self, layer: int) -> Tensor:
        """Mean attention of the CLS token in a block, or, of a tower without one, the attention received: (N,).

        Raises
        ------
        InputError
            A block that has not been recorded.
        """
        layer = self.tower.layer(layer)
        if self.cls is not None:
            return self.cls[resolve_layer(layer, self.cls, "the vision record")].mean(0)
        return self.received[resolve_layer(layer, self.received, "the vision record")]

    def holds(self, request: VisionRequest) -> bool:
        """Whether everything that is asked for (blocks as `VisionRequest.resolved` gives them) has been recorded."""
        asked = ((getattr(self, f.name), getattr(request, f.name)) for f in fields(request))
        return all(held is None or set(layers) <= set(held) for held, layers in asked)

    def at(self, index: Tensor) -> VisionRecord:
        """Keep some of the tokens, (M,) int64, in that order."""
        return self._changed(lambda name, x: x.index_select(1 if name == "cls" else 0, index.to(x.device)))

    def to(self, device) -> VisionRecord:
        """Move it to a device."""
        return self._changed(lambda name, x: x.to(device))

    def _each(self):
        for name in ("cls", "received", "features", "keys"):
            yield from ((name, each) for each in (getattr(self, name) or _NOTHING).values())

    def _changed(self, change) -> VisionRecord:
        def of(name: str):
            held = getattr(self, name)
            return None if held is None else {layer: change(name, x) for layer, x in held.items()}

        return VisionRecord(self.tower, of("cls"), of("received"), of("features"), of("keys"))


def joined(records: Sequence[VisionRecord]) -> VisionRecord:
    """Put the tokens of several images of a prompt in one record, image after image.

    Examples
    --------
    >>> shape = TowerShape(1, False, (0,))
    >>> one, two = (VisionRecord(shape, received={0: torch.full((n,), n / 10)}) for n in (1, 2))
    >>> joined([one, two]).received[0]
    tensor([0.1000, 0.2000, 0.2000])
    """
    if len(records) == 1:
        return records[0]

    def of(name: str):
        parts = [getattr(record, name) for record in records]
        if parts[0] is None:
            return None
        return {layer: torch.cat([part[layer] for part in parts], 1 if name == "cls" else 0) for layer in parts[0]}

    return VisionRecord(records[0].tower, of("cls"), of("received"), of("features"), of("keys"))
