"""What differs between versions of transformers, all of it in one place.

The KV cache changed its keyword in 5.24 (``past_key_values`` -> ``cache``), on models, decoders and layers alike. A
forward may still be called with the old one, so both names are read, whatever the version.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from biaslab.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "NEWEST_TESTED",
    "OLDEST",
    "REMOTE_MODES",
    "check_layer_arguments",
    "constant_arguments",
    "generation_mode",
    "generation_settings",
    "kv_cache_of",
    "processors_of_rows",
    "rope_limit",
    "warn_if_untested",
    "with_kv_cache",
    "without_kv_cache",
]

OLDEST, NEWEST_TESTED = "5.20", "5.24"

#: ways to generate that transformers names and runs as code from the hub
REMOTE_MODES = frozenset({"contrastive_search", "dola_generation", "group_beam_search", "constrained_beam_search"})

_CACHE_NAMES = ("cache", "past_key_values")
# What a decoder layer may be given that depends on the positions of the prompt, all of which pruning shortens.
_POSITIONAL = {"hidden_states", "attention_mask", "position_ids", "position_embeddings", *_CACHE_NAMES}


def kv_cache_of(kwargs: Mapping[str, Any]) -> Any:
    """Find the KV cache among the keyword arguments of a forward, or None."""
    return next((kwargs[name] for name in _CACHE_NAMES if kwargs.get(name) is not None), None)


def with_kv_cache(kwargs: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """Copy the keyword arguments of a forward, with another KV cache under the name that theirs has."""
    name = next((name for name in _CACHE_NAMES if kwargs.get(name) is not None), None)
    if name is None:
        raise UnsupportedError(f"no KV cache under a known name (but {', '.join(kwargs)}): {_advice()}")
    return {**kwargs, name: cache}


def without_kv_cache(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the keyword arguments of a forward, with no KV cache among them."""
    return {name: value for name, value in kwargs.items() if name not in _CACHE_NAMES}


def generation_settings(model: Any, given: Mapping[str, Any]) -> Any:
    """Work out what holds for a call of ``model.generate``, as ``generate`` itself does before anything else.

    Parameters
    ----------
    model : PreTrainedModel
    given : mapping
        Arguments of the call by name.

    Returns
    -------
    GenerationConfig
        The given one or the given options over the checkpoint's over the defaults. A copy.
    """
    options = {k: v for k, v in given.items() if k not in _NO_SETTINGS}
    settings, _ = model._prepare_generation_config(given.get("generation_config"), **options)
    return settings


# arguments of generate that are no settings
_NO_SETTINGS = {
    "inputs", "generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus",
    "assistant_model", "streamer", "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate",
    "trust_remote_code", "tokenizer", "assistant_tokenizer", "use_model_defaults",
}  # fmt: skip


def generation_mode(settings: Any, assistant: Any) -> str:
    """Name the way to generate, as transformers does: "greedy_search", "assisted_generation" and so on."""
    return str(settings.get_generation_mode(assistant).value)


def processors_of_rows(processors: Any, index: Tensor) -> Any:
    """Let the logits processors of a batch see some of its rows, (R,) int64, as often as they are named.

    The repetition penalty knows how long each row's left padding is.
    """
    if not isinstance(processors, list):
        return processors
    picked = copy.copy(processors)
    for place, processor in enumerate(processors):
        padding: Any = getattr(processor, "prompt_ignore_length", None)
        if getattr(padding, "ndim", 0) == 1:
            picked[place] = copy.copy(processor)
            picked[place].prompt_ignore_length = padding[index.to(padding.device)]
    return picked


