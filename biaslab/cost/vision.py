"""FLOPs of vision towers and projectors: the registry, and what several towers share.

A tower is one function, registered under its ``vision_config.model_type`` (or, where a family's projector differs
from that of others with the same tower, under the family's own ``model_type``), in ``towers/`` or in the file of the
model family it belongs to::

    @register_vision("my_vision")
    def _my_tower(config, image):
        return tower_flops, projector_flops
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from biaslab.errors import InputError, UnsupportedError

__all__ = [
    "VISION",
    "Grid",
    "VisionInput",
    "patch_count",
    "plain_vit",
    "register_vision",
    "vision_flops",
    "whole",
]

Grid = tuple[int, int]


@dataclass(frozen=True)
class VisionInput:
    """What a vision tower sees of one image.

    Attributes
    ----------
    tokens : visual tokens the decoder gets, all tiles and the thumbnail (newline placeholders are no visual tokens).
    grid : (rows, cols) of the tokens. Windowed towers (Qwen2.5-VL) read it; without it their windows count as
        full, a few per cent too much attention for sizes that windows do not divide.
    tiles : tiles that go through the tower, thumbnail included. Read where ``tokens`` does not tell, because
        padding is cut away after the tower (LLaVA-NeXT, LLaVA-OneVision); needless where ``size`` is given.
    size : (width, height) of the original image in pixels.
    """

    tokens: int
    grid: Grid | None = None
    tiles: int | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, layout: Any) -> VisionInput:
        """The image of a :class:`~biaslab.core.layout.TokenLayout`."""
        one = layout.tiles == (1, 1) and not layout.thumbnail.any()
        return cls(layout.n, layout.grid if one else None, None, layout.size)


#: config.model_type or config.vision_config.model_type -> function(model_config, image) -> FLOPs of (vision tower,
#: projector)
VISION: dict[str, Callable[[Any, VisionInput], tuple[int, int]]] = {}


def register_vision(*model_types: str) -> Callable:
    """Decorator: make the cost of a vision tower and its projector known by ``vision_config.model_type``, or by
    the ``model_type`` of the whole model, which goes first.
    """

    def add(function: Callable) -> Callable:
        VISION.update(dict.fromkeys(model_types, function))
        return function

    return add


def vision_flops(
    model_config: Any,
    n_visual: int,
    *,
    grid: Grid | None = None,
    tiles: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """(vision tower, projector) for the tiles that make ``n_visual`` tokens; see :class:`VisionInput`.

    Raises
    ------
    InputError
        A number of tokens that no whole number of tiles gives.
    UnsupportedError
        A tower whose cost is not known here.
    """
    whole_model, kind = getattr(model_config, "model_type", None), model_config.vision_config.model_type
    kind = whole_model if whole_model in VISION else kind
    if kind not in VISION:
        raise UnsupportedError(
            f"the cost of a {kind!r} vision tower is not known: known are {', '.join(sorted(VISION))}"
        )
    return VISION[kind](model_config, VisionInput(n_visual, grid, tiles, size))


# -- what towers share -----------------------------------------------------------------------------------------
def plain_vit(v: Any, patches: int, class_token: bool) -> int:
    """FLOPs of one image or tile through a plain ViT with a two-matrix feed-forward block."""
    h, w = _pair(v.patch_size)
    n = patches + class_token
    layer = 4 * n * v.hidden_size**2 + 2 * n**2 * v.hidden_size + 2 * n * v.hidden_size * v.intermediate_size
    return 2 * (patches * v.hidden_size * v.num_channels * h * w + v.num_hidden_layers * layer)


def patch_count(v: Any) -> int:
    """Patches of one tile."""
    return math.prod(i // p for i, p in zip(_pair(v.image_size), _pair(v.patch_size), strict=True))


def whole(n_visual: int, per: int, what: str) -> int:
    """How many tiles of ``per`` tokens make ``n_visual``."""
    if n_visual % per:
        raise InputError(f"{n_visual} visual tokens are not a whole number of {what}s of {per} tokens")
    return n_visual // per


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return height, width
