"""The use of a fitted profile: its maps, through a cache for the hot path, its hash, and refusal of other uses."""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from biaslab._util.notebook import InNotebooks
from biaslab._util.number_text import count_text
from biaslab.core.frames import FramesLayout
from biaslab.core.layers import resolve_layer
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.profiles.chosen_heads import head_weights
from biaslab.profiles.columns import quality_table
from biaslab.profiles.fitted import check_fitted
from biaslab.profiles.provenance import refuse_others, warn_other_prompt
from biaslab.profiles.registry import Arrays

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["LearnedMaps"]

_CACHED_MAPS = 64  # models of free resolution meet hundreds of layouts: keep only the latest maps


class LearnedMaps(InNotebooks, BaseEstimator, ABC):
    """The state and the use of a fitted profile; :class:`biaslab.profiles.Profile` adds the fitting.

    Attributes
    ----------
    arrays_, layers_, layouts_, counts_, provenance_
        As :class:`biaslab.profiles.Profile` describes them; ``arrays_`` holds what is learned, by layer.
    quality_ : DataFrame
        Which heads look at something (:func:`biaslab.profiles.head_quality`), a row per layer and head; empty where it
        was not measured.
    variance_ : DataFrame
        How much of the variance of attention position explains, as :func:`biaslab.profiles.variance_table` returned it
        of held-out images; empty where it was not measured.
    """

    name: ClassVar[str]
    #: things in ``provenance_`` the estimator may be used for without having been fitted for them: {"layout"}
    #: or nothing
    transports: ClassVar[frozenset[str]] = frozenset()
    #: whether it serves layouts of several frames of one prompt (`biaslab.core.frames.FramesLayout`)
    frames: ClassVar[bool] = False
    #: heading of its card
    heading: ClassVar[str] = "Positional bias profile"
    #: first words of its card
    about: ClassVar[str] = "Expected attention of each visual position"
    #: whether it predicts from what is shown and asked, not from the position alone
    conditional: ClassVar[bool] = False
    #: what methods ask for: "positional" (expected attention), "conditional", or "heads" (which heads to read)
    kind: ClassVar[str] = "positional"
    #: query rows that ``fit-bias`` collects for it where none are named
    queries: ClassVar[str] = "last"

    def __repr__(self) -> str:
        if not hasattr(self, "layers_"):
            return super().__repr__()
        about = self.provenance_
        name = PurePath(str(about.get("model", "?"))).name
        n = sum(self.counts_.values())
        return f"<{type(self).__name__} of {name}: {count_text(n, 'image')}, layers {self.layers_}, {self.hash[:12]}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """In the place of scikit-learn's, which lists parameters and arrays."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    @abstractmethod
    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        """Give (expected, std), each (H or 1, N), for a layout that :meth:`check` accepts."""

    def _restore(
        self,
        arrays: dict[int, Arrays],
        layouts: Mapping[str, TokenLayout],
        counts: Mapping[str, int],
        provenance: Mapping[str, Any],
        *,
        variance: pd.DataFrame | None = None,
    ) -> Self:
        """Set the learned state (also used by ``profiles.load``)."""
        self.arrays_ = arrays
        self.layers_ = sorted(arrays)
        self.layouts_ = dict(layouts)
        self.counts_ = dict(counts)
        self.provenance_ = dict(provenance)
        self.quality_ = quality_table(arrays)
        self.variance_ = pd.DataFrame() if variance is None else variance
        self._maps: OrderedDict[tuple, Tensor] = OrderedDict()
        self._hash: str | None = None
        return self

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

    def head_weights(self, layer: int, *, device: torch.device | str | None = None) -> Tensor:
        """Weigh the heads of a layer by their quality; those that look at nothing weigh nothing.

        Parameters
        ----------
        layer : int
            Decoder layer.
        device : torch.device or str, optional
            Where the tensor lies; default the CPU.

        Returns
        -------
        (H,) float32 Tensor
            Of sum 1: the heads of at least a quarter of the layer's best quality, in proportion to it
            (:func:`biaslab.profiles.chosen_heads.choose_heads`), 0 for the others. Shared between calls.

        Raises
        ------
        InputError
            The quality of heads was not measured, or no head of the layer looks at anything.
        ProfileMismatchError
            Layer the profile was not fitted for.
        """
        check_fitted(self)
        key = ("head_weights", layer, "", torch.device(device or "cpu"))
        if key not in self._maps:
            self.check(layer=layer)
            self._maps[key] = head_weights(self.quality_, layer).to(key[-1])
        self._maps.move_to_end(key)
        return self._maps[key]

    def panel_title(self, layer: int) -> str:
        """Say in a figure what :meth:`expected` of a layer shows."""
        return f"layer {layer}"

    def summary(self) -> list[str]:
        """Say for the card, above where the profile comes from, what else a reader wants: Markdown lines."""
        return []

    @property
    def refusals(self) -> str:
        """Say for the card what it may not be used for."""
        carries = "layout" in self.transports
        other = ", and transports to other tilings and grids." if carries else ", and for any other layout."
        return "It is refused for any other model, layer, query rule or head reduction" + other

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Push the profile to a repository of the hub, with a model card and its image.

        :func:`biaslab.load_profile` reads it back by the same name.

        Parameters
        ----------
        repo_id : str
            ``owner/name``; it is made where there is none.
        **options
            Of :func:`biaslab.workflows.push_profile.push_profile`: ``files`` to push along, ``private``, ``revision``,
            ``base_model``, ``datasets``, ``license``, ``diagnostics`` or ``card``, ``commit_message``, ``create_pr``,
            ``token``.

        Returns
        -------
        huggingface_hub.CommitInfo
            ``oid`` is the revision to name in a paper.

        Raises
        ------
        InputError
            Not fitted, no such name, file or option, a repository of something else: before anything is sent.
        BiaslabError
            The hub cannot be reached, or refuses.

        Examples
        --------
        Skipped as a test, since it needs an account:

        >>> profile.push_to_hub("me/internvl2.5-8b-bias", license="cc-by-4.0")  # doctest: +SKIP
        >>> bl.load_profile("me/internvl2.5-8b-bias")  # doctest: +SKIP
        """
        # it draws and writes, as workflows alone do: called by its name, for no room imports one above it
        push = import_module("biaslab.workflows.push_profile").push_profile
        known = set(inspect.signature(push).parameters) - {"profile", "repo_id"}
        if unknown := sorted(set(options) - known):
            raise InputError(f"push_to_hub knows no {unknown[0]}: choose among {', '.join(sorted(known))}")
        return push(self, repo_id, **options)

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
        fingerprint: str | None = None,
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
        model, revision, fingerprint, family : str, optional
            Model name, its revision, what its weights are known by, and its family.
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
        use = {"model": model, "revision": revision, "fingerprint": fingerprint, "family": family,
               "queries": queries, "heads": heads, "score": score}  # fmt: skip
        refuse_others(self.provenance_, use, self.transports)
        if layer is not None and layer not in self.layers_:
            raise ProfileMismatchError(
                f"this profile holds layers {self.layers_}, not {layer}: fit it on maps of that layer "
                f"(`biaslab fit-bias --layers {layer}`, bl.collect(..., layers=[{layer}]))"
            )
        if layout is not None:
            self._check_layout(layout)
        warn_other_prompt(self.provenance_, prompt)

    def _check_layout(self, layout: TokenLayout | str) -> None:
        key = layout if isinstance(layout, str) else layout.key
        if isinstance(layout, FramesLayout) and not self.frames:
            raise ProfileMismatchError(
                f"a {self.name!r} profile knows no frames: prune with budget='separate', or fit 'factorised' on frames"
            )
        if key in self.layouts_:
            return
        of_frames = all(isinstance(own, FramesLayout) for own in self.layouts_.values())
        if "layout" not in self.transports and of_frames and "/frames" not in key:
            raise ProfileMismatchError(
                f"this {self.name!r} profile was fitted on frames of videos {sorted(self.layouts_)}, not {key!r} of "
                "one image: prune with budget='joint', or fit one on images"
            )
        if "layout" not in self.transports:
            raise ProfileMismatchError(
                f"this {self.name!r} profile was fitted for layouts {sorted(self.layouts_)}, not {key!r}: "
                "fit it on images of that tiling, or use the 'tile' estimator or 'factorised', which carry over"
            )
        family, mine = key.split("/")[0], self.provenance_.get("family")
        if mine is not None and family != mine:
            raise ProfileMismatchError(f"this profile was fitted for family {mine!r}, not {family!r}: fit one for it")

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

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_maps" in state:  # device copies are rebuilt on demand
            state["_maps"] = OrderedDict()
        return state
