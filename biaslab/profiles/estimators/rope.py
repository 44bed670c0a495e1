"""The shape that rotary embedding alone gives to attention: the analytic prior of SparseVLM v2 (arXiv 2410.04417)."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from biaslab.attention.rotary import ones_logits
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.profiles.estimators.logspace import LogProfile
from biaslab.profiles.parts import Part
from biaslab.profiles.registry import Arrays, register

__all__ = ["RopeProfile"]


@register
class RopeProfile(LogProfile):
    """Log attention is ``scale * b``, b being the logits of queries and keys that are all ones, turned by the model.

    With the rotary embedding's frequencies theta_j, head width d and distance D from a token to the query,

        b = d^(-1/2) * sum_j 2 cos(theta_j * D),

    times the square of the embedding's own scaling where it has one (YaRN). Under M-RoPE each pair of components
    counts D on its own axis: time, row or column. SparseVLM v2 divides attention by this curve, which may come near
    zero or below it; taken off the logits it divides attention by ``exp(scale * b)``, which is always positive.

    b depends on the query: it is averaged over the distances from image to query in the calibration prompts, where
    several query rows count as one at their mean distance. It knows neither image nor weights, so it transports to
    any layout of the same model. Positions count placeholders of the image, newlines included; text that stands
    between tiles (Idefics3 announces every tile) is not counted, so there the distances of all tiles but the last
    are too short, by the few tokens that announce the tiles after them.

    Parameters
    ----------
    scale : "fit" or float
        "fit", for every layer and head the least-squares slope of centred log attention on centred b, over all layouts
        together (each has its own level); or a number for all. 1.0 is the analytic prior as it stands.

    Raises
    ------
    InputError
        In fitting: a scale that is neither, or maps that do not say how the model turns positions.

    References
    ----------
    SparseVLM v2, arXiv 2410.04417.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import RopeProfile
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> rotary = {"inv_freq": [0.1, 0.01], "axes": None, "scaling": 0.5, "attention_scaling": 1.0}
    >>> maps = simulate("none", {layout: 20}, rotary=rotary).maps
    >>> expected = RopeProfile(scale=1.0).fit(maps).predict(layout)
    >>> (expected / expected.mean()).reshape(4, 4).mean(axis=1).round(1)  # nearer to the query: more
    array([0.7, 0.8, 1. , 1.5], dtype=float32)
    """

    name = "rope"
    transports = frozenset({"layout"})

    def __init__(self, *, scale: str | float = "fit") -> None:
        self.scale = scale

    @classmethod
    def refuses(cls, provenance: Mapping[str, Any]) -> str | None:
        """Refuse maps of decoders without (one) rotary embedding, and maps collected before it was recorded."""
        if provenance.get("rotary") and provenance.get("after"):
            return None
        missing = "how far the query is from the image" if provenance.get("rotary") else "the model's rotary embedding"
        return f"'rope' needs {missing}, which these maps do not tell: collect them again, or use 'exponential'"

    def _learn(self, parts: list[Part]) -> Arrays:
        fixed = not (isinstance(self.scale, str) and self.scale == "fit")
        if fixed and (isinstance(self.scale, bool) or not isinstance(self.scale, Real) or not np.isfinite(self.scale)):
            raise InputError(f"scale must be 'fit' or a finite number, got {self.scale!r}: 1.0 is the prior unfitted")
        if reason := self.refuses(parts[0].provenance):
            raise InputError(reason)
        arrays = _constants(parts[0].provenance)
        along = [_logits(arrays, p.layout) for p in parts]
        if fixed:
            scale = np.full(len(parts[0].mean), float(self.scale))
        else:
            squares = sum(p.n * (x**2).sum() for p, x in zip(parts, along, strict=True))
            products = sum(p.n * (p.mean @ x) for p, x in zip(parts, along, strict=True))
            scale = products / squares if squares > 0 else np.zeros_like(products)
        return {**arrays, "curve": {"scale": scale}}

    def _log(self, arrays: Arrays, layout: TokenLayout) -> np.ndarray | None:
        return arrays["curve"]["scale"][:, None].astype(np.float64) * _logits(arrays, layout)


def _constants(provenance: Mapping[str, Any]) -> Arrays:
    """Read what the logits need from the maps' provenance; kept with the profile, which then needs no model."""
    rotary = provenance["rotary"]
    inv_freq = np.asarray(rotary["inv_freq"], np.float64)
    axes = np.full(len(inv_freq), -1.0) if rotary["axes"] is None else np.asarray(rotary["axes"], np.float64)
    after, counts = np.asarray(provenance["after"], np.float64).T
    factor = np.array([rotary["scaling"] * rotary["attention_scaling"] ** 2])
    return {
        "rotary": {"inv_freq": inv_freq, "axes": axes, "factor": factor},
        "query": {"after": after, "share": counts / counts.sum()},
    }


def _logits(arrays: Arrays, layout: TokenLayout) -> np.ndarray:
    """(N,) logits of all-ones queries and keys, mean taken off."""
    rotary, query = ({k: v.astype(np.float64) for k, v in arrays[part].items()} for part in ("rotary", "query"))
    b = rotary["factor"] * ones_logits(
        layout, inv_freq=rotary["inv_freq"], axes=rotary["axes"], query_distance=query["after"], shares=query["share"]
    )
    return b - b.mean()
