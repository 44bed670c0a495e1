"""Adapter folders: LoRA and the like beside a base model, as PEFT saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError, ModelError

if TYPE_CHECKING:
    from biaslab.models.registry import Checkpoint

__all__ = ["base_of", "cached_adapter", "check_adapter", "is_adapter", "with_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def cached_adapter(checkpoint: Checkpoint) -> Path | None:
    """Find the folder of a hub adapter, if it is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(checkpoint.hub_id or checkpoint.name, _CONFIG)
    return Path(path).parent if isinstance(path, str) else None


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
    InputError, ModelError
        As `check_adapter`; no base model is named.
    """
    config = _read(folder)
    if not config.get("base_model_name_or_path"):
        raise ModelError(
            f"{folder / _CONFIG} names no base model: write it under base_model_name_or_path, or load the base with "
            "this adapter"
        )
    check_adapter(folder)
    return str(config["base_model_name_or_path"]), config.get("revision")


def check_adapter(folder: Path) -> None:
    """Refuse a folder that holds no adapter that can be loaded, before anything is.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    InputError
        No adapter folder, PEFT is not installed, or the adapter adds tokens to the prompt.
    ModelError
        A configuration that cannot be read, or no weights that can be loaded safely.
    """
    if not is_adapter(folder):
        raise InputError(f"{folder} is no adapter: give a folder with {_CONFIG}, as PEFT saves it")
    kind = _read(folder).get("peft_type")
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(f"{folder} lacks {_WEIGHTS}: save the adapter as safetensors")
    if kind in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"):
        raise InputError("prompt tuning adds tokens that no layout knows: load a model with LoRA-like adapters")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError(f"{folder} is an adapter, which needs PEFT: pip install 'biaslab[peft]'") from None


def _read(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ModelError(f"{folder / _CONFIG} cannot be read: copy the whole adapter ({err})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / _CONFIG} cannot be read: copy the whole adapter (it holds no settings)")
    return config


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
