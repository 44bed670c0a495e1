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
from biaslab.pruning.base import Method
from biaslab.pruning.engine.checks import check_profile, check_setup
from biaslab.pruning.engine.hooks import Engine
from biaslab.pruning.engine.run import PruneRun
from biaslab.pruning.registry import make

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["PruneRun", "prune"]

_ACTIVE: WeakSet[nn.Module] = WeakSet()  # decoders that are being pruned


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
        stack.callback(vlm.prefill.clear)
        engine.attach(stack)
        yield engine.run
