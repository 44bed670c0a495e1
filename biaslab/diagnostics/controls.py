"""Controls: profiles without the content of the images, or without what the model has learned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from biaslab._util.registry import Registry
from biaslab.core.images import load_image
from biaslab.core.layers import resolve_layers
from biaslab.datasets.calibration import PROMPT
from biaslab.datasets.image_sources import blank, noise
from biaslab.diagnostics.log_maps import head_names
from biaslab.diagnostics.transforms import (
    CellGrid,
    PerturbedImage,
    mirrored,
    randomise_weights,
    shuffled,
    swap_sides,
    translated,
)
from biaslab.errors import InputError
from biaslab.maps.collect import collect
from biaslab.stats.jackknife import jackknife_interval

if TYPE_CHECKING:
    from biaslab.datasets.calibration import Calibration
    from biaslab.maps.protocol import Maps
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["CONTROLS", "Control", "control_table"]


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes
    ----------
    name : str
        Key in :data:`CONTROLS`.
    removes : str
        What it takes away; what stays correlated with the profile is not explained by that.
    make : callable
        ``make(vlm, calibration, seed)`` -> (model, calibration) to collect with.
    """

    name: str
    removes: str
    make: Callable[[VLM, Calibration, int], tuple[VLM, Calibration]]


def _perturbed(change: Callable) -> Callable:
    def make(vlm: VLM, c: Calibration, seed: int) -> tuple[VLM, Calibration]:
        cells = CellGrid(vlm)
        images = [PerturbedImage(source, change, cells, (seed, i)) for i, source in enumerate(c.images)]
        return vlm, replace(c, images=images, ids=c.ids or [str(i) for i in range(len(c.images))])

    return make


def _null(source: Callable) -> Callable:
    def make(vlm: VLM, c: Calibration, seed: int) -> tuple[VLM, Calibration]:
        return vlm, replace(c, images=source(len(c.images), load_image(c.images[0]).size, seed),
                            ids=[str(i) for i in range(len(c.images))])  # fmt: skip

    return make


def _mirror(vlm: VLM, c: Calibration, seed: int) -> tuple[VLM, Calibration]:
    _, c = _perturbed(mirrored)(vlm, c, seed)
    texts = swap_sides(c.prompts) if isinstance(c.prompts, str) else [swap_sides(p) for p in c.prompts]
    return vlm, replace(c, prompts=texts)


def _referents(vlm: VLM, c: Calibration, seed: int) -> tuple[VLM, Calibration]:
    if isinstance(c.prompts, str) or len(set(c.prompts)) < 2:
        raise InputError("other referents need a prompt per image: calibrate on scenes, or leave this control out")
    return vlm, replace(c, prompts=[*c.prompts[1:], c.prompts[0]])


CONTROLS: Registry[Control] = Registry("control")
for _control in (
    Control("same", "nothing: the ceiling of the others", lambda vlm, c, seed: (vlm, c)),
    Control("mirrored", "the left-right odd part of what images hold", _mirror),
    Control("translated", "what images hold, as far as it moves with them", _perturbed(translated)),
    Control("shuffled", "objects and where they lie; each patch's own content stays", _perturbed(shuffled)),
    Control("blank", "all content", _null(lambda n, size, seed: blank(n, size))),
    Control("noise", "all content but fine noise", _null(lambda n, size, seed: noise(n, size, seed=seed))),
    Control("other-prompt", "the question", lambda vlm, c, seed: (vlm, replace(c, prompts=PROMPT))),
    Control("other-referents", "that the question is about this image", _referents),
    Control("random-weights", "all that was learned", lambda vlm, c, seed: (randomise_weights(vlm, "init", seed), c)),
    Control("permuted-weights", "all that was learned but the size of weights",
         lambda vlm, c, seed: (randomise_weights(vlm, "permute", seed), c)),
):  # fmt: skip
    CONTROLS.register(_control)


