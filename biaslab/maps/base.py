"""Attention rows of many images: what all maps have in common, however they are kept.

Two statistics are kept per layer, layout, head and visual token: the attention itself, and its logarithm
``log(attention + 1e-9)`` centred per image and head (the mean over the image's tokens is taken off), in which
one image's total share of attention and a few huge sinks do not decide. Both over images, in float64, by the
pairwise update of Chan, Golub and LeVeque (1983), which does not cancel.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab._util.notebook import InNotebooks
from biaslab.attention.heads import check_heads
from biaslab.core.layers import resolve_layer
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.moments import Moments

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["IGNORED", "AttentionMaps", "ImageRecord", "fold_of", "picture_of"]

#: settings in which two collections may differ: the rotary embedding is read off the model, which is compared; older
#: collections lack it, and devices round it
IGNORED = frozenset({"loading", "rotary"})

_AGAIN = re.compile(r"#\d+(?=(\[\d+\])?$)")  # what `collect` puts behind an id that comes again


def picture_of(image_id: str) -> str:
    """Tell the image that is shown: an id without what stands behind it where the image comes again.

    Examples
    --------
    >>> picture_of("a.jpg#2"), picture_of("a.jpg"), picture_of("a.jpg#2[1]")
    ('a.jpg', 'a.jpg', 'a.jpg[1]')
    """
    return _AGAIN.sub("", image_id)


def fold_of(image_id: str, folds: int) -> int:
    """Cross-fitting fold of an image: a hash of its id, the same in every run and on every machine.

    An id that comes again ("a.jpg#2") is in the fold of the first: several questions on one image are held out
    together, or a profile would be tested on images that it has seen.

    Parameters
    ----------
    image_id : str
        Id of the image.
    folds : int
        Number of folds.

    Returns
    -------
    int
        In 0 .. folds - 1.

    Examples
    --------
    >>> [fold_of(name, 5) for name in ("a.jpg", "b.jpg", "c.jpg")]
    [1, 0, 1]
    >>> fold_of("b.jpg#2", 5) == fold_of("b.jpg", 5)
    True
    """
    picture = picture_of(image_id)
    return int.from_bytes(hashlib.sha256(picture.encode()).digest()[:8], "big") % folds


@dataclass(frozen=True)
class ImageRecord:
    """What is known of one collected image besides its maps.

    Attributes
    ----------
    id : str
        Name of the image, unique in the maps.
    layout : TokenLayout
        Where its tokens lie.
    digest : str
        Hash of its pixels and prompt.
    query_distance : int or None
        Positions from its last placeholder to the query (several query rows: their mean, rounded); None: not known.
    """

    id: str
    layout: TokenLayout
    digest: str
    query_distance: int | None = None


class AttentionMaps(InNotebooks, ABC):
    """Attention of visual tokens over many images.

    Made by `biaslab.collect`; stored ones are opened by `biaslab.load_maps`.

    Parameters
    ----------
    settings : dict
        Provenance without counts: model, revision, family, queries, heads, prompt, score, layers, folds; rotary
        (of `biaslab.attention.rotary.rotary_of`) if known.

    Attributes
    ----------
    layers : list of int
        Decoder layers.
    folds : int
        Number of cross-fitting folds.
    layouts : dict
        Layout key -> a TokenLayout of that key (images of one key may differ in pixel size).
    n : int
        Number of images.
    failures : list of (image id, reason)
        Images that could not be read in the latest `collect`.

    Raises
    ------
    InputError
        Settings with a value of ``heads`` that is neither "all" nor "mean".

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> scenes = list(bl.load_dataset("scenes", split="test", n=3))
    >>> maps = bl.collect(vlm, scenes, prompt="Where is it?", layers=[3], progress=False)
    >>> isinstance(maps, bl.AttentionMaps), maps
    (True, StreamedMaps(n=3, layers=[3], layouts=['internvl/16x16/tiles1x1']))
    >>> moments = maps.moments(3, "internvl/16x16/tiles1x1")
    >>> moments.n, moments.mean.shape  # heads (here their mean), visual tokens
    (3, (1, 256))
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        check_heads(settings["heads"])
        self.settings = settings
        self.layers: list[int] = list(settings["layers"])
        self.folds: int = int(settings["folds"])
        self.failures: list[tuple[str, str]] = []
        self._reset()

    def _reset(self) -> None:
        self.layouts: dict[str, TokenLayout] = {}
        self.n = 0
        self._n_heads: int | None = None
        self._digest = 0
        self._query_distances: Counter[int] = Counter()

    @property
    def heads(self) -> str | int:
        """The word "mean", or the number of heads."""
        if self.settings["heads"] == "mean":
            return "mean"
        return self._n_heads or 0

    @property
    def provenance(self) -> dict[str, Any]:
        """JSON-ready account of where the maps come from.

        ``calibration`` is a hash of the set of images and prompts that does not depend on their order; ``after``
        (where known) counts the images by `ImageRecord.query_distance`: pairs (positions, images).
        """
        account = {k: v for k, v in self.settings.items() if k != "layers"}
        if self._query_distances:
            account["after"] = [[length, count] for length, count in sorted(self._query_distances.items())]
        return {**account, "n": self.n, "calibration": f"{self._digest:064x}"[:16]}

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n}, layers={self.layers}, layouts={list(self.layouts)})"

    def moments(
        self, layer: int, layout_key: str, *, fold: int | None = None, exclude_fold: int | None = None
    ) -> Moments:
        """Moments over all images of a layout, or over one fold, or over all folds but one.

        Parameters
        ----------
        layer : int
            Decoder layer.
        layout_key : str
            Key of `layouts`.
        fold : int, optional
            The only fold to take.
        exclude_fold : int, optional
            The fold to leave out.

        Returns
        -------
        Moments
            Arrays (H or 1, N).

        Raises
        ------
        InputError
            For a layer, layout or fold the maps do not hold.

        Examples
        --------
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="toy")
        >>> maps = simulate("bottom-heavy", {layout: 50}).maps
        >>> every, rest, left_out = (
        ...     maps.moments(0, layout.key, **only).n for only in ({}, {"exclude_fold": 2}, {"fold": 2})
        ... )
        >>> every == rest + left_out == 50
        True
        """
        resolve_layer(layer, self.layers, "the maps", "collect")
        if layout_key not in self.layouts:
            raise InputError(f"no image of layout {layout_key!r}; there are: {', '.join(self.layouts) or 'none'}")
        for value in (fold, exclude_fold):
            if value is not None and not 0 <= value < self.folds:
                raise InputError(f"fold {value} does not exist: there are folds 0 to {self.folds - 1}")
        folds = [f for f in range(self.folds) if (fold is None or f == fold) and f != exclude_fold]
        total = Moments.empty((self._n_heads or 1, self.layouts[layout_key].n))
        for f in folds:
            part = self._fold_moments(layer, layout_key, f)
            total = total if part is None else total.merge(part)
        return total

    @abstractmethod
    def image(self, index: int, layer: int) -> np.ndarray:
        """Attention of one image, in the order of collection: (H or 1, N) float32."""

    @abstractmethod
    def add(self, record: ImageRecord, attention: np.ndarray) -> None:
        """Append one image.

        Parameters
        ----------
        record : ImageRecord
            The image.
        attention : ndarray (L, H or 1, N)
            Layers in the order of `layers`.

        Raises
        ------
        InputError
            Another number of heads than the images before.
        """

    def add_batch(self, images: Sequence[tuple[ImageRecord, Tensor]]) -> None:
        """Append several images, in order; those that the maps have already (`has`) are left out.

        Parameters
        ----------
        images : sequence of (ImageRecord, Tensor (L, H or 1, N) float32)
            Maps on a device of `device_for`.

        Raises
        ------
        InputError
            Another number of heads than the images before.
        """
        for record, attention in images:
            if not self.has(record.id):
                self.add(record, attention.numpy())

    def device_for(self, device: torch.device) -> torch.device | str:
        """Where `add_batch` takes maps that were computed on ``device``: by default on the CPU."""
        return "cpu"

    @abstractmethod
    def has(self, image_id: str) -> bool:
        """Whether this image is in the maps already and need not be computed."""

    @contextmanager
    def writing(self) -> Iterator[AttentionMaps]:
        """Open the block in which images may be added."""
        yield self

    def checkpoint(self) -> None:
        """Note that a batch is complete: no image is half added."""

    @abstractmethod
    def _fold_moments(self, layer: int, layout_key: str, fold: int) -> Moments | None: ...

    def _expect_heads(self, n_heads: int) -> None:
        if self._n_heads not in (None, n_heads):
            raise InputError(f"maps of {self._n_heads} heads cannot take one of {n_heads}")

    def _count(self, record: ImageRecord, n_heads: int) -> None:
        self._expect_heads(n_heads)
        self._n_heads = n_heads
        self.layouts.setdefault(record.layout.key, record.layout)
        self.n += 1
        if record.query_distance is not None:
            self._query_distances[record.query_distance] += 1
        value = int.from_bytes(hashlib.sha256(record.digest.encode()).digest(), "big")
        self._digest = (self._digest + value) % 2**256  # a sum, so that order does not matter
