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
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from biaslab._util.jsonable import plain
from biaslab.core.layers import resolve_layer, resolve_layers, shared_layers
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.moments import centred_log
from biaslab.maps.protocol import Maps
from biaslab.profiles.file import save as write
from biaslab.profiles.fitted import check_fitted
from biaslab.profiles.parts import Part, logs, parts_of
from biaslab.profiles.provenance import refuse_others, version, warn_other_prompt
from biaslab.profiles.registry import ESTIMATORS, Arrays, make, register

__all__ = ["ESTIMATORS", "Arrays", "Part", "Profile", "make", "register"]

logger = logging.getLogger(__name__)


_CACHED_MAPS = 64  # models of free resolution meet hundreds of layouts: keep only the latest maps


class Profile(BaseEstimator, ABC):
    """Expected attention of each visual position over a named calibration distribution.

    A subclass implements :meth:`_pool` and :meth:`_expand` (and :meth:`log_map` where pooling in log space
    differs, :meth:`refuses` where maps must tell more than attention), sets ``name`` and is registered by
    :func:`register`: that is all an estimator needs.

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
    #: whether the moments of each fold are needed beside their sum (:attr:`Part.pieces`)
    needs_folds: ClassVar[bool] = False

    # -- what an estimator defines
    # ---------------------------------------------------------------------------------
    @abstractmethod
    def _pool(self, parts: list[Part]) -> Arrays:
        """Learned arrays of one layer from the moments of raw attention."""

    @abstractmethod
    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        """(expected, std), each (H or 1, N), for a layout that :meth:`check` accepts."""

    def log_map(self, parts: list[Part], layout: TokenLayout) -> np.ndarray | None:
        """(H or 1, N) prediction of centred log attention from log moments; None where nothing can be
        predicted.

        The default is the mean of the images of the same layout.
        """
        return next((p.mean for p in parts if p.layout.key == layout.key), None)

    @classmethod
    def refuses(cls, provenance: Mapping[str, Any]) -> str | None:
        """Why it cannot be fitted to maps of this provenance, in one line with the fix; None where it can."""
        return None

    # -- fitting
    # ---------------------------------------------------------------------------------------------------
    def fit(self, maps: Maps, *, layers: int | Iterable[int] | None = None) -> Profile:
        """Fit every layer of ``maps`` (or ``layers``) and return self.

        Parameters
        ----------
        maps : AttentionMaps, stored or streamed; only ``layers``, ``layouts``, ``provenance`` and ``moments``
            are read.
        layers : decoder layers to fit; default all that ``maps`` holds.

        Raises
        ------
        InputError
            No images, a layer that ``maps`` does not hold, or maps that do not tell what the estimator needs.
        """
        layers = resolve_layers(layers, maps.layers, "the maps", "collect")
        if maps.layouts and (reason := self.refuses(maps.provenance)):
            raise InputError(reason)
        arrays: dict[int, Arrays] = {}
        counts: dict[str, int] = {}
        for layer in layers:
            parts = parts_of(maps, layer, pieces=self.needs_folds)
            if not parts:
                raise InputError("the maps hold no images: collect() over at least one image first")
            arrays[layer] = self._pool(parts)
            counts = {p.layout.key: p.n for p in parts}
        if "layout" not in self.transports and min(counts.values(), default=0) < 2:
            few = [k for k, n in counts.items() if n < 2]
            warnings.warn(f"std is 0 for layouts seen in one image only: {', '.join(few)}", stacklevel=2)
        layouts = {key: maps.layouts[key] for key in counts}
        provenance = {
            **plain(dict(maps.provenance)),
            "heads": maps.heads,
            "estimator": self.name,
            "params": plain(self.get_params()),
            "layers": layers,
            "layouts": counts,
            "biaslab": version(),
        }
        logger.info("fitted %s on %d images, layers %s", self.name, sum(counts.values()), layers)
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
        self._hash: str | None = None
        return self

    # -- use
    # -------------------------------------------------------------------------------------------------------
    def expected(self, layout: TokenLayout, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Expected attention of each visual token: (1 or H, N) float32 on ``device`` (default CPU).

        The tensor is cached per device and shared between calls: do not write to it.

        Raises
        ------
        ProfileMismatchError
            Layer or layout the profile was not fitted for.
        """
        return self._map("expected", layout, layer, device)

    def std(self, layout: TokenLayout, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Standard deviation of the attention between images, shaped and cached like :meth:`expected`."""
        return self._map("std", layout, layer, device)

    def layout_of(self, layout: TokenLayout | str | None = None) -> tuple[TokenLayout, int]:
        """A layout, and how many calibration images its map rests on (all of them where it was carried over).

        Parameters
        ----------
        layout : itself, the key of a fitted one, or None for the one that most images have.

        Raises
        ------
        InputError
            The key of a layout that was not fitted.
        """
        check_fitted(self)
        key = max(self.counts_, key=lambda k: self.counts_[k]) if layout is None else layout
        if isinstance(key, str):
            if key not in self.layouts_:
                raise InputError(f"the profile has no layout {key!r}: choose one of {sorted(self.layouts_)}")
            key = self.layouts_[key]
        return key, self.counts_.get(key.key, sum(self.counts_.values()))

    def predict(self, layout: TokenLayout, layer: int | None = None) -> np.ndarray:
        """:meth:`expected` as an array, (H or 1, N); ``layer`` may be left out when one only is fitted."""
        check_fitted(self)
        layer = resolve_layer(layer, self.layers_, "the profile", "fit")
        return self.expected(layout, layer).numpy().copy()

    def score(self, maps: Maps, *, layers: int | Iterable[int] | None = None) -> float:
        """Share of the variance of log attention, centred per image, that this profile explains in other maps.

        On the maps it was fitted to this is flattering: give maps of other images, or ask
        :func:`~biaslab.profiles.variance_explained`, which holds images out.

        Parameters
        ----------
        maps : AttentionMaps, stored or streamed, of the same model, query rule and head reduction.
        layers : default all that both hold, together.

        Raises
        ------
        ProfileMismatchError
            Maps, or a layout, that the profile does not serve.
        InputError
            A layer that ``maps`` does not hold, or no layer in common.
        """
        check_fitted(self)
        if layers is None:
            layers = shared_layers(self.layers_, maps.layers, ("the profile", "the maps"))
        else:
            layers = resolve_layers(layers, maps.layers, "the maps", "collect")
        about = {k: maps.provenance.get(k) for k in ("model", "revision", "family", "queries", "score")}
        self.check(**about, heads=maps.heads)
        sums = [self.sums_of_squares(logs(parts_of(maps, layer)), layer) for layer in layers]
        residual, total = (sum(column) for column in zip(*sums, strict=True))
        return float(1 - residual / total) if total > 0 else float("nan")

    def sums_of_squares(self, parts: Iterable[Part], layer: int) -> tuple[float, float]:
        """Residual and total sum of squares of log attention, centred per image, of other images.

        Parameters
        ----------
        parts : their log moments in this layer.
        """
        residual = total = 0.0
        for p in parts:
            found = centred_log(self.expected(p.layout, layer).numpy())
            residual += p.n * (p.var + (p.mean - found) ** 2).sum()
            total += p.n * (p.var + p.mean**2).sum()
        return residual, total

    def _map(self, what: str, layout: TokenLayout, layer: int, device: torch.device | str | None) -> Tensor:
        check_fitted(self)
        key = (layer, layout.key, torch.device(device or "cpu"))
        if (what, *key) not in self._maps:
            self.check(layer=layer, layout=layout)
            both = self._expand(self.arrays_[layer], layout)
            for name, values in zip(("expected", "std"), both, strict=True):
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
        check_fitted(self)
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
                f"this profile holds layers {self.layers_}, not {layer}: fit it on maps collected with layers=[{layer}]"
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
                "fit it on images of that tiling, or use the 'tile' estimator or 'factorised', which carry over"
            )
        family, mine = key.split("/")[0], self.provenance_.get("family")
        if mine is not None and family != mine:
            raise ProfileMismatchError(f"this profile was fitted for family {mine!r}, not {family!r}: fit one for it")

    # -- artefact
    # --------------------------------------------------------------------------------------------------
    @property
    def hash(self) -> str:
        """16 hex digits over everything learned and its provenance: equal hash, equal scores."""
        check_fitted(self)
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

    def save(self, path: str | Path, *, diagnostics: pd.DataFrame | None = None) -> Path:
        """Write the profile (safetensors) and a readable card beside it; see
        :func:`biaslab.profiles.file.save`.
        """
        return write(self, path, diagnostics=diagnostics)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_maps" in state:  # device copies are rebuilt on demand
            state["_maps"] = OrderedDict()
        return state
