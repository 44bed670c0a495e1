"""From an ``internvl_chat`` config to transformers' `InternVLConfig`."""

from __future__ import annotations

from typing import Any

from biaslab.errors import ModelError

__all__ = ["architecture", "check", "is_original", "native_config", "tile_size", "tokens_per_tile", "wants_tie"]

_MODEL_TYPE = "internvl_chat"
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_COMMON = (
    *_SIZES, "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
_WINDOW = ("use_sliding_window", "sliding_window", "max_window_layers")
_DECODERS = {  # architecture -> transformers config class, fields it has beyond the common ones
    "InternLM2ForCausalLM": ("LlamaConfig", ()),
    "LlamaForCausalLM": ("LlamaConfig", ("attention_bias", "mlp_bias", "head_dim")),
    "Qwen2ForCausalLM": ("Qwen2Config", _WINDOW),
    "Qwen3ForCausalLM": ("Qwen3Config", (*_WINDOW, "attention_bias", "head_dim")),
}
# what the original classes assume where config.json is silent, if transformers' classes assume something else
_INTERNLM2 = {
    "bias": True, "num_key_value_heads": None, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "pad_token_id": 0,
}  # fmt: skip
_VISION = {  # theirs -> ours, default
    "hidden_size": ("hidden_size", 3200),
    "intermediate_size": ("intermediate_size", 12800),
    "num_hidden_layers": ("num_hidden_layers", 48),
    "num_attention_heads": ("num_attention_heads", 25),
    "num_channels": ("num_channels", 3),
    "patch_size": ("patch_size", 14),
    "image_size": ("image_size", 224),
    "hidden_act": ("hidden_act", "gelu"),
    "norm_type": ("norm_type", "rms_norm"),
    "layer_norm_eps": ("layer_norm_eps", 1e-6),
    "qkv_bias": ("attention_bias", False),
    "qk_normalization": ("use_qk_norm", True),
    "attention_dropout": ("attention_dropout", 0.0),
    "dropout": ("projection_dropout", 0.0),
    "initializer_range": ("initializer_range", 0.02),
    "initializer_factor": ("layer_scale_init_value", 0.1),
}
_QK_NORM_EPS = 1e-6  # the only one transformers' InternVLVisionRMSNorm of queries and keys has


def is_original(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is of the original layout."""
    return config.get("model_type") == _MODEL_TYPE


def architecture(config: dict[str, Any]) -> str:
    """Read the class of the decoder, such as "InternLM2ForCausalLM".

    Raises
    ------
    ModelError
        For a decoder that is not served, naming it.
    """
    name = next(iter((config.get("llm_config") or {}).get("architectures") or []), None)
    if name not in _DECODERS:
        served = ", ".join(sorted(_DECODERS))
        raise ModelError(f"InternVL with the decoder {name} is not served: use a checkpoint with one of {served}")
    return name


def tile_size(config: dict[str, Any]) -> int:
    """Read the side of a tile in pixels."""
    return int(config.get("force_image_size") or config["vision_config"].get("image_size", 224))


def tokens_per_tile(config: dict[str, Any]) -> int:
    """Count the visual tokens of one tile, after the pixel shuffle."""
    patches = tile_size(config) // int(config["vision_config"].get("patch_size", 14))
    return int(patches**2 * float(config.get("downsample_ratio", 0.5)) ** 2)


def wants_tie(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` says that the output layer is the input embedding."""
    return bool(config.get("tie_word_embeddings") or config["llm_config"].get("tie_word_embeddings"))


def native_config(config: dict[str, Any], image_token_id: int, tied: bool) -> Any:
    """Make the `InternVLConfig` of a checkpoint.

    Parameters
    ----------
    config : dict
        Its ``config.json``.
    image_token_id : int
        Id of ``<IMG_CONTEXT>`` in its tokenizer.
    tied : bool
        Whether the output layer is the input embedding (no published InternVL 2.5 is; the native config's default is).

    Raises
    ------
    ModelError
        For what transformers' InternVL cannot represent, naming the field.
    """
    import transformers

    check(config)
    vision = config["vision_config"]
    return transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(
            **{ours: vision.get(theirs, default) for theirs, (ours, default) in _VISION.items()},
            use_absolute_position_embeddings=True,
            use_mean_pooling=True,  # False would add a final LayerNorm, which the original does not have
        ),
        text_config=_text_config(config, tied),
        image_token_id=image_token_id,
        image_seq_length=tokens_per_tile(config),
        downsample_ratio=float(config.get("downsample_ratio", 0.5)),
        vision_feature_layer=int(config.get("select_layer", -1)),
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=tied,
        architectures=["InternVLForConditionalGeneration"],
        dtype=config.get("dtype") or config.get("torch_dtype"),
    )


def _text_config(config: dict[str, Any], tied: bool) -> Any:
    import transformers

    name, llm = architecture(config), dict(config["llm_config"])
    for size in _SIZES:
        if not isinstance(llm.get(size), int):
            raise ModelError(f"config.json has no llm_config.{size}: it is not a complete InternVL config")
    cls, more = _DECODERS[name]
    if name == "InternLM2ForCausalLM":
        llm = {**_INTERNLM2, **llm}
    fields = {key: llm[key] for key in (*_COMMON, *more) if key in llm}
    if name == "InternLM2ForCausalLM":
        fields["attention_bias"] = bool(llm["bias"])
    return getattr(transformers, cls)(**fields, tie_word_embeddings=tied, rope_parameters=_rope(llm))


def _rope(llm: dict[str, Any]) -> dict[str, Any]:
    """Join ``rope_theta`` and ``rope_scaling``, as transformers 5 has them."""
    scaling = dict(llm.get("rope_scaling") or {})
    kind = scaling.pop("type", None)
    rope = {"rope_type": kind or "default", "rope_theta": float(llm.get("rope_theta", 10000.0)), **scaling}
    if "factor" in rope:
        rope["factor"] = float(rope["factor"])
    return {**rope, **(llm.get("rope_parameters") or {})}


def check(config: dict[str, Any]) -> None:
    """Refuse, with a `ModelError` that names the field, what transformers' InternVL would compute differently."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict) or not isinstance(config.get("llm_config"), dict):
        raise ModelError("config.json has no vision_config or no llm_config: it is not a complete InternVL config")
    architecture(config)
    if (shuffle := config.get("ps_version", "v1")) != "v2":
        raise ModelError(f"ps_version {shuffle!r} (a transposed pixel shuffle) is not served: use InternVL 2 or later")
    if "quantization_config" in config:
        raise ModelError("this checkpoint is quantised: load the full one and give load() a quantization_config")
    if config.get("use_backbone_lora") or config.get("use_llm_lora"):
        raise ModelError("this checkpoint holds LoRA weights that are not merged: merge them into the model first")
    if config.get("pad2square"):
        raise ModelError("pad2square=true is not served: no published InternVL 2 or later has it")
    if config.get("dynamic_image_size") and not config.get("use_thumbnail") and config.get("max_dynamic_patch", 6) > 1:
        raise ModelError("use_thumbnail=false with tiles is not served: no published InternVL 2 or later has it")
    if (table := vision.get("image_size", 224)) != tile_size(config):
        raise ModelError(f"force_image_size {tile_size(config)} differs from the vision tower's {table}: not served")
    norm, eps = vision.get("qk_normalization", True), vision.get("layer_norm_eps", 1e-6)
    if norm and abs(eps - _QK_NORM_EPS) > 1e-9:
        raise ModelError(f"layer_norm_eps {eps} with qk_normalization is not served: transformers has 1e-6 there")
