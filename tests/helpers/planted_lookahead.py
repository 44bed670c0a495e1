"""Maps in which attention is planted: what a token looks like meets what the question asks for, times a place."""

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.maps.base import ImageRecord
from biaslab.maps.stored import StoredMaps

LAYOUT = TokenLayout.raster(7, 9, size=(90, 70), family="toy")
WIDE = TokenLayout.tiled(1, 2, (5, 5), size=(100, 50), family="toy", thumbnail=True)
KINDS, WIDTH = 5, 12
SETTINGS = {
    "model": "toy", "revision": "0", "fingerprint": None, "family": "toy", "queries": "last", "heads": "all",
    "score": "attention", "prompt": "one per image", "image_options": {}, "layers": [1, 3], "folds": 5,
    "features": {"layer": 0, "width": WIDTH},
}  # fmt: skip


def words():
    """(2, KINDS, WIDTH) what each kind is called in a question, and what it looks like."""
    rng = np.random.default_rng(11)
    return rng.normal(size=(2, KINDS, WIDTH))


def bias(layout):
    """(N,) log attention that a place draws whatever it shows: more at the bottom."""
    return 1.5 * layout.centers[:, 1]


def image(rng, layout):
    """Return kinds (N,) in blobs of objects on a background, and features (N, WIDTH)."""
    _, looks = words()
    kinds = np.zeros(layout.n, dtype=int)
    for kind in rng.permutation(np.arange(1, KINDS))[:3]:
        centre = rng.uniform(0.1, 0.9, 2)
        kinds[((layout.centers - centre) ** 2).sum(1) < 0.02] = kind
    return kinds, looks[kinds] + 0.3 * rng.normal(size=(layout.n, WIDTH))


def stored(folder, n=150, questions=2, seed=0, layouts=(LAYOUT,), position=1.0):
    """Maps of 2 layers of 2 heads: (3, 1) looks at what is asked for, biased by position; the others at nothing."""
    rng = np.random.default_rng(seed)
    asked, _ = words()
    maps = StoredMaps.create(folder, SETTINGS)
    with maps.writing():
        for i in range(n):
            layout = layouts[i % len(layouts)]
            kinds, visual = image(rng, layout)
            there = [k for k in np.unique(kinds) if k] or [1]
            for q in range(questions):
                kind = rng.choice(there)
                filler = rng.normal(size=(int(rng.integers(1, 4)), WIDTH))
                text = np.concatenate([filler, asked[kind][None], filler[:1]])
                log = 3.0 * (kinds == kind) + position * bias(layout) + 0.2 * rng.normal(size=layout.n)
                looks = np.exp(log) / np.exp(log).sum() * 0.6
                even = np.exp(0.2 * rng.normal(size=(3, layout.n)))
                even *= 0.5 / even.sum(1, keepdims=True)
                name = f"s{seed}-{i}-{q}"
                maps.features.add(name, f"s{seed}-{i}", visual, text)
                attention = np.stack([even[:2], np.stack([even[2], looks])]).astype(np.float32)
                maps.add(ImageRecord(name, layout, name), attention)
    return maps
