"""The model of an original checkpoint, as transformers' `InternVLForConditionalGeneration`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from biaslab.errors import InputError, ModelError
from biaslab.models.checkpoints.internvl_chat.config import architecture, native_config, wants_tie
from biaslab.models.checkpoints.internvl_chat.template import END_OF_TURN
from biaslab.models.checkpoints.internvl_chat.weights import checkpoint_keys, lazy_state_dict

__all__ = ["load_model"]

_NOT_HERE = frozenset({  # other files or weights; loaders that do not read a state_dict entry by entry
    "config", "device_mesh", "distributed_config", "gguf_file", "key_mapping", "state_dict", "subfolder", "tp_plan",
    "tp_size", "variant",
})  # fmt: skip
_HEADS = ("language_model.output.weight", "language_model.lm_head.weight")


def load_model(folder: Path, config: dict[str, Any], processor: Any, options: dict[str, Any]) -> Any:
    """Load the weights shard by shard into transformers' own model.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    config : dict
        Its ``config.json``.
    processor : InternVLProcessor
        From `load_processor`: the ids of image and end-of-turn token come from its tokenizer.
    options : dict
        Keyword arguments of ``from_pretrained``: dtype, device_map, attn_implementation, quantization_config and so
        on. Not those that name other files or weights, nor tensor parallelism (``device_map`` serves several GPUs).

    Notes
    -----
    At most one tensor per reading thread is in memory besides the model. Where device and dtype stay as they are in the
    file (a CPU), most weights are views of the memory-mapped file: it must not be changed while the model lives.

    Raises
    ------
    ModelError
        For weights that are missing, unknown or of another shape, and for a config that cannot be represented.
    InputError
        For an option that cannot apply.
    """
    from transformers import InternVLForConditionalGeneration

    if wrong := sorted(_NOT_HERE & options.keys()):
        raise InputError(f"{wrong[0]} cannot be given for a checkpoint in InternVL's original layout: leave it out")
    files = checkpoint_keys(folder)
    tied = wants_tie(config) and not any(name in files for name in _HEADS)
    native = native_config(config, processor.image_token_id, tied)
    vocabulary = native.text_config.vocab_size
    if processor.image_token_id >= vocabulary:
        raise ModelError(f"image token {processor.image_token_id} is beyond the vocabulary of {vocabulary}: "
                         "config.json and tokenizer are not of the same checkpoint")  # fmt: skip
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in InternVLForConditionalGeneration(native).state_dict().items()}
    internlm2 = architecture(config) == "InternLM2ForCausalLM"
    options = {"generation_config": _generation_config(folder, processor.tokenizer), **options}
    with lazy_state_dict(folder, files, shapes, native, internlm2) as weights:
        if native.dtype is None:
            native.dtype = next(iter(weights.values()))[:1].dtype
        loaded: Any = InternVLForConditionalGeneration.from_pretrained(
            None, config=native, state_dict=weights, output_loading_info=True, **options
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{folder}: {len(missing)} weights were not read, such as {missing[0]}: please report this")
    model.config.name_or_path = str(folder)
    return model


def _generation_config(folder: Path, tokenizer: Any) -> Any:
    """Read the checkpoint's settings and add the end of turn to the ends: InternLM2's model config lacks it."""
    from transformers import GenerationConfig

    on_disk = (folder / "generation_config.json").is_file()
    config = GenerationConfig.from_pretrained(folder) if on_disk else GenerationConfig()
    config._from_model_config = False
    own = config.eos_token_id
    ends = list(own) if isinstance(own, (list, tuple)) else [] if own is None else [own]
    config.eos_token_id = sorted({*ends, tokenizer.convert_tokens_to_ids(END_OF_TURN)})
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return config
