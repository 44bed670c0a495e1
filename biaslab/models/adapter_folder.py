"""Adapter folders: LoRA and the like beside a base model, as PEFT saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from biaslab.errors import InputError, ModelError

__all__ = ["base_of", "is_adapter", "with_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> tuple[str, str | None]:
    """Read which model an adapter is for, before anything is loaded.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    name, revision : str, str or None
        Of the base model, as the adapter's configuration has them.

    Raises
    ------
    InputError
        PEFT is not installed, or the adapter adds tokens to the prompt.
    ModelError
        No weights that can be loaded safely, or no base model is named.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        name, kind = config["base_model_name_or_path"], config.get("peft_type")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
        raise ModelError(f"{folder / _CONFIG} cannot be read: copy the whole adapter ({err})") from None
    if not name:
        raise ModelError(f"{folder / _CONFIG} names no base model: write it under base_model_name_or_path")
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(f"{folder} lacks {_WEIGHTS}: save the adapter as safetensors")
    if kind in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"):
        raise InputError("prompt tuning adds tokens that no layout knows: load a model with LoRA-like adapters")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError(f"{folder} is an adapter, which needs PEFT: pip install 'biaslab[peft]'") from None
    return str(name), config.get("revision")


def with_adapter(model: Any, folder: Path) -> Any:
    """Inject the adapter into the layers of its base model, in evaluation mode and without gradients.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    folder : Path

    Returns
    -------
    PreTrainedModel
        The base model, with the adapter inside.
    """
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    return adapted.get_base_model().eval().requires_grad_(False)
