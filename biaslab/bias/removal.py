"""After removal, on held-out images: are the target's tokens found better, and where in the picture?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from biaslab.errors import InputError
from biaslab.grounding.ranking import score_ranking

if TYPE_CHECKING:
    from biaslab.grounding import Sample
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["PLACES", "place_of", "removal_report"]

#: place name -> (axis of the box's centre, tercile)
PLACES = {"top": (1, 0), "middle": (1, 1), "bottom": (1, 2), "left": (0, 0), "centre": (0, 1), "right": (0, 2)}


def removal_report(
    vlm: VLM,
    dataset: Any,
    profile: Profile,
    ops: Sequence[str] = ("raw", "ratio"),
    layers: int | Sequence[int] | None = None,
    keep: Sequence[float | int] = (0.1,),
    places: Sequence[str] = tuple(PLACES),
    limit: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """AUROC and kept share of the target's tokens, raw and debiased, overall and by where the target lies.

    :func:`biaslab.grounding.score_ranking` on all samples and on those of every place: thirds of the picture's height
    (top, middle, bottom) and of its width (left, centre, right), by the centre of the target's box. The data set must
    hold other images than the profile was fitted on. The intervals of two operations are of the same samples, so a
    difference can be sure although they overlap. How much variance position still explains is not reported: it falls
    whatever is divided out.

    Parameters
    ----------
    ops : "raw" and names of debias operations.
    places : keys of :data:`PLACES`; with none of them one pass over the data set, otherwise up to two more.
    **options : of ``score_ranking``: batch_size, heads, n_boot, progress.

    Returns
    -------
    DataFrame
        The columns of ``score_ranking``, after ``place`` ("all" or one of ``places``). A place without samples has
        no rows.

    Raises
    ------
    InputError
        An unknown place, or a data set that is empty.
    """
    if unknown := [p for p in places if p not in PLACES]:
        raise InputError(f"unknown place {unknown[0]!r}: choose among {', '.join(PLACES)}")
    samples = [s for i, s in enumerate(dataset) if limit is None or i < limit]
    tables = []
    for place in ("all", *places):
        chosen = [s for s in samples if place == "all" or place_of(s)[PLACES[place][0]] == PLACES[place][1]]
        if chosen or place == "all":
            table = score_ranking(vlm, _Part(dataset, chosen), layers, profile, ops, keep=keep, **options)
            table.insert(0, "place", place)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def place_of(sample: Sample) -> tuple[int, int]:
    """Third of the width and of the height, 0 to 2, in which the centre of the target's box lies."""
    x, y = sample.box.center
    return tuple(min(2, max(0, int(3 * v / size))) for v, size in ((x, sample.width), (y, sample.height)))


class _Part:
    """Some samples of a data set, under its name."""

    def __init__(self, dataset: Any, samples: list[Sample]) -> None:
        self.name, self.split, self.hash = dataset.name, dataset.split, dataset.hash
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)
