"""What a decoder hands its layers, brought to the short sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from biaslab.errors import UnsupportedError
from biaslab.models.transformers_versions import kv_cache_of
from biaslab.pruning.engine.kv_entries import entries
from biaslab.pruning.engine.pruned_index import PrunedIndex

__all__ = ["ShortInputs"]


class ShortInputs:
    """Cuts masks, rotary tables and positions, once per forward for all layers that share them.

    Parameters
    ----------
    decoder : nn.Module
    positions : "original", "renumber" or "remap"
    """

    def __init__(self, decoder: Any, positions: str) -> None:
        self.decoder, self.positions = decoder, positions
        self._sliced: dict[tuple[str, int, int], tuple[Any, Any]] = {}

    def clear(self) -> None:
        """Forget the running forward."""
        self._sliced.clear()

    def of_layer(
        self, index: int, cut: PrunedIndex, args: tuple, kwargs: dict, hidden: Tensor, *, prefill: bool
    ) -> tuple[tuple, dict]:
        """Make the arguments of decoder layer ``index`` for the short sequence.

        Parameters
        ----------
        index : int
        cut : PrunedIndex
        args, kwargs
            What the decoder hands the layer; of a prefill for the whole prompt, of a later step for the new tokens.
            ``kwargs`` is written to.
        hidden : (B, M, D) Tensor
            Hidden states that enter the layer, short already.
        prefill : bool

        Returns
        -------
        args, kwargs
        """
        mask, renumber = kwargs.get("attention_mask"), self.positions == "renumber"
        if not (prefill or renumber or mask is not None or cut.pad is not None or hidden.shape[1] > 1):
            return args, kwargs  # a new token that sees all there is: nothing differs from the unpruned model's
        if args:
            args = (hidden, *args[1:])
        else:
            kwargs["hidden_states"] = hidden
        past = 0 if prefill else entries(kv_cache_of(kwargs).layers[index])
        if mask is not None:
            later = 0 if prefill else past - cut.kept + hidden.shape[1]
            kwargs["attention_mask"] = self._once("mask", cut, mask, lambda m: cut.mask(m, prefill, later))
        elif cut.pad is not None:
            implementation = self.decoder.config._attn_implementation
            name = f"mask on {hidden.device}"
            kwargs["attention_mask"] = self._once(name, cut, cut, lambda c: c.build_mask(hidden, implementation, past))
        ids, rope = kwargs.get("position_ids"), kwargs.get("position_embeddings")
        if renumber:
            if ids is None:
                raise UnsupportedError("this decoder does not tell its layers the positions: use positions='original'")
            renumbered = self._once("rope", cut, ids, lambda i: self._renumbered(cut, hidden, i, prefill))
            kwargs["position_embeddings"] = renumbered
        elif prefill and rope is not None:
            short = self._once("rope", cut, rope, lambda r: tuple(cut.placed(x, 1) for x in r))
            kwargs["position_embeddings"] = short
        if "position_ids" in kwargs:
            kwargs["position_ids"] = None  # only read to recognise packed sequences, which gaps would look like
        return args, kwargs

    def _renumbered(self, cut: PrunedIndex, hidden: Tensor, ids: Tensor, prefill: bool) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines of consecutive positions."""
        cut = cut.to(ids.device)
        ids = cut.gather(ids, 1) - cut.n_dropped_before if prefill else ids - cut.n_dropped
        return self.decoder.rotary_emb(hidden, ids.to(hidden.device))

    def _once(self, name: str, cut: PrunedIndex, source: Any, make_it: Callable[[Any], Any]) -> Any:
        """Bring an input that all layers share to the short sequence once per forward."""
        key = (name, id(cut), id(source))
        if key not in self._sliced:
            self._sliced[key] = (
                (cut, source),
                make_it(source),
            )  # holding the sources keeps their ids from being reused
        return self._sliced[key][1]
