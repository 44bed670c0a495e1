"""The state of a running prefill: which prompts a model was handed, and what has been cut out of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded

__all__ = ["PrefillState", "PrunedSequence"]


@dataclass(frozen=True, eq=False)
class PrunedSequence:
    """The short sequence that layers from ``layer`` on see instead of the whole prompt.

    Attributes
    ----------
    layer : int
        Layers >= this one see the short sequence (until a later cut takes over).
    positions : LongTensor (B, M)
        Position in the ORIGINAL padded prompt of every entry of the short sequence, ascending, text included.
    valid : BoolTensor (B, M), optional
        False for fillers of rows with unequal budgets; None when there are none.
    """

    layer: int
    positions: Tensor
    valid: Tensor | None = None


class PrefillState:
    """What is known of the prompts that one model is running; ``vlm.prefill`` is the only one of its model.

    Notes
    -----
    There are two writers. Whoever hands prompts to the model announces them for as long as they run: `VLM.running`
    (and through it ``forward``, ``generate``, ``ask`` and ``locate``) calls `announce`. Whoever drops tokens says so:
    the pruning engine calls `cut` as a layer gets the short sequence, and `clear` when the next prefill begins and
    when its block ends. Everyone else, capture above all, only reads.
    """

    def __init__(self) -> None:
        self._encoded: Encoded | None = None
        self._pruned: list[PrunedSequence] = []

    @property
    def encoded(self) -> Encoded | None:
        """The announced prompts; None while none run, and in a forward that nobody announced."""
        return self._encoded

    @property
    def pruned(self) -> tuple[PrunedSequence, ...]:
        """The cuts of the latest prefill inside a prune block, in the order they were made; empty otherwise."""
        return tuple(self._pruned)

    def seen_by(self, layer: int) -> PrunedSequence | None:
        """Find the short sequence that decoder layer ``layer`` sees; None where it sees the whole prompt."""
        return max((cut for cut in self._pruned if cut.layer <= layer), key=lambda cut: cut.layer, default=None)

    @contextmanager
    def announce(self, encoded: Encoded) -> Iterator[None]:
        """Make ``encoded`` the prompts that run inside the block; those of an outer block come back after it."""
        outer = self._encoded
        self._encoded = encoded
        try:
            yield
        finally:
            self._encoded = outer

    def cut(self, sequence: PrunedSequence) -> None:
        """Say that tokens have been dropped: layers from ``sequence.layer`` on see ``sequence``."""
        self._pruned.append(sequence)

    def clear(self) -> None:
        """Forget the cuts; the announced prompts stay until their block ends."""
        self._pruned.clear()
