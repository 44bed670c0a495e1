"""What `capture` hands out: the rows of every layer, where they lie in the prompt, and one map per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from biaslab._util.notebook import InNotebooks
from biaslab._util.one_line import OneLine
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.core.seen import SeenImage
    from biaslab.models.encoded import Encoded

__all__ = ["CapturedRows", "PromptPositions", "Rows", "mean_over_queries"]


@dataclass(frozen=True, eq=False, repr=False)
class Rows(InNotebooks):
    """Attention rows of one layer in the latest prefill.

    Attributes
    ----------
    values : (B, H, Q, V) float32, on the layer's device
        Attention (or score) of each query to each visual token; H is 1 for ``heads="mean"``. Fillers are 0.
        The images of one prompt follow each other: `Encoded.spans` has their columns.
    mask : (B, V) bool
        False for fillers: images of a batch may differ in tokens.
    query_mask : (B, Q) bool
        False for fillers: prompts of a batch may differ in text.
    kept : (B, V) LongTensor or None
        Where tokens had been pruned before this layer: ordinal of each column among the ORIGINAL visual
        tokens of its sample (an index into its layout). None: column v is visual token v.
    row_of : (B, V) LongTensor or None
        Where images of a prompt have query rows of their own: which of the Q belongs to each column. None: all rows
        belong to all columns.
    seen : sequence of SeenImage
        The images of the prompts, for drawing; empty where nobody announced the prompts.
    """

    values: Tensor
    mask: Tensor
    query_mask: Tensor
    kept: Tensor | None = None
    row_of: Tensor | None = None
    seen: Sequence[SeenImage] = field(default=())

    def __repr__(self) -> str:
        prompts, heads, queries, tokens = self.values.shape
        return (
            f"Rows(prompts={prompts}, heads={heads}, queries={queries}, tokens={tokens}, device={self.values.device})"
        )


class Places(NamedTuple):
    """Where a layer has the query rows (B, Q) and the visual columns (B, V), and which of them are no fillers.

    ``original`` (B, V) is the ordinal of each column among the sample's original visual tokens; None where no token
    had been pruned. ``row_of`` (B, V) is the query row of each column, as of `Rows`.
    """

    rows: Tensor
    rows_mask: Tensor
    cols: Tensor
    cols_mask: Tensor
    original: Tensor | None
    row_of: Tensor | None = None

    def to(self, device: torch.device) -> Places:
        rows, rows_mask, cols, cols_mask = (t.to(device) for t in self[:4])
        original, row_of = (t if t is None else t.to(device) for t in self[4:])
        return Places(rows, rows_mask, cols, cols_mask, original, row_of)


@dataclass(frozen=True, eq=False, repr=False)
class PromptPositions(OneLine):
    """Where a prefill has its image tokens and query rows: absolute positions in the padded prompt of N tokens.

    Attributes
    ----------
    is_image : (B, N) bool
        Image placeholders, those that show no place (LLaVA-NeXT's newlines) included.
    visual, visual_mask : (B, V) LongTensor, bool
        The visual tokens, which are the columns of an unpruned layer, and which of them are no fillers.
    queries, query_mask : (B, Q) LongTensor, bool
        The query rows, and which of them are no fillers.
    row_of : (B, V) LongTensor or None
        Which of the query rows belongs to each visual token, where images have their own.
    """

    is_image: Tensor
    visual: Tensor
    visual_mask: Tensor
    queries: Tensor
    query_mask: Tensor
    row_of: Tensor | None = None


class CapturedRows(InNotebooks, Mapping):
    """Layer index -> `Rows` of the latest prefill.

    Attributes
    ----------
    layers : list of int
        Those asked for, ascending.

    Examples
    --------
    The map that the model attends by while it answers:

    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> (sample,) = bl.load_dataset("scenes", split="test", n=1)
    >>> with bl.capture(vlm, layers=[3], heads="mean") as rows:
    ...     box = vlm.locate(sample.image(), sample.expression)
    >>> rows
    CapturedRows(layers=[3], filled=[3])
    >>> rows[3].values.shape
    torch.Size([1, 1, 1, 256])
    """

    def __init__(self, layers: list[int]) -> None:
        self.layers = layers
        self._rows: dict[int, Rows] = {}
        self._prompt: PromptPositions | None = None
        self._seen: dict[int, tuple[Places, int]] = {}  # by layer: places in its sequence, and how long that is
        self._steps: dict[int, list[Tensor]] = {}  # by layer: rows (B, H, 1, V) of decode steps
        self._answered: list[Tensor] = []  # of each step, (B,): False behind the end of an answer

    def __getitem__(self, layer: int) -> Rows:
        if layer not in self.layers:
            raise InputError(f"layer {layer} was not captured; captured layers: {self.layers}")
        if layer not in self._rows:
            raise InputError(_NOTHING)
        rows = self._rows[layer]
        if steps := self._steps.pop(layer, None):
            open_ = torch.stack([own.to(rows.mask.device) for own in self._answered], 1)
            more = rows.query_mask.shape[1] - 1  # steps that were put behind the prefill's row before
            mask = torch.cat([rows.query_mask, open_[:, more : more + len(steps)]], 1)
            values = torch.cat([rows.values, *steps], 2)
            rows = self._rows[layer] = Rows(values, rows.mask, mask, rows.kept, seen=rows.seen)
        return rows

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"CapturedRows(layers={self.layers}, filled={sorted(self._rows)})"

    @property
    def prompt(self) -> PromptPositions:
        """Positions of the latest prefill, on the device of its token ids.

        Raises
        ------
        InputError
            No prompt with an image has run yet.
        """
        if self._prompt is None:
            raise InputError(_NOTHING)
        return self._prompt

    def per_image(
        self, encoded: Encoded, layers: Sequence[int] | None = None, *, device: torch.device | str | None = None
    ) -> list[tuple[TokenLayout, Tensor]]:
        """One map per image: the mean over the query rows of its prompt, or its own row where images have their own.

        Parameters
        ----------
        encoded : Encoded
            The prompts of the latest prefill.
        layers : sequence of int, optional
            Captured layers, in the order of the maps' first axis; by default all.
        device : torch.device or str, optional
            Where the maps of all images go, in one transfer; by default they stay on the device of the first layer.

        Returns
        -------
        list of (TokenLayout, (L, H, N) float32 Tensor)
            In the order of ``encoded.layouts``, N the visual tokens of that image. A token that had been pruned before
            a layer has 0 there. Of prompts that run several times (beam search) the first run is taken. The maps of a
            batch share their memory.

        Raises
        ------
        InputError
            A layer was not captured, or the latest prefill had other prompts.
        """
        batch, n_columns = self.prompt.visual.shape
        repeats, rest = divmod(batch, len(encoded))
        if rest or n_columns != encoded.visual.shape[1]:
            raise InputError(
                f"the latest prefill had {batch} prompts of up to {n_columns} visual tokens, not {len(encoded)} of up "
                f"to {encoded.visual.shape[1]}: pass the prompts that ran last inside the capture block"
            )
        means = [_mean(self[layer], n_columns)[::repeats] for layer in (self.layers if layers is None else layers)]
        maps = torch.stack([mean.to(means[0].device) for mean in means], 1)  # (B, L, H, V)
        maps = maps if device is None else maps.to(device)
        images = zip(encoded.layouts, encoded.owners, encoded.spans, strict=True)
        return [(layout, maps[owner, :, :, first:last]) for layout, owner, (first, last) in images]

    def _append(self, layer: int, values: Tensor) -> None:
        """Take the row of a decode step: (B, H, 1, V)."""
        self._steps.setdefault(layer, []).append(values)

    def _start(self, prompt: PromptPositions) -> None:
        """Another prefill begins: what the one before left is forgotten."""
        for held in (self._rows, self._seen, self._steps, self._answered):
            held.clear()
        self._prompt = prompt


_NOTHING = "nothing captured yet: run the model on a prompt with an image inside the capture block"


def mean_over_queries(rows: Rows) -> Rows:
    """Rows of a single query, the mean over the query rows; fillers add nothing, because they are 0.

    Where images have rows of their own, each column has that of its image.

    Examples
    --------
    >>> values = torch.tensor([[[[0.1, 0.3], [0.3, 0.5], [0.0, 0.0]]]])
    >>> rows = Rows(values, torch.ones(1, 2, dtype=torch.bool), torch.tensor([[True, True, False]]))
    >>> mean_over_queries(rows).values
    tensor([[[[0.2000, 0.4000]]]])
    """
    if rows.row_of is not None:
        at = rows.row_of[:, None, None].expand(-1, rows.values.shape[1], 1, -1)
        return Rows(rows.values.gather(2, at), rows.mask, rows.query_mask.any(1, keepdim=True), rows.kept)
    count = rows.query_mask.sum(1).clamp(min=1)[:, None, None, None]
    mean = rows.values.sum(2, keepdim=True) / count
    return Rows(mean, rows.mask, rows.query_mask.any(1, keepdim=True), rows.kept)


def _mean(rows: Rows, n_columns: int) -> Tensor:
    """(B, H, V) mean over the query rows, at the V original visual tokens."""
    mean = mean_over_queries(rows).values[:, :, 0]
    if rows.kept is None:
        return mean
    # one spare column takes the fillers, so that they overwrite nothing
    original = rows.kept.masked_fill(~rows.mask, n_columns)[:, None].expand_as(mean)
    return mean.new_zeros(*mean.shape[:2], n_columns + 1).scatter(2, original, mean)[..., :n_columns]