def check_layer_arguments(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], length: int) -> None:
    """Refuse a decoder layer whose arguments are not understood.

    Parameters
    ----------
    module : nn.Module
        The layer.
    args, kwargs
        Of its forward at a prefill.
    length : int
        Tokens of the prompt: what else is as long as it would have to be shortened too.

    Raises
    ------
    UnsupportedError
        No hidden states or KV cache under a name known here, or something of the prompt's length under one that is not.
    """
    name, arguments = type(module).__name__, ", ".join(k for k, v in kwargs.items() if v is not None)
    if not args and kwargs.get("hidden_states") is None:
        raise UnsupportedError(f"{name} was given no hidden_states (but {arguments}): {_advice()}")
    if kv_cache_of(kwargs) is None:
        raise UnsupportedError(f"{name} was given no KV cache under a known name (but {arguments}): {_advice()}")
    own = inspect.signature(type(module).forward).parameters  # what only passes through it is not its business
    unknown = [k for k, v in kwargs.items() if k in own and k not in _POSITIONAL and _has_length(v, length)]
    if len(args) > 1 or unknown:
        what = ", ".join(unknown) or "positional arguments"
        raise UnsupportedError(f"{name} was given {what} as long as the prompt, unknown to pruning: {_advice()}")


def constant_arguments(args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Find what a decoder layer is given at every decode step alike.

    Parameters
    ----------
    args, kwargs
        Of its forward at one step.

    Returns
    -------
    dict
        Keyword arguments without hidden states, mask and positions; the KV cache is among them.

    Raises
    ------
    UnsupportedError
        A tensor under another name, which may change from step to step.
    """
    given = {name: value for name, value in kwargs.items() if name not in _POSITIONAL}
    unknown = [name for name, value in given.items() if value is not None and not isinstance(value, (bool, int, str))]
    given |= {name: kwargs[name] for name in _CACHE_NAMES if kwargs.get(name) is not None}
    if len(args) > 1 or unknown or not isinstance(kwargs.get("position_embeddings"), tuple):
        what = ", ".join(unknown) or ("positional arguments" if len(args) > 1 else "no cosines and sines")
        raise UnsupportedError(f"its layers are given {what} at a decode step")
    return given


def rope_limit(decoder: Any) -> int | None:
    """Tell up to how many positions a decoder's rotary embedding stays the same; None without a limit.

    Those of type "dynamic" and "longrope" change their frequencies, for all positions, once a sequence gets longer.
    """
    parameters: dict[str, Any] = getattr(decoder.config, "rope_parameters", None) or {}
    if parameters.get("rope_type") == "longrope":
        return int(parameters.get("original_max_position_embeddings", 0))
    changing = ("dynamic", "longrope")
    every = [parameters, *(value for value in parameters.values() if isinstance(value, Mapping))]
    if not any(kind in str(each.get("rope_type")) for each in every for kind in changing):
        return None
    return int(getattr(decoder.rotary_emb, "original_max_seq_len", 0))


def _has_length(value: Any, length: int) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_length(v, length) for v in value)
    return length in getattr(value, "shape", ())


def _advice() -> str:
    version = _installed()
    if _newer(version):
        fix = f"transformers {version} is new to biaslab, which was tested with {OLDEST} to {NEWEST_TESTED}"
        return f"{fix}: install 'transformers<{_next(NEWEST_TESTED)}' or a newer biaslab"
    return f"biaslab was tested with transformers {OLDEST} to {NEWEST_TESTED} (here: {version}), not with this layer"


@cache
def warn_if_untested() -> None:
    """Warn, once per process, about a transformers minor that is newer than the newest tested one."""
    version = _installed()
    if _newer(version):
        warnings.warn(
            f"transformers {version} is new to biaslab, which was tested with {OLDEST} to {NEWEST_TESTED}: "
            "compare a first run with a known number, or install "
            f"'transformers<{_next(NEWEST_TESTED)}'",
            stacklevel=3,
        )


def _installed() -> str:
    from transformers import __version__

    return __version__


def _newer(version: str) -> bool:
    return _minor(version) > _minor(NEWEST_TESTED)


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _next(version: str) -> str:
    major, minor = _minor(version)
    return f"{major}.{minor + 1}"
