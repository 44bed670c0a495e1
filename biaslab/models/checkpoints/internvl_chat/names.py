"""Where each weight of transformers' InternVL lies in an original checkpoint."""

from __future__ import annotations

import re

__all__ = ["source"]

_PARTS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
_SHARED = (  # native -> original, all decoders
    (r"^model\.vision_tower\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^model\.vision_tower\.embeddings\.position_embeddings$", "vision_model.embeddings.position_embedding"),
    (r"^model\.vision_tower\.embeddings\.patch_embeddings\.projection\.", "vision_model.embeddings.patch_embedding."),
    (r"^model\.vision_tower\.encoder\.layer\.", "vision_model.encoder.layers."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"\.attention\.([qk])_norm\.", r".attn.\1_norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_([12])$", r".ls\1"),
    (r"^model\.multi_modal_projector\.layer_norm\.", "mlp1.0."),
    (r"^model\.multi_modal_projector\.linear_1\.", "mlp1.1."),
    (r"^model\.multi_modal_projector\.linear_2\.", "mlp1.3."),
)
_TEXT = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
_INTERNLM2 = (
    (r"^model\.language_model\.embed_tokens\.", "language_model.model.tok_embeddings."),
    (r"^lm_head\.", "language_model.output."),
    (r"\.self_attn\.[qkv]_proj\.", ".attention.wqkv."),
    (r"\.self_attn\.o_proj\.", ".attention.wo."),
    (r"\.mlp\.gate_proj\.", ".feed_forward.w1."),
    (r"\.mlp\.down_proj\.", ".feed_forward.w2."),
    (r"\.mlp\.up_proj\.", ".feed_forward.w3."),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
)


def source(native: str, internlm2: bool) -> tuple[str, int | None]:
    """Name in the checkpoint of a weight of `InternVLForConditionalGeneration`.

    Returns
    -------
    name : str
    part : int or None
        0, 1, 2 for queries, keys, values of a fused projection; None where the weight is there as it is.
    """
    vision = native.startswith(("model.vision_tower.", "model.multi_modal_projector."))
    rules = _SHARED if vision else (*_INTERNLM2, *_TEXT) if internlm2 else _TEXT
    name = native
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    fused = re.search(r"\.(q_proj|k_proj|v_proj)\.(weight|bias)$", native)
    return name, _PARTS[fused[1]] if fused and (vision or internlm2) else None
