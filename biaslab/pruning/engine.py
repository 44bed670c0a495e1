"""Dropping visual tokens inside an unmodified model, at the prefill, in front of one decoder layer.

Only forward hooks are used. Layers below K run on the whole prompt and keep its whole KV cache; layer K and
those after it see text and kept tokens, at their original positions. Nothing changes at decode, where only a
padding mask, if there is one, has to lose the columns of the dropped tokens: every cache layer knows its own
length, and the positions of new tokens come from ``generate``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

from torch import nn

from biaslab.errors import UnsupportedError

from .base import Method, Selection
from .hooks import Engine
from .registry import make
from .support import check_profile, check_setup

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["PruneRun", "prune"]

_ACTIVE: WeakSet[nn.Module] = WeakSet()  # decoders that are being pruned


class PruneRun:
    """What happened inside a `prune` block; readable after it.

    Attributes
    ----------
    method, layer, positions, seed : as given to `prune`.
    selections : list of Selection, one per image of the latest prefill, in the order of the prompts (with one
        image per prompt: one per sample); empty if it held no image. The budget is each image's own.
    counts : list of int, visual tokens of each image before pruning.
    times : dict, with ``timed=True``: milliseconds of the latest prefill spent on the attention rows
        ("attention_ms") and on scoring and selecting ("select_ms").
    """

    def __init__(self, method: Method, layer: int, positions: str, seed: int) -> None:
        self.method, self.layer, self.positions, self.seed = method, layer, positions, seed
        self.clear()

    def clear(self) -> None:
        """Forget the latest prefill."""
        self.selections: list[Selection] = []
        self.counts: list[int] = []
        self.times: dict[str, float] = {}
        self._lengths: list[int] = []

    def kv_lengths(self) -> list[int]:
        """Entries in the KV cache of every layer after the latest forward, padding and fillers included."""
        return list(self._lengths)

    def __repr__(self) -> str:
        kept = [len(s.indices) for s in self.selections]
        return f"PruneRun({self.method.name!r}, layer={self.layer}, kept={kept} of {self.counts})"


@contextmanager
def prune(
    vlm: VLM,
    method: Method | str,
    layer: int,
    positions: str = "original",
    seed: int = 0,
    timed: bool = False,
) -> Iterator[PruneRun]:
    """Prune the visual tokens of every prompt that ``vlm`` runs inside the block.

    Parameters
    ----------
    vlm : VLM
    method : Method or name of one
        What to keep. Attention it needs is that of layer K - 1 in the same forward.
    layer : int
        K: tokens are dropped just before this decoder layer; 0 drops them before the decoder, which only methods
        without attention can do.
    positions : "original" or "renumber"
        Kept tokens keep their position ids, or close ranks (in layers >= K; 1-D rotary positions only).
    seed : int
        Of the run; every sample derives its own from this and its sample id (its row where it has none).
    timed : bool
        Measure scoring and selection; waits for the device.

    Yields
    ------
    PruneRun

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        Before any work, for what cannot be right; from inside the forward, before it starts, where only the
        forward shows it (no KV cache, a later turn at K = 0, a cache filled elsewhere, unknown layout).

    Notes
    -----
    The selection is made once, at the prefill, sample by sample. Further turns on the same cache are possible
    for K >= 1; images in them are refused. Under pruning a forward returns logits for the short sequence
    only: index the text from the right.
    """
    method = make(method) if isinstance(method, str) else method
    check_setup(vlm, method, layer, positions)
    check_profile(vlm, method, layer)
    if vlm.decoder in _ACTIVE:
        raise UnsupportedError("this model is being pruned already: leave the outer prune block first")
    engine = Engine(vlm, PruneRun(method, layer, positions, seed), timed)
    with ExitStack() as stack:
        _ACTIVE.add(vlm.decoder)
        stack.callback(_ACTIVE.discard, vlm.decoder)
        stack.callback(vlm.pruned.clear)
        engine.attach(stack)
        yield engine.run
