"""What `VLM.generate` asks of ``model.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from biaslab._util.arguments import at_least_one

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["generation_options", "stop_ids"]


def generation_options(vlm: VLM, max_new_tokens: int, given: dict[str, Any]) -> dict[str, Any]:
    """Options of ``model.generate``: greedy and cached unless ``given`` says otherwise.

    Everything else (such as a repetition penalty) stays as the checkpoint's generation config has it.
    """
    # some generation configs say use_cache: false, with which every step would be a new prefill
    options: dict[str, Any] = {
        "max_new_tokens": at_least_one("max_new_tokens", max_new_tokens),
        "do_sample": False,
        "use_cache": True,
    }
    if not given.get("do_sample"):
        options.update(temperature=None, top_p=None, top_k=None)
    options["eos_token_id"] = stop_ids(vlm)
    if vlm.model.generation_config.pad_token_id is None:
        options["pad_token_id"] = vlm.processor.tokenizer.pad_token_id
    return {**options, **given}


def stop_ids(vlm: VLM) -> list[int] | None:
    """Collect the end tokens of the generation config and of the chat format: some configs lack the latter."""
    own = vlm.model.generation_config.eos_token_id
    ids = set(own if isinstance(own, (list, tuple)) else [] if own is None else [own])
    tokenizer = vlm.processor.tokenizer
    vocabulary = tokenizer.get_vocab()
    ids.update(vocabulary[t] for t in (*vlm.family.stop_tokens, tokenizer.eos_token) if t in vocabulary)
    return sorted(ids) or None
