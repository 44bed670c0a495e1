"""Attention rows that the tokens of an answer are chosen from, recorded at the decode steps of a running generate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from biaslab.attention.hook import row_options, watch
from biaslab.attention.rows import CapturedRows
from biaslab.attention.scores import reads_rope
from biaslab.errors import UnsupportedError
from biaslab.models.generation import GenerateCall, watched

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["decode_rows"]

_MODES = ("greedy_search", "sample")


@contextmanager
def decode_rows(vlm: VLM, captured: CapturedRows, score_of: Callable, heads: str) -> Iterator[None]:
    """Add to the rows of each prefill those of the decode steps that follow it, as long as the block lasts.

    Parameters
    ----------
    vlm : VLM
    captured : CapturedRows
        Filled at each prefill, with the places of the visual tokens in the cache of every layer.
    score_of : callable
        Of `biaslab.attention.scores`.
    heads : "all" or "mean"

    Raises
    ------
    UnsupportedError
        When ``generate`` is called in a way that has no decode step per token: beams, candidates, no cache. At a decode
        step, for a layer whose KV cache has been trimmed.
    """
    steps = _Steps(vlm, captured)

    def record(layer: int) -> Callable:
        def callback(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
            scaling: float, **kw: Any,
        ) -> None:  # fmt: skip
            if steps.n == 0 or query.shape[2] != 1:
                return
            if layer < vlm.prefill.trimmed:
                raise UnsupportedError(
                    f"layer {layer} has lost tokens between prompt and answer: capture layers from "
                    f"{vlm.prefill.trimmed} on, or prune with cache='full'"
                )
            at, length = captured._seen[layer]
            # a layer with a sliding window keeps the latest keys alone: the columns move to the left, some of them out
            cols = at.cols - max(0, length + steps.n - key.shape[2])
            there = at.cols_mask & (cols >= 0)
            options = row_options(module, kw)
            options.update(cols=cols.clamp(min=0), scaling=scaling, attention_mask=attention_mask)
            rows = torch.zeros(len(query), 1, dtype=torch.long, device=query.device)
            values = score_of(query, key, value, kw.get("cos"), kw.get("sin"), rows=rows, **options).float()
            values = values.mean(1, keepdim=True) if heads == "mean" else values
            assert steps.open is not None
            shown = there[:, None, None, :] & steps.open.to(there.device)[:, None, None, None]
            captured._append(layer, values.masked_fill(~shown, 0.0))

        return callback

    with ExitStack() as stack:
        stack.enter_context(watched(vlm.model, vlm.prefill, steps.check))
        stack.enter_context(watch(vlm.model, {i: record(i) for i in captured.layers}, rope=reads_rope(score_of)))
        stack.callback(vlm.model.register_forward_pre_hook(steps.begin, with_kwargs=True).remove)
        yield


class _Steps:
    """Follows the forwards of a generate: how many decode steps there were, and whose answers go on."""

    def __init__(self, vlm: VLM, captured: CapturedRows) -> None:
        self.vlm, self.captured = vlm, captured
        self.n = 0  # of the running step; 0 outside of decode steps
        self.open: Tensor | None = None  # (B,), of the running step
        self._ends: Tensor | None = None
        self._taken = 0

    def check(self, call: GenerateCall) -> None:
        settings = call.settings
        if call.mode not in _MODES or not settings.use_cache:
            how = call.mode.replace("_", " ") if settings.use_cache else "generate without a cache"
            raise UnsupportedError(
                f"rows of generated tokens need one decode step per token, which {how} has not: generate greedily, "
                "with use_cache=True"
            )
        ends = settings.eos_token_id
        self._ends = torch.as_tensor([] if ends is None else ends, dtype=torch.long).flatten()

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.n = 0
        if ids is None or ids.shape[1] != 1:
            self._taken, self.open = 0, None
            return
        if not self.vlm.prefill.generating or not self.captured:
            return
        assert self._ends is not None
        if self._taken == 0:
            self.open = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
            self._ends = self._ends.to(ids.device)
        assert self.open is not None
        self.open = self.open & ~torch.isin(ids[:, 0], self._ends)
        self._taken += 1
        self.n = self._taken
        self.captured._answered.append(self.open)
