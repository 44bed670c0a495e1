"""Pruned generation the slow and obvious way: one forward without cache in which dropped keys are hidden."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from biaslab.evaluation.decoding.one_generate import static_options
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM
from biaslab.pruning import Method, Selection
from biaslab.pruning.engine.prune import engaged

__all__ = ["dropped", "generate", "generate_by_steps", "masked_logits"]

STEPS = 4
_IMAGE_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def generate(vlm: VLM, encoded: Encoded, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Greedy tokens (B, steps) and their logits (B, steps, vocabulary); words only, no end."""
    ids = [getattr(vlm.model.config, name, None) for name in _IMAGE_TOKENS]
    with vlm.running(encoded) as given, torch.no_grad():
        out = vlm.model.generate(
            **given, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True,
            suppress_tokens=[i for i in ids if i is not None], min_new_tokens=steps,
        )  # fmt: skip
    return out.sequences[:, -steps:], torch.stack(out.logits, 1)


def generate_by_steps(
    vlm: VLM, encoded: Encoded, method: Method, layer: int, way: str, steps: int
) -> tuple[Tensor, Tensor, list[Selection]]:
    """Do as `generate` under pruning, decoding by static steps or graphs; another way than asked for is an error.

    So is a step behind the answer's end. Logits of suppressed tokens are -inf. The selections come third.
    """
    ids = [getattr(vlm.model.config, name, None) for name in _IMAGE_TOKENS]
    seen: list[Tensor] = []

    def keep(given: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores.clone())
        return scores

    with (
        engaged(vlm, method, layer, positions="original", seed=0) as engine,
        vlm.running(encoded) as given,
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("error", "decode=")
        out = vlm.model.generate(
            **given, max_new_tokens=steps, do_sample=False, logits_processor=LogitsProcessorList([keep]),
            suppress_tokens=[i for i in ids if i is not None], min_new_tokens=steps,
            **static_options(vlm, way, steps, engine, "original", None),
        )  # fmt: skip
        if len(seen) != steps:
            raise RuntimeError(f"{len(seen)} tokens were chosen for an answer of {steps}")
        return out[:, -steps:], torch.stack(seen, 1), list(engine.run.selections)


def dropped(encoded: Encoded, selections: Sequence[Selection]) -> Tensor:
    """(B, N) True where a visual token was dropped."""
    gone = torch.zeros_like(encoded.inputs["input_ids"], dtype=torch.bool)
    for row, (first, last), selection in zip(encoded.owners, encoded.spans, selections, strict=True):
        own = encoded.visual[row, first:last]
        gone[row, own] = True
        gone[row, own[selection.indices.to(own.device)]] = False
    return gone


def masked_logits(vlm: VLM, encoded: Encoded, answer: Tensor, gone: Tensor, layer: int) -> Tensor:
    """Logits of every token of the answer, nothing removed, the keys of ``gone`` hidden from layer ``layer`` on."""
    n, device = encoded.last + 1, answer.device
    at = _positions(vlm, encoded)
    steps = torch.arange(answer.shape[1], device=device)
    with vlm.running(encoded) as given:  # the inputs alone: this forward is no prefill of anything
        whole: dict[str, Any] = dict(given)
    whole["input_ids"] = torch.cat([whole["input_ids"], answer], 1)
    whole["attention_mask"] = torch.cat([whole["attention_mask"], torch.ones_like(answer)], 1)
    whole["position_ids"] = torch.cat([at, at[..., -1:] + 1 + steps], -1)
    for name in {"mm_token_type_ids", "token_type_ids"} & set(whole):
        whole[name] = torch.cat([whole[name], torch.zeros_like(answer)], 1)
    real = whole["attention_mask"].bool()
    gone = torch.cat([gone, torch.zeros_like(answer, dtype=torch.bool)], 1)
    order = torch.arange(real.shape[1], device=device)
    causal = ((order <= order[:, None]) & real[:, None])[:, None]
    alone = torch.eye(real.shape[1], dtype=torch.bool, device=device)  # a hidden row sees itself: none is empty

    def hand_over(index: int) -> Callable[..., Any]:
        mask = (causal & ~gone[:, None, None] if index >= layer else causal) | alone
        return lambda module, args, kwargs: (args, {**kwargs, "attention_mask": mask})

    handles = [block.register_forward_pre_hook(hand_over(i), with_kwargs=True)
               for i, block in enumerate(vlm.decoder.layers)]  # fmt: skip
    try:
        with torch.no_grad():
            return vlm.model(**whole, use_cache=False).logits[:, n - 1 : -1]
    finally:
        for handle in handles:
            handle.remove()


def _positions(vlm: VLM, encoded: Encoded) -> Tensor:
    """Position ids that ``generate`` hands to the decoder at the prefill, (..., B, N)."""
    found: list[Tensor] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found.append(kwargs["position_ids"])

    handle = vlm.decoder.register_forward_pre_hook(look, with_kwargs=True)
    try:
        generate(vlm, encoded, steps=1)
    finally:
        handle.remove()
    return found[0].expand(*found[0].shape[:-2], *encoded.inputs["input_ids"].shape)
