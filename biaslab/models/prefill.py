"""The state of a running prefill: which prompts a model was handed, and what has been cut out of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.errors import UnsupportedError

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.generation import GenerateCall

__all__ = ["PrefillState", "PromptIds", "PrunedSequence"]


@dataclass(frozen=True, eq=False)
class PromptIds:
    """The prompts of a forward, without what generation has put behind them.

    Attributes
    ----------
    ids : LongTensor (R * B, N)
        Token ids; the forward may go on behind them with candidates of assisted decoding.
    padding : Tensor (R * B, N), optional
        0 or False for padding; None where nothing is known to be padding.
    repeats : int
        R: consecutive rows that are copies of one prompt (beams, several answers).
    """

    ids: Tensor
    padding: Tensor | None
    repeats: int


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
    There are three writers. Whoever hands prompts to the model announces them for as long as they run: `VLM.running`
    (and through it ``forward``, ``generate``, ``ask`` and ``locate``) calls `announce`. Whoever drops tokens says so:
    the pruning engine calls `cut` as a layer gets the short sequence, `trim` as layers lose tokens behind the prefill,
    and `clear` when the next prefill begins and when its block ends. `biaslab.models.generation.watched` tells of the
    calls of ``generate`` (`generate`). Everyone
    else, capture above all, only reads.
    """

    def __init__(self) -> None:
        self._encoded: Encoded | None = None
        self._calls: list[GenerateCall] = []
        self._pruned: list[PrunedSequence] = []
        self._trimmed = 0

    @property
    def encoded(self) -> Encoded | None:
        """The announced prompts; None while none run, and in a forward that nobody announced."""
        return self._encoded

    @property
    def generating(self) -> bool:
        """Whether a call of ``model.generate`` is running."""
        return bool(self._calls)

    @property
    def pruned(self) -> tuple[PrunedSequence, ...]:
        """The cuts of the latest prefill inside a prune block, in the order they were made; empty otherwise."""
        return tuple(self._pruned)

    def seen_by(self, layer: int) -> PrunedSequence | None:
        """Find the short sequence that decoder layer ``layer`` sees; None where it sees the whole prompt."""
        return max((cut for cut in self._pruned if cut.layer <= layer), key=lambda cut: cut.layer, default=None)

    @property
    def trimmed(self) -> int:
        """Layers below this one have run the whole prompt and hold what the last cut has left; 0 for none."""
        return self._trimmed

    @contextmanager
    def announce(self, encoded: Encoded) -> Iterator[None]:
        """Make ``encoded`` the prompts that run inside the block; those of an outer block come back after it."""
        outer = self._encoded
        self._encoded = encoded
        try:
            yield
        finally:
            self._encoded = outer

    @contextmanager
    def generate(self, call: GenerateCall) -> Iterator[None]:
        """Make ``call`` the running call of ``model.generate``; calls inside it nest."""
        self._calls.append(call)
        try:
            yield
        finally:
            self._calls.pop()

    def prompt_in(self, ids: Tensor, mask: Any) -> PromptIds | None:
        """Find the prompts in a forward that starts on an empty cache.

        Parameters
        ----------
        ids : LongTensor (R * B, T)
            Token ids of the forward.
        mask : Tensor, dict of them, or None
            Its attention mask; only one of two dimensions tells padding.

        Returns
        -------
        PromptIds or None
            None for a forward inside ``generate`` that is not its prefill: a later step without a cache, a second
            prompt (guidance), an assistant that is the same model. Outside ``generate`` every forward is a prompt.

        Raises
        ------
        UnsupportedError
            A ``generate`` whose first forward does not start with its prompt.
        """
        padding = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        if not self._calls:
            return PromptIds(ids, padding, 1 if self._encoded is None else max(1, len(ids) // len(self._encoded)))
        call = self._calls[0]
        if len(self._calls) > 1 or call.forwards:
            return None
        prompt = ids if call.ids is None else call.ids.to(ids.device)
        batch, length = prompt.shape
        repeats, rest = divmod(len(ids), batch)
        if rest or not torch.equal(ids[:, :length], prompt.repeat_interleave(repeats, 0)):
            raise UnsupportedError(
                "the first forward of this generate does not start with its prompt: leave out custom_generate"
            )
        if padding is None and call.padding is not None:  # a static cache is given a mask of four dimensions
            padding = call.padding.to(ids.device).repeat_interleave(repeats, 0)
        return PromptIds(ids[:, :length], None if padding is None else padding[:, :length], repeats)

    def cut(self, sequence: PrunedSequence) -> None:
        """Say that tokens have been dropped: layers from ``sequence.layer`` on see ``sequence``."""
        self._pruned.append(sequence)

    def trim(self, layer: int) -> None:
        """Say that the KV cache of layers below ``layer`` has been cut as well, behind the prefill."""
        self._trimmed = layer

    def clear(self) -> None:
        """Forget the cuts; the announced prompts stay until their block ends."""
        self._pruned.clear()
        self._trimmed = 0
