"""What may be said on loading a model, what is refused, and what changes its answers. No weights are read here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from biaslab._util.text import first_line
from biaslab.errors import InputError

__all__ = ["NEUTRAL", "check_arguments", "check_attention", "check_settings", "quantization", "with_settings"]

#: arguments of ``from_pretrained`` that place or find the weights and change no answer
NEUTRAL = frozenset({
    "disable_mmap", "local_files_only", "low_cpu_mem_usage", "max_memory", "offload_buffers", "offload_folder",
    "offload_state_dict",
})  # fmt: skip
_ARGUMENTS = NEUTRAL | {"experts_implementation", "fusion_config", "generation_config", "quantization_config"}
_CODE = "no code is fetched or run that is not installed"
_FILES = "it names other files or weights: give the folder of what you mean"
_PARALLEL = "tensor parallelism is not served: device_map spreads a model over devices"
_OURS = "it is set here"
_REFUSED = {
    **dict.fromkeys(("trust_remote_code", "code_revision", "custom_generate", "use_kernels", "kernel_config",
                     "allow_all_kernels"), _CODE),
    **dict.fromkeys(("use_safetensors", "weights_only", "from_tf", "from_flax"), "weights are safetensors alone"),
    **dict.fromkeys(("config", "state_dict", "gguf_file", "subfolder", "variant", "key_mapping", "cache_dir", "token",
                     "proxies", "force_download", "mirror"), _FILES),
    **dict.fromkeys(("tp_plan", "tp_size", "device_mesh", "distributed_config"), _PARALLEL),
    "ignore_mismatched_sizes": "weights that do not fit would be random",
    **dict.fromkeys(("adapter_kwargs", "adapter_name"), "give adapter="),
    **dict.fromkeys(("output_loading_info", "return_unused_kwargs", "tqdm_class"), _OURS),
    "torch_dtype": "give dtype=",
}  # fmt: skip
_ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_LIBRARIES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_BITS = ("4bit", "8bit")


def check_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments of ``from_pretrained`` that run foreign code, read pickles or name other weights.

    Raises
    ------
    InputError
        Naming the argument and why.

    Examples
    --------
    >>> from biaslab.models.load_options import check_arguments
    >>> check_arguments({"max_memory": {0: "20GiB"}})
    >>> check_arguments({"trust_remote_code": True})
    Traceback (most recent call last):
    biaslab.errors.InputError: trust_remote_code is not taken: no code is fetched or run that is not installed
    """
    for name in given:
        if name in _REFUSED or name.startswith("_"):
            raise InputError(f"{name} is not taken: {_REFUSED.get(name, _OURS)}")


def check_attention(name: Any) -> None:
    """Refuse an attention that transformers does not have here, and one that it would fetch from a hub.

    Parameters
    ----------
    name : str
        Such as "sdpa"; any name that is registered in transformers' ``ALL_ATTENTION_FUNCTIONS`` is taken.

    Raises
    ------
    InputError
        In one line that names the fix.

    Examples
    --------
    >>> from biaslab.models.load_options import check_attention
    >>> check_attention("eager")
    >>> check_attention("kernels-community/flash-attn2")
    Traceback (most recent call last):
    biaslab.errors.InputError: attention 'kernels-community/flash-attn2' is code from a hub, which is not run: use \
sdpa, eager, flash_attention_2, flash_attention_3, flash_attention_4 or flex_attention
    """
    names = f"use {', '.join(_ATTENTIONS[:-1])} or {_ATTENTIONS[-1]}"
    if not isinstance(name, str):
        raise InputError(f"an attention is a name, got {name!r}: {names}")
    if "/" in name:
        raise InputError(f"attention {name!r} is code from a hub, which is not run: {names}")
    library = _LIBRARIES.get(name)
    if library is not None and not _is_installed(library):
        raise InputError(f"attention {name!r} needs the library {library}, which is not installed: use sdpa")
    if name in _ATTENTIONS:
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        raise InputError(f"unknown attention {name!r}: {names}")


def check_settings(unused: Mapping[str, Any]) -> None:
    """Refuse what neither the model's configuration nor ``from_pretrained`` has.

    Parameters
    ----------
    unused : mapping
        The arguments that the configuration did not take.

    Raises
    ------
    InputError
        For a misspelt or inapplicable argument.
    """
    if unknown := sorted(unused.keys() - _ARGUMENTS):
        raise InputError(
            f"{unknown[0]} is no setting of this model's configuration and no argument of from_pretrained that is "
            f"taken ({', '.join(sorted(_ARGUMENTS))})"
        )


def with_settings(make: Callable[..., Any], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Make a configuration with the settings that are given.

    Parameters
    ----------
    make : callable
        ``from_pretrained`` or ``from_dict`` of transformers, with its other arguments bound.
    given : mapping

    Returns
    -------
    config, unused : PreTrainedConfig, dict
        And what of ``given`` is no setting of it.

    Raises
    ------
    InputError
        Settings that contradict the others.
    """
    try:
        return make(return_unused_kwargs=True, **given)
    except Exception as err:  # of transformers' validators
        raise InputError(f"the model's configuration does not take these settings: {first_line(err)}") from err


def quantization(load_in: str | None, given: Mapping[str, Any], dtype: Any = "auto") -> Any:
    """Say how the weights are quantised at loading.

    Parameters
    ----------
    load_in : {"4bit", "8bit"}, optional
        4-bit NormalFloat, computed in ``dtype`` (bfloat16 by default), or LLM.int8(), of bitsandbytes.
    given : mapping
        The other arguments, which may hold a ``quantization_config`` in its place.
    dtype : str or torch.dtype
        As asked for.

    Returns
    -------
    BitsAndBytesConfig, whatever ``given`` holds, or None

    Raises
    ------
    InputError
        Another ``load_in``, both ways at once, or a machine without bitsandbytes.
    """
    own = given.get("quantization_config")
    if load_in is None:
        return own
    if load_in not in _BITS:
        raise InputError(f"unknown load_in={load_in!r}: use {' or '.join(_BITS)}")
    if own is not None:
        raise InputError("give load_in= or quantization_config=, not both")
    if not _is_installed("bitsandbytes"):
        raise InputError(f"load_in={load_in!r} needs bitsandbytes: pip install bitsandbytes, or leave it out")
    from transformers import BitsAndBytesConfig

    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = "bfloat16" if dtype == "auto" else str(dtype).removeprefix("torch.")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None
