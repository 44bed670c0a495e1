"""What readers of maps may rely on, whatever keeps the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from biaslab.core.layout import TokenLayout
from biaslab.maps.moments import Moments

__all__ = ["Maps"]


class Maps(Protocol):
    """Moments of the attention of many images: all that profiles and most diagnostics read.

    Every :class:`~biaslab.maps.base.AttentionMaps` is one.

    Attributes
    ----------
    layers : decoder layers held.
    folds : number of cross-fitting folds.
    layouts : layout key -> a layout of that key.
    heads : "mean", or the number of heads.
    provenance : JSON-ready account of where the maps come from.
    n : images.
    """

    @property
    def layers(self) -> Sequence[int]: ...

    @property
    def folds(self) -> int: ...

    @property
    def layouts(self) -> Mapping[str, TokenLayout]: ...

    @property
    def heads(self) -> str | int: ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    @property
    def n(self) -> int: ...

    def moments(
        self, layer: int, layout_key: str, *, fold: int | None = None, exclude_fold: int | None = None
    ) -> Moments:
        """Moments over all images of a layout, or over one fold, or over all folds but one."""
        ...
