"""Synthetic attention with a known positional bias: what an estimator should find, and what it should not.

    log attention = content of the image there + planted bias of the position + noise of the token + level of the image

The content is a field on the image, so that neighbouring tokens, and a tile and the thumbnail that show the same
place, see the same thing. Its statistics do not depend on the place: what depends on the place is the bias alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from biaslab.core.frames import FramesLayout, parts_of_frames
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.streamed import StreamedMaps

__all__ = ["BIASES", "Content", "Simulation", "planted_bias", "simulate"]

#: kinds of planted bias
BIASES = ("none", "u-shaped", "bottom-heavy", "tile-ordered")

_CANVAS = 64  # cells along each side of the field that stands for the image
_TOTAL = 0.3  # share of attention the average image draws


@dataclass(frozen=True)
class Content:
    """Statistics of what the images show, in units of log attention.

    Attributes
    ----------
    amplitude : float
        Standard deviation between places of the smooth log-normal field.
    correlation : float
        Its correlation length in shares of the image's side: at that distance the correlation has fallen to 1/e. 0.12
        is about two cells of a 16 x 16 grid.
    target : float
        Log attention added in the middle of the one target object, a Gaussian blob.
    size : float
        Its standard deviation in shares of the image's side; its place is uniform over the image.
    noise : float
        Standard deviation of independent noise of each token.
    level : float
        Standard deviation between images of the level of all their tokens.
    """

    amplitude: float = 0.8
    correlation: float = 0.12
    target: float = 2.0
    size: float = 0.06
    noise: float = 0.3
    level: float = 0.4

    def logs(self, layout: TokenLayout, n: int, rng: np.random.Generator) -> np.ndarray:
        """Log attention of ``n`` images without bias.

        Parameters
        ----------
        layout : TokenLayout
            Of N tokens.
        n : int
            Number of images.
        rng : numpy.random.Generator
            Source of the images.

        Returns
        -------
        ndarray (n, N)
        """
        # frames show other content each, as other images do; the level is the prompt's
        out = np.concatenate([self._of_image(part, n, rng) for part, _ in parts_of_frames(layout)], axis=1)
        return out + self.level * rng.standard_normal((n, 1))

    def _of_image(self, layout: TokenLayout, n: int, rng: np.random.Generator) -> np.ndarray:
        # white noise smoothed with sigma has correlation exp(-d^2 / 4 sigma^2): 1/e at d = 2 sigma
        sigma = self.correlation / 2 * _CANVAS
        field = gaussian_filter(rng.standard_normal((n, _CANVAS, _CANVAS)), (0, sigma, sigma), mode="wrap")
        field *= self.amplitude / max(field.std(), 1e-12)
        x, y = np.clip(layout.centers.T, 0, 1)
        at = np.stack([y, x]) * _CANVAS - 0.5
        out = np.stack([map_coordinates(image, at, order=1, mode="grid-wrap") for image in field])
        # on a torus, as the field is: a blob cut off by the border would make the border draw less
        off = [np.abs(rng.uniform(size=(n, 1)) - c) for c in (x, y)]
        near = sum(np.minimum(d, 1 - d) ** 2 for d in off) / (2 * self.size**2)
        return out + self.target * np.exp(-near) + self.noise * rng.standard_normal(out.shape)


@dataclass(frozen=True)
class Simulation:
    """Maps with a planted bias, and that bias.

    Attributes
    ----------
    maps : StreamedMaps
        Made by :func:`simulate`.
    truth : dict
        Layout key -> (N,) planted log bias, mean 0.
    """

    maps: StreamedMaps
    truth: dict[str, np.ndarray]


def planted_bias(
    kind: str, layout: TokenLayout, *, strength: float = 0.5, trend: str = "end", frames: float = 0.0
) -> np.ndarray:
    """Log bias of each token, mean 0 over the layout.

    Parameters
    ----------
    kind : str
        "none"; "u-shaped": the border ring of each tile and of the thumbnail; "bottom-heavy": linear in the height
        of the place in the image; "tile-ordered": the same gentle slope down every tile, a saturating trend over the
        tiles in reading order, and a thumbnail that draws more than any tile.
    layout : TokenLayout
        Of N tokens.
    strength : float
        Standard deviation over the cells of one tile ("u-shaped"), or over the height of the image ("bottom-heavy");
        of "tile-ordered", a quarter of what separates the first tile from the last of a long image.
    trend : str
        What the place of a tile is counted by in "tile-ordered": tiles after it ("end"), before it ("start"), or the
        share of the tiles passed ("relative").
    frames : float
        Of a layout of frames: log attention added to the very end of the video. It falls as ``exp(-4 d)`` with the
        distance d from there in lengths of the video.

    Returns
    -------
    ndarray (N,)
        In units of log attention.

    Raises
    ------
    InputError
        Unknown kind or trend.

    Examples
    --------
    >>> layout = TokenLayout.raster(4, 1, size=(64, 64), family="toy")
    >>> planted_bias("bottom-heavy", layout, strength=1.0).round(2)
    array([-1.3 , -0.43,  0.43,  1.3 ])
    """
    if kind not in BIASES:
        raise InputError(f"unknown kind of bias {kind!r}: choose one of {', '.join(BIASES)}")
    if trend not in ("start", "end", "relative"):
        raise InputError(f"trend must be 'start', 'end' or 'relative', got {trend!r}")
    grids = np.where(layout.thumbnail[:, None], layout.thumbnail_grid, layout.grid)
    v, u = (2 * (a + 0.5) / g - 1 for a, g in zip((layout.row, layout.col), grids.T, strict=True))
    if kind == "none":
        bias = np.zeros(layout.n)
    elif kind == "u-shaped":
        bias = np.maximum(np.abs(u), np.abs(v)) ** 4 * np.sqrt(45 / 4)  # 1 / its standard deviation over a square
    elif kind == "bottom-heavy":
        bias = (layout.centers[:, 1] - 0.5) * np.sqrt(12)
    else:
        tiles = ~layout.thumbnail
        count = len(np.unique(layout.tile[tiles]))
        order = np.zeros(layout.n)
        order[tiles] = np.unique(layout.tile[tiles], return_inverse=True)[1]
        distance = {"end": count - 1 - order, "start": order, "relative": 6 * (1 - (order + 0.5) / count)}[trend]
        bias = v / 2 + np.where(tiles, 4 * (np.exp(-distance / 3) - 1), 1.5)
    bias = strength * (bias - bias.mean())
    if frames and isinstance(layout, FramesLayout):
        late = frames * np.exp(4 * ((layout.frame + 0.5) / layout.n_frames - 1))
        bias += late - late.mean()
    return bias


def simulate(
    kind: str,
    layouts: Mapping[TokenLayout, int] | list[tuple[TokenLayout, int]],
    *,
    layers: int = 1,
    heads: int = 1,
    seed: int = 0,
    strength: float = 0.5,
    trend: str = "end",
    frames: float = 0.0,
    content: Content | None = None,
    folds: int = 5,
    rotary: Mapping[str, Any] | None = None,
    query_distance: int = 16,
) -> Simulation:
    """Attention maps of images with a planted bias, the same in every layer and head.

    Parameters
    ----------
    kind : str
        Of :func:`planted_bias`.
    layouts : mapping or list of (TokenLayout, int)
        Layouts with their number of images.
    layers, heads : int
        How many; each has content of its own: they are independent repetitions.
    seed : int
        Of the random numbers.
    strength, trend, frames
        Of :func:`planted_bias`.
    content : Content, optional
        Statistics of what the images show.
    folds : int
        Number of cross-fitting folds.
    rotary : mapping, optional
        What the maps say of the model: its rotary embedding, as `rotary_of` gives it. It does not shape the attention.
    query_distance : int
        What the maps say of the prompts, where ``rotary`` is passed: positions from the image to the query.

    Returns
    -------
    Simulation
        Streamed maps and the planted truth. Attention is softmax-like: positive, about 0.3 in sum per image.

    Examples
    --------
    Images whose bottom draws more, and what the mean over 200 of them finds:

    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="toy")
    >>> made = simulate("bottom-heavy", {layout: 200}, strength=1.0)
    >>> made.truth[layout.key].reshape(4, 4).mean(1).round(1)
    array([-1.3, -0.4,  0.4,  1.3])
    >>> made.maps.moments(0, layout.key).log_mean.reshape(4, 4).mean(1).round(1)
    array([-1.3, -0.4,  0.4,  1.3])
    """
    content = content or Content()
    rng = np.random.default_rng(seed)
    settings = {
        "model": "simulated", "revision": None, "queries": "last", "heads": "mean" if heads == 1 else "all",
        "prompt": f"planted {kind}", "score": "attention", "layers": list(range(layers)), "folds": folds,
    }  # fmt: skip
    pairs = list(layouts.items() if isinstance(layouts, Mapping) else layouts)
    of_model = {} if rotary is None else {"rotary": dict(rotary)}
    maps = StreamedMaps({**settings, "family": pairs[0][0].family if pairs else None, **of_model})
    truth = {}
    for layout, n in pairs:
        truth[layout.key] = bias = planted_bias(kind, layout, strength=strength, trend=trend, frames=frames)
        logs = content.logs(layout, n * layers * heads, rng) + bias
        attention = np.exp(logs) * (_TOTAL / np.exp(logs).sum(axis=1).mean())
        for i, image in enumerate(attention.reshape(n, layers, heads, layout.n)):
            name = f"{seed}-{layout.key}-{i}"
            maps.add(ImageRecord(name, layout, name, query_distance if of_model else None), image)
    return Simulation(maps, truth)
