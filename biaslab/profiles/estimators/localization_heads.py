"""Localization heads: the few heads whose attention finds what a question is about (arXiv 2503.06287)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import pandas as pd

from biaslab._util.cards import table_lines
from biaslab._util.jsonable import plain
from biaslab._util.number_text import interval_text, list_text
from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.moments import moments_of
from biaslab.maps.protocol import Maps, ReadableMaps, expect_maps
from biaslab.profiles.chosen_heads import choose_heads
from biaslab.profiles.columns import QUALITY, to_columns, to_table
from biaslab.profiles.file import save as write
from biaslab.profiles.learned import LearnedMaps
from biaslab.profiles.localization import ELBOWS, Ballot, votes
from biaslab.profiles.provenance import version
from biaslab.profiles.quality import head_quality
from biaslab.profiles.registry import Arrays, register

__all__ = ["LocalizationHeadsProfile"]

_VOTES = "votes"
_LISTED = 10  # heads in the card's table
_FEWEST = 4  # images


@register
class LocalizationHeadsProfile(LearnedMaps):
    """A head profile: which (layer, head) localise, by the votes of calibration images.

    1. S_lh, the attention that a head gives the image, averaged over the images. Heads above the elbow of the sorted
       S (largest distance to the chord) go on.
    2. Of each image and head, the spatial entropy of what stands out
       (:func:`biaslab.maps.spatial_entropy.foreground`). Heads whose whole bottom row stands out are passed over.
    3. Each image votes for the ``per_sample`` heads of lowest entropy (ours: of equal ones, as all single blobs have,
       for those of more attention); the ``heads`` most frequent ones are chosen.

    The pruning method ``localization_heads`` keeps by the sum of their attention. `expected` is the mean of that sum,
    layer by layer, for the layouts of the fit; the heads serve any layout.

    Parameters
    ----------
    heads : int
        How many are chosen; 3 as published.
    per_sample : int
        Heads that an image votes for. Unverified: the vote is not in the published code. Ours: never more than a
        quarter of the heads above the elbow, or all of a small model would be voted for.
    elbow : {"value", "index"}
        "value": heads whose mass is at least the elbow's, as the paper says; "index": heads whose number, counted layer
        by layer, is at most the elbow's rank, a slip in the published code by a reading of it (in which direction it
        compares is unverified).
    least : float
        Attention above the mean from which a token stands out.
    bottom_row : bool
        Whether heads of which the whole bottom row stands out may be voted for. Such heads are flagged in the published
        code; that they are passed over (False) is unverified.
    n : int, optional
        Images at most, the first ones; default all. 1,000 of RefCOCO's training split in the paper.

    Attributes
    ----------
    heads_ : list of (int, int)
        The chosen (layer, head), the most frequent first.
    votes_ : DataFrame
        Of :func:`biaslab.profiles.localization.votes`; heads of which nothing stood out in any image are left out.
    quality_ : DataFrame
        Of :func:`biaslab.profiles.head_quality`, for comparison: it chooses nothing here.

    Notes
    -----
    The paper smooths the sum and fits a box to it, which pruning does not need. It measures a grid of 24 x 24; here
    tokens of two tiles do not touch.

    References
    ----------
    Kang et al. (2025), Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding, CVPR,
    arXiv 2503.06287.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> scenes = bl.calibration(vlm, "scenes", n=6)
    >>> with TemporaryDirectory() as folder:
    ...     maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, heads="all", out=folder, progress=False)
    ...     profile = bl.LocalizationHeadsProfile(heads=2).fit(maps, layers=range(4))
    >>> len(profile.heads_), all(layer < 4 for layer, _ in profile.heads_)
    (2, True)
    """

    name: ClassVar[str] = "localization_heads"
    heading: ClassVar[str] = "Head profile"
    about: ClassVar[str] = "Heads that localise what is asked for"
    kind: ClassVar[str] = "heads"
    transports: ClassVar[frozenset[str]] = frozenset({"layout"})

    def __init__(
        self,
        *,
        heads: int = 3,
        per_sample: int = 10,
        elbow: str = "value",
        least: float = 1e-3,
        bottom_row: bool = False,
        n: int | None = None,
    ) -> None:
        self.heads, self.per_sample, self.elbow = heads, per_sample, elbow
        self.least, self.bottom_row, self.n = least, bottom_row, n

    def fit(self, maps: Maps, *, layers: int | Iterable[int] | None = None) -> Self:
        """Choose the heads and return self.

        Parameters
        ----------
        maps : StoredMaps, or a view of them
            Of every head.
        layers : int or iterable of int, optional
            Layers whose heads may be chosen; default all that ``maps`` holds. Pruning before layer K needs heads below
            it.

        Raises
        ------
        InputError
            Maps of the mean over heads, of fewer than 4 images, or whose images cannot be read one by one; an option
            out of range; no head in which anything stands out.
        """
        expect_maps(maps)
        self._check_options()
        if maps.heads == "mean":
            raise InputError("heads are chosen among single ones: collect the maps with heads='all'")
        if not hasattr(maps, "record"):
            raise InputError("heads are chosen by single images: collect the maps with out='FOLDER' (--maps FOLDER)")
        if maps.n < _FEWEST:
            raise InputError(f"heads are chosen by the votes of at least {_FEWEST} images, the maps hold {maps.n}")
        readable = cast("ReadableMaps", maps)
        searched = resolve_layers(layers, maps.layers, "the maps", "collect")
        ballot = Ballot.of(readable, searched, n=self.n, least=self.least, bottom_row=self.bottom_row)
        table = votes(ballot, per_sample=self.per_sample, rule=self.elbow)
        order = table[table["frequency"] > 0].sort_values(
            ["frequency", "entropy"], ascending=[False, True], kind="stable"
        )
        if not len(order):
            raise InputError(
                "no head of these layers shows anything that stands out: collect more layers, or take a smaller least"
            )
        chosen = [(int(row["layer"]), int(row["head"])) for row in order[: self.heads].to_dict("records")]
        arrays = _maps_of(readable, chosen)
        first = arrays[min(arrays)]
        first[_VOTES] = to_columns(table)
        first[QUALITY] = to_columns(head_quality(maps, layers=searched))
        counts = {key: maps.moments(searched[0], key).n for key in maps.layouts}
        provenance = {
            **plain(dict(maps.provenance)),
            "heads": maps.heads,
            "estimator": self.name,
            "params": plain(self.get_params()),
            "layers": searched,
            "layouts": counts,
            "chosen": [list(pair) for pair in chosen],
            "biaslab": version(),
        }
        return self._restore(arrays, dict(maps.layouts), counts, provenance)

    def _check_options(self) -> None:
        for name in ("heads", "per_sample"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a number of heads, 1 or more; got {value!r}")
        if self.elbow not in ELBOWS:
            raise InputError(f"elbow must be one of {', '.join(ELBOWS)}; got {self.elbow!r}")
        if not 0 <= self.least < 1:
            raise InputError(f"least must be an attention in [0, 1), got {self.least!r}")

    def _restore(self, *args: Any, **kw: Any) -> Self:
        super()._restore(*args, **kw)
        self.heads_: list[tuple[int, int]] = [(int(x), int(h)) for x, h in self.provenance_["chosen"]]
        self.votes_: pd.DataFrame = to_table(self.arrays_[self.layers_[0]][_VOTES])
        return self

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        if layout.key not in arrays:
            raise ProfileMismatchError(
                f"these heads serve any layout, but what they draw is known of {sorted(self.layouts_)} alone, not of "
                f"{layout.key!r}: fit them on images of that tiling"
            )
        return arrays[layout.key]["expected"], arrays[layout.key]["spread"]

    def panel_title(self, layer: int) -> str:
        """Say what `expected` shows: what the chosen heads of the layer draw together."""
        return "sum of " + ", ".join(f"L{x}h{h}" for x, h in self.heads_ if x == layer)

    def save(self, path: str | Path, *, diagnostics: pd.DataFrame | None = None) -> Path:
        """Write the profile (safetensors) and a readable card beside it; see :func:`biaslab.profiles.save`."""
        return write(self, path, diagnostics=diagnostics)

    def agreement(self) -> str:
        """Say how many of the chosen heads are among as many of best quality, which asks for no labels either."""
        best = choose_heads(self.quality_, share=0.0)[: len(self.heads_)] if self.quality_["quality"].max() > 0 else []
        named = [f"layer {head.layer} head {head.head}" for head in best]
        shared = len({(head.layer, head.head) for head in best} & set(self.heads_))
        return (
            f"Of the {len(self.heads_)} heads {shared} {'is' if shared == 1 else 'are'} among the {len(best)} of best "
            f"quality, which position does not explain and which look at blobs ({list_text(named)})."
        )

    def summary(self) -> list[str]:
        """Say for the card which heads were chosen, and by how many votes."""
        order = self.votes_.sort_values("frequency", ascending=False, kind="stable")[:_LISTED].to_dict("records")
        chosen = set(self.heads_)
        rows = [
            [row["layer"], row["head"], "yes" if (row["layer"], row["head"]) in chosen else "no",
             interval_text(row["frequency"], row["lo"], row["hi"]), f"{100 * row['mass']:.0f} %",
             f"{row['entropy']:.2f}"]
            for row in order
        ]  # fmt: skip
        above = int(self.votes_["above"].sum())
        return [
            "## Heads",
            "",
            f"The {len(self.heads_)} heads that most images voted for, of {above} above the elbow of attention to "
            f"images. {self.agreement()}",
            "",
            *table_lines(
                ["layer", "head", "chosen", "share of the images that vote for it [95 %]", "share of its attention",
                 "spatial entropy (nats)"],
                rows,
            ),
            "",
            "## Where it comes from",
            "",
        ]  # fmt: skip

    @property
    def refusals(self) -> str:
        """Say for the card what it may not be used for."""
        deepest = max(layer for layer, _ in self.heads_)
        return (
            "It is refused for any other model, query rule or score, and for dropping tokens before layers up to "
            f"{deepest}, the deepest that it reads; it serves any layout."
        )


def _maps_of(maps: ReadableMaps, chosen: list[tuple[int, int]]) -> dict[int, Arrays]:
    """Mean and standard deviation of the chosen heads' sum, by layer and layout."""
    arrays: dict[int, Arrays] = {}
    for layer in sorted({layer for layer, _ in chosen}):
        heads = [head for x, head in chosen if x == layer]
        arrays[layer] = {}
        for key in maps.layouts:
            own = (i for i in range(maps.n) if maps.record(i).layout.key == key)
            found = moments_of(maps.image(i, layer)[heads].sum(0, keepdims=True) for i in own)
            if found is not None:
                arrays[layer][key] = {
                    "expected": found.mean.astype(np.float32),
                    "spread": np.sqrt(found.var).astype(np.float32),
                }
    return arrays