def control_table(
    vlm: VLM,
    images: Calibration,
    profile: Profile,
    *,
    layers: int | Iterable[int] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
    controls: Iterable[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Correlate every control's map with the profile's, in log attention, per layer.

    Collects each control once, streamed, with the profile's own query rule, heads and score.

    What each removes, and so what a high correlation says:

    - ``same``: nothing. Below 1 because the profile is the log of a mean and the control a mean of logs. If the images
      are not the profile's own, the ceiling for all others.
    - ``mirrored``: images flipped left to right and the words left and right exchanged. Removes only the *odd* part
      of the content: subjects that sit in the middle, or low, do so in the mirror too. Where the map turns around with
      the images the correlation falls; where it stays, its odd part is the model's.
    - ``translated``: every image rolled around by a random number of whole cells both ways. Removes only the *moving*
      part of the content: what depends on the frame itself, such as the seam, stays, and words of place become false.
    - ``shuffled``: cells exchanged at random within each image. Removes objects, composition and, on average, content
      by place; edges between cells are new to the model.
    - ``blank``, ``noise``: no content at all, but nothing that the model was trained on either.
    - ``other-prompt``: a generic question about the same images. ``other-referents``: each image is asked about
      with the next one's question, which it may not hold an answer to.
    - ``random-weights``: the same configuration initialised anew by its class: what is left is architecture (causal
      mask, rotary positions, tokens' order). ``permuted-weights``: each weight matrix with its own entries shuffled,
      which keeps their size, as initialisations are often so small that attention is nearly even. Both are one draw
      of weights: the interval is over images and says nothing on other draws, between which r of smooth maps varies
      widely (repeat with other seeds, and read the slope beside it).

    Parameters
    ----------
    vlm : VLM
        The model that the profile was fitted on.
    images : Calibration
        Of :func:`biaslab.datasets.calibration.calibration`.
    profile : Profile
        The profile that controls are compared with.
    layers : int or iterable of int, optional
        Default all that the profile holds.
    batch_size : int
        Images per forward.
    seed : int
        Of the perturbations, and of the random weights.
    progress : bool
        Draw a progress bar per control.
    controls : iterable of str, optional
        Keys of :data:`CONTROLS`; default all that the calibration set allows (a warning names those it does not).
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row per control, layer and head: control, layer, head, r, r_lo, r_hi (delete-one-fold jackknife of Fisher's
        z over the control's images; the profile is held fixed), slope (of the control's map on the profile's),
        slope_lo, slope_hi, ceiling (square root of the control map's own reliability: what r could reach at most), n,
        removes.

    Raises
    ------
    InputError, ProfileMismatchError
        An unknown control; a profile of another model, or of other layouts.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.diagnostics import CONTROLS, control_table
    >>> list(CONTROLS)[:4]
    ['same', 'mirrored', 'translated', 'shuffled']
    >>> vlm = bl.load("grounder")
    >>> images = bl.calibration(vlm, "scenes", n=2)
    >>> maps = bl.collect(vlm, images.images, prompt=images.prompts, ids=images.ids, layers=[1], progress=False)
    >>> table = control_table(vlm, images, bl.MeanProfile().fit(maps), controls=["blank"])
    >>> table[["control", "layer", "head", "n"]].values.tolist()
    [['blank', 1, 'mean', 2]]
    """
    asked = {name: CONTROLS.get(name) for name in (CONTROLS if controls is None else controls)}
    profile.check(model=vlm.name, revision=vlm.revision, fingerprint=vlm.fingerprint, family=vlm.family.name)
    provenance = profile.provenance_
    heads = "mean" if provenance.get("heads", "mean") == "mean" else "all"
    layers = resolve_layers(layers, profile.layers_, "the profile", "fit")
    tables = []
    for name, control in asked.items():
        try:
            model, changed = control.make(vlm, images, seed)
        except InputError as error:
            if controls is not None:
                raise
            warnings.warn(f"control {name} left out: {error}", stacklevel=2)
            continue
        maps = collect(
            model, changed.images, layers=layers, heads=heads, queries=provenance.get("queries", "last"),
            score=provenance.get("score", "attention"), prompt=changed.prompts, ids=changed.ids,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
        table = _compare(maps, profile, confidence)
        table.insert(0, "control", name)
        tables.append(table.assign(removes=control.removes))
    return pd.concat(tables, ignore_index=True)


def _compare(maps: Maps, profile: Profile, confidence: float) -> pd.DataFrame:
    rows = []
    for layer in maps.layers:
        folds = [f for f in range(maps.folds) if any(maps.moments(layer, k, fold=f).n for k in maps.layouts)]
        both = [_products(maps, profile, layer, None), *(_products(maps, profile, layer, f) for f in folds)]
        with np.errstate(divide="ignore", invalid="ignore"):
            r, slope = (np.stack(v) for v in zip(*((xy / np.sqrt(xx * yy), xy / xx) for xy, xx, yy, _ in both),
                                                 strict=True))  # fmt: skip
        z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
        lo, hi = (np.tanh(v) for v in jackknife_interval(z[0], z[1:], confidence=confidence))
        slope_lo, slope_hi = jackknife_interval(slope[0], slope[1:], confidence=confidence)
        for h, head in enumerate(head_names(maps)):
            rows.append(
                {"layer": layer, "head": head, "r": r[0, h], "r_lo": lo[h], "r_hi": hi[h], "slope": slope[0, h],
                 "slope_lo": slope_lo[h], "slope_hi": slope_hi[h], "ceiling": both[0][3][h], "n": maps.n}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _products(maps: Maps, profile: Profile, layer: int, without: int | None) -> tuple[np.ndarray, ...]:
    """(H,) sums of products control x profile, profile x profile, control x control; and the ceiling."""
    xy = xx = yy = signal = np.zeros(1)
    for key, layout in maps.layouts.items():
        m = maps.moments(layer, key, exclude_fold=without)
        if not m.n:
            continue
        expected = np.log(profile.expected(layout, layer).double().numpy() + 1e-9)
        expected = expected - expected.mean(-1, keepdims=True)
        square = (m.log_mean**2).sum(-1)
        xy, xx, yy = xy + m.n * (m.log_mean * expected).sum(-1), xx + m.n * (expected**2).sum(-1), yy + m.n * square
        error = m.log_var.sum(-1) / max(m.n - 1, 1)
        signal = signal + m.n * np.maximum(square - error, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return xy, xx, yy, np.sqrt(signal / yy)
