"""What readers of maps may rely on, whatever keeps the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.moments import Moments

if TYPE_CHECKING:
    from biaslab.maps.base import ImageRecord

__all__ = ["Maps", "ReadableMaps", "expect_maps"]


class Maps(Protocol):
    """Moments of the attention of many images: all that profiles and most diagnostics read.

    Every :class:`~biaslab.maps.base.AttentionMaps` is one.
    """

    @property
    def layers(self) -> Sequence[int]:
        """Decoder layers."""
        ...

    @property
    def folds(self) -> int:
        """Number of cross-fitting folds."""
        ...

    @property
    def layouts(self) -> Mapping[str, TokenLayout]:
        """Layout key -> a layout of that key."""
        ...

    @property
    def heads(self) -> str | int:
        """The word "mean", or the number of heads."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """JSON-ready account of where the maps come from."""
        ...

    @property
    def n(self) -> int:
        """Number of images."""
        ...

    def moments(
        self, layer: int, layout_key: str, *, fold: int | None = None, exclude_fold: int | None = None
    ) -> Moments:
        """Moments over all images of a layout, or over one fold, or over all folds but one."""
        ...


class ReadableMaps(Maps, Protocol):
    """Maps whose images can be read one by one: stored ones, and views of them."""

    def record(self, index: int) -> ImageRecord:
        """Id and layout of one image."""
        ...

    def image(self, index: int, layer: int) -> np.ndarray:
        """Attention of one image: (H or 1, N) float32."""
        ...


def expect_maps(value: Any) -> None:
    """Refuse what is no attention maps.

    Raises
    ------
    InputError
        None, an array, a folder, ...; the message says where maps come from.

    Examples
    --------
    >>> expect_maps("maps/")
    Traceback (most recent call last):
    biaslab.errors.InputError: maps must be attention maps of bl.collect or bl.load_maps, got str
    """
    if not hasattr(value, "moments"):
        raise InputError(f"maps must be attention maps of bl.collect or bl.load_maps, got {type(value).__name__}")
