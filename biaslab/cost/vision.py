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
    tokens : int
        Visual tokens the decoder gets, all tiles and the thumbnail (newline placeholders are no visual tokens).
    grid : (rows, cols) of int, optional
        Raster of the tokens. Windowed towers (Qwen2.5-VL) read it; without it their windows count as full, a few
        per cent too much attention for sizes that windows do not divide.
    tiles : int, optional
        Tiles that go through the tower, thumbnail included. Read where ``tokens`` does not tell, because padding is
        cut away after the tower (LLaVA-NeXT, LLaVA-OneVision); needless where ``size`` is given.
    size : (width, height) of int, optional
        Of the original image, pixels.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.cost import VisionInput
    >>> VisionInput.of(TokenLayout.raster(12, 16, size=(640, 480), family="qwen2_vl"))
    VisionInput(tokens=192, grid=(12, 16), tiles=None, size=(640, 480))
    """

    tokens: int
    grid: Grid | None = None
    tiles: int | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, layout: Any) -> VisionInput:
        """Describe the image of a token layout.

        Parameters
        ----------
        layout : biaslab.core.layout.TokenLayout
        """
        single = layout.tiles == (1, 1) and not layout.thumbnail.any()
        return cls(layout.n, layout.grid if single else None, None, layout.size)


#: config.model_type or config.vision_config.model_type -> function(model_config, image) -> FLOPs of (vision tower,
#: projector)
VISION: dict[str, Callable[[Any, VisionInput], tuple[int, int]]] = {}


def register_vision(*model_types: str) -> Callable:
    """Make the cost of a vision tower and its projector known; a decorator.

    Parameters
    ----------
    *model_types : str
        Values of ``vision_config.model_type``, or of the ``model_type`` of the whole model, which goes first.

    Returns
    -------
    callable
        Decorator of a function ``(model_config, image) -> (tower_flops, projector_flops)``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from biaslab.cost import VISION, register_vision, vision_flops
    >>> @register_vision("my_vision")
    ... def _my_tower(config, image):
    ...     return 1000 * image.tokens, 10 * image.tokens
    >>> vision_flops(SimpleNamespace(vision_config=SimpleNamespace(model_type="my_vision")), 64)
    (64000, 640)
    >>> _ = VISION.pop("my_vision")
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
    """Count the FLOPs of encoding the tiles that make ``n_visual`` tokens.

    Parameters
    ----------
    model_config : PretrainedConfig
        The model's configuration.
    n_visual : int
        Visual tokens of the image.
    grid, tiles, size
        See :class:`VisionInput`.

    Returns
    -------
    tower, projector : int

    Raises
    ------
    InputError
        A number of tokens that no whole number of tiles gives.
    UnsupportedError
        A tower whose cost is not known here.

    Examples
    --------
    >>> from biaslab.cost import vision_flops
    >>> from biaslab.models.offline.geometry import geometry
    >>> vision_flops(geometry("llava-1.5-7b").config, 576)
    (381918216192, 24159191040)
    """
    model_type, tower = getattr(model_config, "model_type", None), model_config.vision_config.model_type
    key = model_type if model_type in VISION else tower
    if key not in VISION:
        raise UnsupportedError(
            f"the cost of a {key!r} vision tower is not known: known are {', '.join(sorted(VISION))}"
        )
    return VISION[key](model_config, VisionInput(n_visual, grid, tiles, size))


# -- what towers share -----------------------------------------------------------------------------------------
def plain_vit(v: Any, patches: int, class_token: bool) -> int:
    """Count the FLOPs of one image or tile through a plain ViT with a two-matrix feed-forward block."""
    h, w = _pair(v.patch_size)
    n = patches + class_token
    layer = 4 * n * v.hidden_size**2 + 2 * n**2 * v.hidden_size + 2 * n * v.hidden_size * v.intermediate_size
    return 2 * (patches * v.hidden_size * v.num_channels * h * w + v.num_hidden_layers * layer)


def patch_count(v: Any) -> int:
    """Count the patches of one tile."""
    return math.prod(i // p for i, p in zip(_pair(v.image_size), _pair(v.patch_size), strict=True))


def whole(n_visual: int, per: int, what: str) -> int:
    """Count the tiles of ``per`` tokens that make ``n_visual``."""
    if n_visual % per:
        raise InputError(f"{n_visual} visual tokens are not a whole number of {what}s of {per} tokens")
    return n_visual // per


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return height, width
