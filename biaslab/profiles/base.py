"""What profile estimators share: fitting over layers and layouts, scoring, saving."""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from biaslab._util.jsonable import plain
from biaslab._util.model_identity import SETTINGS
from biaslab.core.layers import resolve_layers, shared_layers
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.moments import centred_log
from biaslab.maps.protocol import Maps, ReadableMaps, expect_maps
from biaslab.profiles.asymptotic import share_in_the_limit
from biaslab.profiles.columns import QUALITY, to_columns
from biaslab.profiles.file import save as write
from biaslab.profiles.fitted import check_fitted
from biaslab.profiles.learned import LearnedMaps
from biaslab.profiles.parts import Part, logs, parts_of
from biaslab.profiles.provenance import version
from biaslab.profiles.quality import head_quality
from biaslab.profiles.registry import ESTIMATORS, Arrays, check_frames, make, register
from biaslab.profiles.sample_size import FEW_IMAGES, few_images_text

__all__ = ["ESTIMATORS", "Arrays", "Part", "Profile", "make", "register"]

logger = logging.getLogger(__name__)


class Profile(LearnedMaps):
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

    #: whether the moments of each fold are needed beside their sum (:attr:`Part.pieces`)
    needs_folds: ClassVar[bool] = False

    @abstractmethod
    def _pool(self, parts: list[Part]) -> Arrays:
        """Learned arrays of one layer from the moments of raw attention."""

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

    def fit(self, maps: Maps, *, layers: int | Iterable[int] | None = None) -> Self:
        """Fit every layer of ``maps`` (or ``layers``) and return self.

        Parameters
        ----------
        maps : Maps
            Attention maps, stored or streamed; ``layers``, ``layouts``, ``provenance``, ``moments`` and, if there,
            ``n`` are read.
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

        Warns
        -----
        UserWarning
            Fewer than 20 images, with the reliability of such a profile.

        Examples
        --------
        >>> from biaslab import MeanProfile, TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
        >>> maps = simulate("bottom-heavy", {layout: 60}, layers=3).maps
        >>> MeanProfile().fit(maps, layers=[0, 2]).layers_
        [0, 2]
        """
        expect_maps(maps)
        layers = resolve_layers(layers, maps.layers, "the maps", "collect")
        check_frames(self, maps.layouts.values())
        if maps.layouts and (reason := self.refuses(maps.provenance)):
            raise InputError(reason)
        arrays: dict[int, Arrays] = {}
        counts: dict[str, int] = {}
        shares: dict[int, float] = {}
        n = getattr(maps, "n", FEW_IMAGES)  # a view of moments need not say
        few = n < FEW_IMAGES
        for layer in layers:
            parts = parts_of(maps, layer, pieces=self.needs_folds)
            if not parts:
                raise InputError("the maps hold no images: collect() over at least one image first")
            arrays[layer] = self._pool(parts)
            if few:
                shares[layer] = float(share_in_the_limit([logs(parts)])[0])
            counts = {p.layout.key: p.n for p in parts}
        if "layout" not in self.transports and min(counts.values(), default=0) < 2:
            single = [key for key, images in counts.items() if images < 2]
            warnings.warn(
                f"std is 0, not measured, for tile layouts of which only one image was seen: {', '.join(single)}; "
                "collect more images of their shape, or do not use std there",
                stacklevel=2,
            )
        # not for a part of the images, such as all folds but one
        if few and sum(counts.values()) == n:
            table = pd.DataFrame({"layer": list(shares), "r2_asymptotic": list(shares.values())})
            warnings.warn(few_images_text(counts, table, transports="layout" in self.transports), stacklevel=2)
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

    def rate_heads(self, maps: ReadableMaps, *, n: int = 400) -> Self:
        """Measure which heads look at something, and keep it with the profile (``quality_``, file and card).

        Parameters
        ----------
        maps : StoredMaps, or a view of them
            Of every head, as the profile's; as a rule those it was fitted to.
        n : int
            Images at most.

        Returns
        -------
        Profile
            Itself, with another hash: methods may weigh heads by it.

        Raises
        ------
        InputError
            Not fitted, or maps whose heads cannot be rated (:func:`biaslab.profiles.head_quality`).
        ProfileMismatchError
            Maps that the profile does not serve.
        """
        check_fitted(self)
        settings = {k: maps.provenance.get(k) for k in (*SETTINGS, "queries", "score")}
        self.check(**settings, heads=maps.heads)
        quality = head_quality(maps, layers=self.layers_, n=n)
        for layer in self.layers_:
            self.arrays_[layer][QUALITY] = to_columns(quality[quality["layer"] == layer])
        return self._restore(
            self.arrays_, self.layouts_, self.counts_, self.provenance_, variance=self.variance_
        )  # fmt: skip

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
        settings = {k: maps.provenance.get(k) for k in (*SETTINGS, "queries", "score")}
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

    def save(self, path: str | Path, *, diagnostics: pd.DataFrame | None = None) -> Path:
        """Write the profile (safetensors) and a readable card beside it; see :func:`biaslab.profiles.save`.

        Parameters
        ----------
        path : str or Path
            File; ``.safetensors`` is added if missing.
        diagnostics : DataFrame, optional
            What :func:`~biaslab.profiles.variance_table` returns, for the file and its card; default ``variance_``.

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
