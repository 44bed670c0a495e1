"""Maps of a model whose bias is known."""

import numpy as np
from scipy import ndimage

from biaslab.core.layout import TokenLayout
from biaslab.maps.base import ImageRecord
from biaslab.maps.stored import StoredMaps
from biaslab.maps.streamed import StreamedMaps

ONE = TokenLayout.raster(8, 8, size=(64, 64), family="internvl")


TILED = TokenLayout.tiled(1, 3, (4, 4), size=(96, 32), family="internvl", thumbnail=True)


SETTINGS = {"layers": [2], "folds": 5, "heads": "mean", "model": "m", "family": "f", "prompt": "p", "queries": "last"}


def content(rng, layout, smooth=0.0):
    """Log-normal content of one head, spatially correlated in every tile."""
    out = np.empty(layout.n)
    for t in np.unique(layout.tile):
        at = layout.tile == t
        field = rng.standard_normal(layout.grid)
        field = ndimage.gaussian_filter(field, smooth, mode="wrap") if smooth else field
        out[at] = (field / field.std())[layout.row[at], layout.col[at]]
    return out


def planted(tmp_path, layouts, bias=lambda layout: 0.0, smooth=0.0, seed=0, heads=1, name="maps", layers=(2,)):
    """Stored maps whose log attention is content + bias + an image's level."""
    rng = np.random.default_rng(seed)
    chosen = "mean" if heads == 1 else "all"
    maps = StoredMaps.create(tmp_path / name, {**SETTINGS, "heads": chosen, "layers": list(layers)})
    with maps.writing():
        for k, (layout, n) in enumerate(layouts):
            for i in range(n):
                logs = np.stack([content(rng, layout, smooth) + bias(layout) for _ in range(heads)])
                values = np.exp(logs + rng.normal() - 8)[None].repeat(len(layers), 0)
                maps.add(ImageRecord(f"{k}-{i}", layout, f"{k}-{i}"), values.astype(np.float32))
    return maps


def streamed(stored):
    """The same images as moments only."""
    out = StreamedMaps(stored.settings)
    for i in range(stored.n):
        out.add(stored.record(i), np.stack([stored.image(i, layer) for layer in stored.layers]))
    return out


def u_shape(layout):
    return 0.6 * np.abs(layout.row - (layout.grid[0] - 1) / 2)
