"""The ways to decode by name, and what cannot be decoded by a static step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from biaslab.errors import InputError
from biaslab.models.answering import generation_options
from biaslab.models.transformers_versions import generation_mode, generation_settings

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["DECODE_WAYS", "check_way", "not_plain_greedy", "not_static"]

DECODE_WAYS = ("dynamic", "static", "graph")
_PARTS = ("embed_tokens", "layers", "norm", "rotary_emb")  # of a decoder whose step is known


def check_way(decode: str, device: torch.device | None = None) -> str:
    """Refuse an unknown way to decode, and CUDA graphs where there is no CUDA.

    Parameters
    ----------
    decode : str
    device : torch.device, optional
        Of the model; before it is loaded, whatever torch sees decides.

    Returns
    -------
    str
        ``decode``.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_way("static")
    'static'
    """
    if decode not in DECODE_WAYS:
        raise InputError(f"decode must be one of {', '.join(DECODE_WAYS)}, got {decode!r}")
    if decode == "graph" and not (torch.cuda.is_available() if device is None else device.type == "cuda"):
        where = "torch sees none here" if device is None else f"this model is on {device}"
        raise InputError(f"decode='graph' needs a CUDA device ({where}): use 'static', the same step without graphs")
    return decode


def not_plain_greedy(vlm: VLM, max_new_tokens: int) -> str | None:
    """Tell why a checkpoint's generation config does not let it decode greedily into a dynamic KV cache, or None."""
    settings = generation_settings(vlm.model, generation_options(vlm, max_new_tokens, {}))
    mode = generation_mode(settings, None)
    if mode != "greedy_search" or getattr(settings, "cache_implementation", None) not in (None, "dynamic"):
        return f"the model generates by {mode}" if mode != "greedy_search" else "the model asks for another KV cache"
    if getattr(settings, "guidance_scale", None) not in (None, 1):
        return "guidance mixes in a second prompt"
    return None


def not_static(vlm: VLM) -> str | None:
    """Tell why a model cannot be decoded by a static step, as far as its configuration says; or None."""
    decoder: Any = vlm.decoder
    config = decoder.config
    implementation = config._attn_implementation
    if missing := [name for name in _PARTS if not hasattr(decoder, name)]:
        return f"{type(decoder).__name__} has no {', '.join(missing)}"
    if implementation not in ("sdpa", "eager"):
        return f"{implementation} attention takes no mask of a fixed width (load with attn_implementation='sdpa')"
    if other := set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return f"it has layers of {', '.join(sorted(other))}"
    devices = {p.device for p in vlm.model.parameters()}
    if len(devices) > 1 or "meta" in {device.type for device in devices}:
        return "its parts lie on several devices"
    if torch.is_autocast_enabled(vlm.device.type):
        return "autocast is on, which keeps casts of the weights for itself"
    if vlm.model.get_output_embeddings() is None:
        return f"{type(vlm.model).__name__} does not tell what makes its logits"
    return None
