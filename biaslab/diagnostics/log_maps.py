"""Log maps of single images, and the mean map of each fold: the data of every diagnostic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.moments import centred_log
from biaslab.maps.protocol import Maps
from biaslab.maps.streamed import StreamedMaps

__all__ = ["check_readable", "fold_means", "head_names", "log_stacks", "not_finite"]

_BLOCK_VALUES = 32_000_000  # float64 values held at once: 256 MB


def head_names(maps: Maps) -> list[str]:
    """List the labels of the head axis: "mean", or "0", "1" ..."""
    return ["mean"] if maps.heads == "mean" else [str(h) for h in range(int(maps.heads))]


def check_readable(maps: Any) -> None:
    """Refuse streamed maps, which hold no single images, and maps of no image at all.

    Raises
    ------
    InputError
    """
    if isinstance(maps, StreamedMaps):
        raise InputError("this diagnostic reads single images: collect with out='FOLDER' (fit-bias --maps FOLDER)")
    if maps.n == 0:
        raise InputError("the maps hold no images: collect() over at least one image first")


def not_finite(layer: int) -> InputError:
    """Word the error for attention that is not finite."""
    return InputError(f"attention of layer {layer} is not finite: collect again with the model in another dtype")


def log_stacks(maps: Any, layer: int) -> Iterator[tuple[str, dict[str, tuple[TokenLayout, np.ndarray]]]]:
    """Yield, head by head, every image's log attention, centred per image.

    Parameters
    ----------
    maps : AttentionMaps
        Stored maps.
    layer : int
        Decoder layer.

    Yields
    ------
    head : str
        Label of the head.
    logs : dict of str to (TokenLayout, ndarray)
        Layout key -> layout and (n, N) float64, natural logarithms. As many heads are read at once as
        fit in 256 MB, so that memory does not grow with the number of heads.

    Raises
    ------
    InputError
        Streamed maps, which hold no single images; no images at all; attention that is not finite.
    """
    check_readable(maps)
    names = head_names(maps)
    layouts = [maps.record(i).layout for i in range(maps.n)]
    at_once = max(1, _BLOCK_VALUES // sum(layout.n for layout in layouts))
    for first in range(0, len(names), at_once):
        block = slice(first, first + at_once)
        of_layout: dict[str, list[np.ndarray]] = {}
        for i, layout in enumerate(layouts):
            of_layout.setdefault(layout.key, []).append(centred_log(maps.image(i, layer)[block]))
        stacked = {key: np.stack(images, axis=1) for key, images in of_layout.items()}  # (heads, n, N)
        if not all(np.isfinite(values).all() for values in stacked.values()):
            raise not_finite(layer)
        for h, name in enumerate(names[block]):
            yield name, {key: (maps.layouts[key], values[h]) for key, values in stacked.items()}


def fold_means(maps: Maps, layer: int, log: bool) -> list[list[tuple[TokenLayout, int, np.ndarray]]]:
    """Read the mean map of every fold that has images.

    Parameters
    ----------
    maps : Maps
        Stored or streamed.
    layer : int
        Decoder layer.
    log : bool
        Mean centred log attention in place of mean attention.

    Returns
    -------
    list of list of (TokenLayout, int, ndarray)
        Per fold and layout: the layout, its number of images, the (H, N) float64 map.

    Raises
    ------
    InputError
        No images at all.
    """
    folds = []
    for fold in range(maps.folds):
        layouts = []
        for key, layout in maps.layouts.items():
            m = maps.moments(layer, key, fold=fold)
            if m.n:
                layouts.append((layout, m.n, np.asarray(m.log_mean if log else m.mean, np.float64)))
        if layouts:
            folds.append(layouts)
    if not folds:
        raise InputError("the maps hold no images: collect() over at least one image first")
    return folds
