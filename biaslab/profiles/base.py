"""What every profile estimator shares: fitting over layers and layouts, the hot-path cache, provenance and
refusal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from biaslab.errors import InputError, ProfileMismatchError
from biaslab.layout import TokenLayout

from .provenance import plain, refuse_others, version, warn_other_prompt

__all__ = ["ESTIMATORS", "Arrays", "Part", "Profile", "make", "register"]

logger = logging.getLogger(__name__)

#: arrays of one layer: part (a layout key, or an estimator's own word) -> name -> array
Arrays = dict[str, dict[str, np.ndarray]]

#: estimator name -> class
ESTIMATORS: dict[str, type[Profile]] = {}

_CACHED_MAPS = 64  # models of free resolution meet hundreds of layouts: keep only the latest maps


class Part(NamedTuple):
    """Moments of the images that share one layout, in float64."""

    layout: TokenLayout
    n: int
    mean: np.ndarray  # (H or 1, N)
    var: np.ndarray  # (H or 1, N), population variance between images


def register(cls: type[Profile]) -> type[Profile]:
    """Class decorator: make an estimator known by its ``name``."""
    ESTIMATORS[cls.name] = cls
    return cls


def make(name: str, **params: Any) -> Profile:
    """A fresh estimator by name.

    Raises
    ------
    InputError
        Unknown name or parameter.
    """
    if name not in ESTIMATORS:
        raise InputError(f"unknown profile estimator {name!r}: choose one of {', '.join(sorted(ESTIMATORS))}")
    try:
        return ESTIMATORS[name](**params)
    except TypeError as err:
        raise InputError(f"estimator {name!r}: {err}") from None


class Profile(BaseEstimator, ABC):
    """Expected attention of each visual position over a named calibration distribution.

    A subclass implements :meth:`_pool` and :meth:`_expand` (and :meth:`log_map` where pooling in log space
    differs), sets ``name`` and is registered by :func:`register`: that is all an estimator needs.

    Attributes
    ----------
    layers_ : list of fitted decoder layers (0-based index of the layer whose attention was averaged).
    layouts_ : layout key -> TokenLayout seen in fitting.      counts_ : layout key -> number of images.
    provenance_ : JSON-ready dict: everything in ``maps.provenance`` (model, revision, family, queries, heads,
        prompt, n, calibration hash) plus estimator, params, layers, layouts and biaslab version.
    """

    name: ClassVar[str]
    #: things in ``provenance_`` the estimator may be used for without having been fitted for them: {"layout"}
    #: or nothing
    transports: ClassVar[frozenset[str]] = frozenset()

    # -- what an estimator defines
    # ---------------------------------------------------------------------------------
    @abstractmethod
    def _pool(self, parts: list[Part]) -> Arrays:
        """Learned arrays of one layer from the moments of raw attention."""

    @abstractmethod
    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        """(expected, spread), each (H or 1, N), for a layout that :meth:`check` accepts."""

    def log_map(self, parts: list[Part], layout: TokenLayout) -> np.ndarray | None:
        """(H or 1, N) prediction of centred log attention from log moments; None where nothing can be
        predicted.

        The default is the mean of the images of the same layout.
        """
        return next((p.mean for p in parts if p.layout.key == layout.key), None)

    # -- fitting
    # ---------------------------------------------------------------------------------------------------
    def fit(self, maps: Any, layers: Iterable[int] | None = None) -> Profile:
        """Fit every layer of ``maps`` (or ``layers``) and return self.

        Parameters
        ----------
        maps : AttentionMaps, stored or streamed; only ``layers``, ``layouts``, ``provenance`` and ``moments``
            are read.
        layers : decoder layers to fit; default all that ``maps`` holds.

        Raises
        ------
        InputError
            No images, or a layer that ``maps`` does not hold.
        """
        available = [int(x) for x in maps.layers]
        wanted = available if layers is None else [int(x) for x in layers]
        if missing := [x for x in wanted if x not in available]:
            raise InputError(f"the maps hold layers {available}, not {missing}: collect with layers={wanted}")
        arrays: dict[int, Arrays] = {}
        counts: dict[str, int] = {}
        for layer in wanted:
            parts = parts_of(maps, layer)
            if not parts:
                raise InputError("the maps hold no images: collect() over at least one image first")
            arrays[layer] = self._pool(parts)
            counts = {p.layout.key: p.n for p in parts}
        if "layout" not in self.transports and min(counts.values(), default=0) < 2:
            few = [k for k, n in counts.items() if n < 2]
            warnings.warn(f"spread is 0 for layouts seen in one image only: {', '.join(few)}", stacklevel=2)
        layouts = {key: maps.layouts[key] for key in counts}
        provenance = {
            **plain(dict(maps.provenance)),
            "heads": maps.heads,
            "estimator": self.name,
            "params": plain(self.get_params()),
            "layers": wanted,
            "layouts": counts,
            "biaslab": version(),
        }
        logger.info("fitted %s on %d images, layers %s", self.name, sum(counts.values()), wanted)
        return self._restore(arrays, layouts, counts, provenance)

    def _restore(
        self,
        arrays: dict[int, Arrays],
        layouts: Mapping[str, TokenLayout],
        counts: Mapping[str, int],
        provenance: Mapping[str, Any],
    ) -> Profile:
        """Set the learned state (also used by ``profiles.load``)."""
        self.arrays_ = arrays
        self.layers_ = sorted(arrays)
        self.layouts_ = dict(layouts)
        self.counts_ = dict(counts)
        self.provenance_ = dict(provenance)
        self._maps: OrderedDict[tuple, Tensor] = OrderedDict()
        self._hash = None
        return self

    # -- use
    # -------------------------------------------------------------------------------------------------------
    def expected(self, layout: TokenLayout, layer: int, device: torch.device | str | None = None) -> Tensor:
        """Expected attention of each visual token: (1 or H, N) float32 on ``device`` (default CPU).

        The tensor is cached per device and shared between calls: do not write to it.

        Raises
        ------
        ProfileMismatchError
            Layer or layout the profile was not fitted for.
        """
        return self._map("expected", layout, layer, device)

    def spread(self, layout: TokenLayout, layer: int, device: torch.device | str | None = None) -> Tensor:
        """Standard deviation of the attention between images, shaped and cached like :meth:`expected`."""
        return self._map("spread", layout, layer, device)

    def _map(self, what: str, layout: TokenLayout, layer: int, device: torch.device | str | None) -> Tensor:
        self._fitted()
        key = (layer, layout.key, torch.device(device or "cpu"))
        if (what, *key) not in self._maps:
            self.check(layer=layer, layout=layout)
            both = self._expand(self.arrays_[layer], layout)
            for name, values in zip(("expected", "spread"), both, strict=True):
                host = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
                self._maps[(name, *key)] = host.to(key[-1])
            while len(self._maps) > 2 * _CACHED_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end((what, *key))
        return self._maps[(what, *key)]

    def check(
        self,
        *,
        model: str | None = None,
        revision: str | None = None,
        family: str | None = None,
        layer: int | None = None,
        queries: Any = None,
        heads: str | int | None = None,
        layout: TokenLayout | str | None = None,
        prompt: Any = None,
        score: str | None = None,
    ) -> None:
        """Refuse a use the profile was not fitted for. What is None is not compared.

        Raises
        ------
        ProfileMismatchError
            With the reason and the fix. A different prompt only warns: the paper itself calibrates on a
            generic one.
        """
        self._fitted()
        known = self.provenance_
        refuse_others(
            known,
            {
                "model": model,
                "revision": revision,
                "family": family,
                "queries": queries,
                "heads": heads,
                "score": score,
            },
            self.transports,
        )
        if layer is not None and layer not in self.layers_:
            raise ProfileMismatchError(
                f"this profile holds layers {self.layers_}, not {layer}: "
                f"fit it on maps collected with layers=[{layer}]"
            )
        if layout is not None:
            self._check_layout(layout)
        warn_other_prompt(known, prompt)

    def _check_layout(self, layout: TokenLayout | str) -> None:
        key = layout if isinstance(layout, str) else layout.key
        if key in self.layouts_:
            return
        if "layout" not in self.transports:
            raise ProfileMismatchError(
                f"this {self.name!r} profile was fitted for layouts {sorted(self.layouts_)}, not {key!r}: "
                "fit it on images of that tiling, or use the 'tile' estimator, which transports to others"
            )
        family, mine = key.split("/")[0], self.provenance_.get("family")
        if mine is not None and family != mine:
            raise ProfileMismatchError(
                f"this profile was fitted for family {mine!r}, not {family!r}: fit one for it"
            )

    # -- artefact
    # --------------------------------------------------------------------------------------------------
    @property
    def hash(self) -> str:
        """16 hex digits over everything learned and its provenance: equal hash, equal scores."""
        self._fitted()
        if self._hash is None:
            self._hash = self._digest()
        return self._hash

    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self.provenance_, sort_keys=True).encode())
        for layer in self.layers_:
            for part, named in sorted(self.arrays_[layer].items()):
                for name, values in sorted(named.items()):
                    digest.update(f"{layer}|{part}|{name}|{values.shape}".encode())
                    digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path, diagnostics: Any = None) -> Path:
        """Write the profile (safetensors) and a readable card beside it; see
        :func:`biaslab.profiles.file.save`.
        """
        from .file import save

        return save(self, path, diagnostics)

    def _fitted(self) -> None:
        if not hasattr(self, "arrays_"):
            raise InputError(
                f"this {type(self).__name__} is not fitted: call .fit(maps), or profiles.load(path)"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_maps" in state:  # device copies are rebuilt on demand
            state["_maps"] = OrderedDict()
        return state


def parts_of(maps: Any, layer: int) -> list[Part]:
    """Moments of raw attention of every layout that has images, as float64."""
    parts = []
    for key, layout in maps.layouts.items():
        m = maps.moments(layer, key)
        if m.n:
            parts.append(
                Part(layout, int(m.n), np.asarray(m.mean, np.float64), np.asarray(m.var, np.float64))
            )
    return parts
