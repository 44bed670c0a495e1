"""What profile estimators share: fitting over layers and layouts, the hot-path cache, provenance and refusal."""

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
    layers_ : list of int
        Fitted decoder layers (0-based index of the layer whose attention was averaged).
    layouts_ : dict of str to TokenLayout
        Layout key -> layout seen in fitting.
    counts_ : dict of str to int
        Layout key -> number of images.
    provenance_ : dict
        JSON-ready: everything in ``maps.provenance`` (model, revision, family, queries, heads, prompt, n, calibration
        hash) plus estimator, params, layers, layouts and biaslab version.

    Examples
    --------
    The whole of an estimator: every position is expected to draw what the image draws on average.

    >>> import numpy as np
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import Profile
    >>> class FlatProfile(Profile):
    ...     name = "flat"
    ...     def _pool(self, parts):
    ...         return {p.layout.key: {"level": p.mean.mean(1, keepdims=True)} for p in parts}
    ...     def _expand(self, arrays, layout):
    ...         level = arrays[layout.key]["level"]
    ...         return np.repeat(level, layout.n, axis=1), np.zeros((len(level), layout.n))
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> profile = FlatProfile().fit(simulate("bottom-heavy", {layout: 60}).maps)
    >>> float(np.ptp(profile.predict(layout)))
    0.0
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
        """Give (expected, std), each (H or 1, N), for a layout that :meth:`check` accepts."""

    def log_map(self, parts: list[Part], layout: TokenLayout) -> np.ndarray | None:
        """Predict centred log attention from log moments.

        Parameters
        ----------
        parts : list of Part
            Log moments of images, one part per layout (:func:`~biaslab.profiles.parts.logs`).
        layout : TokenLayout
            Layout to predict.

        Returns
        -------
        (H or 1, N) array or None
            None where nothing can be predicted. The default is the mean of the images of the same layout.
        """
        return next((p.mean for p in parts if p.layout.key == layout.key), None)

    @classmethod
    def refuses(cls, provenance: Mapping[str, Any]) -> str | None:
        """Say why it cannot be fitted to maps of this provenance.

        Parameters
        ----------
        provenance : mapping
            ``provenance`` of the maps.

        Returns
        -------
        str or None
            One line with the fix; None where it can be fitted.
        """
        return None

    # -- fitting
    # ---------------------------------------------------------------------------------------------------
    def fit(self, maps: Maps, *, layers: int | Iterable[int] | None = None) -> Profile:
        """Fit every layer of ``maps`` (or ``layers``) and return self.

        Parameters
        ----------
        maps : Maps
            Attention maps, stored or streamed; only ``layers``, ``layouts``, ``provenance`` and ``moments`` are read.
        layers : int or iterable of int, optional
            Decoder layers to fit; default all that ``maps`` holds.

        Returns
        -------
        Profile
            Itself.

        Raises
        ------
        InputError
            No images, a layer that ``maps`` does not hold, or maps that do not tell what the estimator needs.

        Examples
        --------
        >>> from biaslab import MeanProfile, TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
        >>> maps = simulate("bottom-heavy", {layout: 60}, layers=3).maps
        >>> MeanProfile().fit(maps, layers=[0, 2]).layers_
        [0, 2]
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
        """Give the expected attention of each visual token.

        Parameters
        ----------
        layout : TokenLayout
            Layout of the image.
        layer : int
            Decoder layer.
        device : torch.device or str, optional
            Where the tensor lies; default the CPU.

        Returns
        -------
        (1 or H, N) float32 Tensor
            Share of a query's attention. It is cached per device and shared between calls: do not write to it.

        Raises
        ------
        ProfileMismatchError
            Layer or layout the profile was not fitted for.

        Examples
        --------
        >>> from biaslab import MeanProfile, TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
        >>> maps = simulate("bottom-heavy", {layout: 60}).maps
        >>> expected = MeanProfile().fit(maps).expected(layout, 0)
        >>> tuple(expected.shape), round(float(expected.sum()), 2)  # the image's tokens draw 0.3 of the attention
        ((1, 16), 0.3)
        """
        return self._map("expected", layout, layer, device)

    def std(self, layout: TokenLayout, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Give the standard deviation of the attention between images, shaped and cached like :meth:`expected`.

        Parameters
        ----------
        layout : TokenLayout
            Layout of the image.
        layer : int
            Decoder layer.
        device : torch.device or str, optional
            Where the tensor lies; default the CPU.

        Returns
        -------
        (1 or H, N) float32 Tensor
            In units of attention.

        Raises
        ------
        ProfileMismatchError
            Layer or layout the profile was not fitted for.
        """
        return self._map("std", layout, layer, device)

    def layout_of(self, layout: TokenLayout | str | None = None) -> tuple[TokenLayout, int]:
        """Look up a layout, and how many calibration images its map rests on.

        Parameters
        ----------
        layout : TokenLayout or str, optional
            Itself, or the key of a fitted one; default the layout that most images have.

        Returns
        -------
        layout : TokenLayout
            The layout.
        n : int
            Images of the layout; of one that was not fitted, all images.

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
        """Give :meth:`expected` as an array of its own.

        Parameters
        ----------
        layout : TokenLayout
            Layout of the image.
        layer : int, optional
            Decoder layer; may be left out when only one is fitted.

        Returns
        -------
        (1 or H, N) float32 array
            Expected attention of each visual token.

        Raises
        ------
        InputError
            No layer where several are fitted.
        ProfileMismatchError
            Layer or layout the profile was not fitted for.

        Examples
        --------
        Attention relative to the average token, row by row:

        >>> from biaslab import MeanProfile, TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
        >>> maps = simulate("bottom-heavy", {layout: 60}).maps
        >>> expected = MeanProfile().fit(maps).predict(layout)
        >>> (expected / expected.mean()).reshape(4, 4).mean(axis=1).round(1)
        array([0.5, 0.7, 1. , 1.8], dtype=float32)
        """
        check_fitted(self)
        layer = resolve_layer(layer, self.layers_, "the profile", "fit")
        return self.expected(layout, layer).numpy().copy()

    def score(self, maps: Maps, *, layers: int | Iterable[int] | None = None) -> float:
        """Measure the share of the variance of log attention that this profile explains in other maps.

        Log attention is centred per image and head, so that only differences between positions count.
        On the maps it was fitted to the share is flattering: give maps of other images, or ask
        :func:`~biaslab.profiles.variance_explained`, which holds images out.

        Parameters
        ----------
        maps : Maps
            Attention maps, stored or streamed, of the same model, query rule and head reduction.
        layers : int or iterable of int, optional
            Decoder layers, taken together; default all that both hold.

        Returns
        -------
        float
            1 is a perfect prediction, 0 that of a flat map; NaN where attention does not vary.

        Raises
        ------
        ProfileMismatchError
            Maps, or a layout, that the profile does not serve.
        InputError
            A layer that ``maps`` does not hold, or no layer in common.

        Examples
        --------
        >>> from biaslab import MeanProfile, TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
        >>> maps = simulate("bottom-heavy", {layout: 60}).maps
        >>> others = simulate("bottom-heavy", {layout: 60}, seed=1).maps
        >>> round(MeanProfile().fit(maps).score(others), 2)
        0.25
        """
        check_fitted(self)
        if layers is None:
            layers = shared_layers(self.layers_, maps.layers, ("the profile", "the maps"))
        else:
            layers = resolve_layers(layers, maps.layers, "the maps", "collect")
        settings = {k: maps.provenance.get(k) for k in ("model", "revision", "family", "queries", "score")}
        self.check(**settings, heads=maps.heads)
        sums = [self.sums_of_squares(logs(parts_of(maps, layer)), layer) for layer in layers]
        residual, total = (sum(column) for column in zip(*sums, strict=True))
        return float(1 - residual / total) if total > 0 else float("nan")

    def sums_of_squares(self, parts: Iterable[Part], layer: int) -> tuple[float, float]:
        """Sum the squares of other images' log attention, centred per image, about this profile and about a flat map.

        Parameters
        ----------
        parts : iterable of Part
            Log moments of the images in this layer (:func:`~biaslab.profiles.parts.logs`).
        layer : int
            Decoder layer.

        Returns
        -------
        residual, total : float
            Sums over images, heads and positions.
        """
        residual = total = 0.0
        for p in parts:
            predicted = centred_log(self.expected(p.layout, layer).numpy())
            residual += p.n * (p.var + (p.mean - predicted) ** 2).sum()
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

        Parameters
        ----------
        model, revision, family : str, optional
            Model name, its revision and its family.
        layer : int, optional
            Decoder layer.
        queries : Any, optional
            Query rule, as in ``collect``.
        heads : str or int, optional
            Head reduction: "mean" or the number of heads.
        layout : TokenLayout or str, optional
            Layout of an image, or its key.
        prompt : Any, optional
            Prompt or prompts. Another one only warns: the paper itself calibrates on a generic prompt.
        score : str, optional
            What was averaged, as in ``capture``.

        Raises
        ------
        ProfileMismatchError
            With the reason and the fix.

        Examples
        --------
        >>> from biaslab import MeanProfile, TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
        >>> maps = simulate("bottom-heavy", {layout: 60}).maps
        >>> profile = MeanProfile().fit(maps)
        >>> profile.check(layer=0, layout=layout)
        >>> profile.check(layer=7)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        biaslab.errors.ProfileMismatchError: this profile holds layers [0], not 7: fit it on maps ...
        """
        check_fitted(self)
        use = {"model": model, "revision": revision, "family": family, "queries": queries, "heads": heads,
               "score": score}  # fmt: skip
        refuse_others(self.provenance_, use, self.transports)
        if layer is not None and layer not in self.layers_:
            raise ProfileMismatchError(
                f"this profile holds layers {self.layers_}, not {layer}: fit it on maps collected with layers=[{layer}]"
            )
        if layout is not None:
            self._check_layout(layout)
        warn_other_prompt(self.provenance_, prompt)

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
        """Write the profile (safetensors) and a readable card beside it; see :func:`biaslab.profiles.save`.

        Parameters
        ----------
        path : str or Path
            File; ``.safetensors`` is added if missing.
        diagnostics : DataFrame, optional
            What :func:`~biaslab.profiles.variance_table` returns, for the card.

        Returns
        -------
        Path
            Of the safetensors file.

        Raises
        ------
        InputError
            Profile not fitted.
        BiaslabError
            The place cannot be written.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from biaslab import load_profile
        >>> from biaslab import MeanProfile, TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
        >>> maps = simulate("bottom-heavy", {layout: 60}).maps
        >>> profile = MeanProfile().fit(maps)
        >>> with TemporaryDirectory() as folder:
        ...     path = profile.save(Path(folder) / "demo")
        ...     path.name, path.with_suffix(".md").exists(), load_profile(path).hash == profile.hash
        ('demo.safetensors', True, True)
        """
        return write(self, path, diagnostics=diagnostics)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_maps" in state:  # device copies are rebuilt on demand
            state["_maps"] = OrderedDict()
        return state
