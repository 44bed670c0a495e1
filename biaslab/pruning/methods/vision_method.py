"""What the methods that rank tokens by the vision tower share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from biaslab.attention.vision_record import TowerShape, VisionRecord, VisionRequest
from biaslab.errors import InputError
from biaslab.pruning.base import Method, TokenContext

__all__ = ["ReadsTower", "VisionMethod", "shown_of"]


@runtime_checkable
class ReadsTower(Protocol):
    """A method that tells which blocks of the vision tower it reads."""

    name: str

    def reads(self, tower: TowerShape) -> VisionRequest:
        """Tell what is read of a tower of this shape."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class VisionMethod(Method):
    """A method that reads what the vision tower shows of the image; the question has no say in it.

    Unless a layer is given it drops tokens before the decoder, or before the first layer that the model allows
    (Qwen3-VL: behind DeepStack; PaliGemma: 1). Blocks of the tower count from 0, negative ones from the end.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> class Salient(VisionMethod):
    ...     name = "salient"
    ...
    ...     def reads(self, tower):
    ...         return self.salient(tower, -1)
    ...
    ...     def importance(self, ctx):
    ...         return self.record(ctx).saliency(-1)
    >>> tower = TowerShape(depth=2, class_token=False, full=(0, 1))
    >>> Salient().reads(tower)
    VisionRequest(cls=(), received=(-1,), features=(), keys=())
    >>> record = VisionRecord(tower, received={1: torch.tensor([0.1, 0.4, 0.2, 0.3])})
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=2, vision=record)
    >>> Salient().select(ctx).indices
    tensor([1, 3])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"vision"})
    before_decoder: ClassVar[bool] = True

    @abstractmethod
    def reads(self, tower: TowerShape) -> VisionRequest:
        """Tell what is read of a tower of this shape.

        Raises
        ------
        InputError
            A block that the tower does not have.
        """

    @staticmethod
    def salient(tower: TowerShape, layer: int) -> VisionRequest:
        """Ask for what `VisionRecord.saliency` reads: the CLS row, or, of a tower without one, received attention."""
        return VisionRequest(cls=(layer,)) if tower.class_token else VisionRequest(received=(layer,))

    def record(self, ctx: TokenContext) -> VisionRecord:
        """Return the record of an image.

        Raises
        ------
        InputError
            There is none.
        """
        return shown_of(ctx, self.name)


def shown_of(ctx: TokenContext, name: str) -> VisionRecord:
    """Return the record of an image for the method of a name; there being none raises `InputError`."""
    if ctx.vision is None:
        raise InputError(f"method {name!r} needs vision: pass it in the TokenContext")
    return ctx.vision
