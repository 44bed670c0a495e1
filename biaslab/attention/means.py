"""Attention rows averaged over the query rows while the model runs, for those who need nothing but their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from biaslab.attention.capture import recorded
from biaslab.attention.rows import CapturedRows, mean_over_queries

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["capture_means"]


@contextmanager
def capture_means(
    vlm: VLM,
    layers: int | Iterable[int] | None = None,
    *,
    heads: str = "all",
    queries: str | Tensor = "last",
    score: str | Callable = "attention",
) -> Iterator[CapturedRows]:
    """`capture`, with the mean over the query rows in the place of the rows.

    What is held of a layer is smaller by the number of query rows; `CapturedRows.per_image` gives the same maps bit by
    bit.

    Parameters
    ----------
    vlm, layers, heads, queries, score
        As of `biaslab.capture`.

    Yields
    ------
    CapturedRows
        ``rows[layer].values`` is (B, H or 1, 1, V); ``rows[layer].query_mask`` (B, 1) is False for a prompt without a
        query row, whose mean is 0. ``rows.prompt`` has the places of all query rows.

    Raises
    ------
    InputError, UnsupportedError
        As `biaslab.capture`.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> (sample,) = bl.load_dataset("scenes", split="test", n=1)
    >>> encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> with bl.capture(vlm, layers=[3], queries="text") as rows, capture_means(vlm, [3], queries="text") as means:
    ...     _ = vlm.forward(encoded)
    >>> rows[3].values.shape[2] > 1, means[3].values.shape
    (True, torch.Size([1, 4, 1, 256]))
    >>> bool((rows.per_image(encoded)[0][1] == means.per_image(encoded)[0][1]).all())
    True
    """
    with recorded(vlm, layers, heads=heads, queries=queries, score=score, reduce=mean_over_queries) as captured:
        yield captured
