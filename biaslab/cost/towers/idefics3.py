"""SigLIP of Idefics3 and SmolVLM with pixel shuffle and a one-matrix connector."""

from __future__ import annotations

from typing import Any

from biaslab.cost.vision import VisionInput, patch_count, plain_vit, register_vision, whole


@register_vision("idefics3_vision", "smolvlm_vision")
def idefics3(config: Any, image: VisionInput) -> tuple[int, int]:
    """Count the FLOPs of the tower and of the connector behind the pixel shuffle."""
    v = config.vision_config
    patches, fold = patch_count(v), config.scale_factor**2  # patches folded into one token
    tiles = whole(image.tokens, patches // fold, "tile")
    projector = image.tokens * v.hidden_size * fold * config.text_config.hidden_size
    return tiles * plain_vit(v, patches, class_token=False), 2 * projector
