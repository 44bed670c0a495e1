"""InternViT with pixel shuffle and a two-matrix projector."""

from __future__ import annotations

from typing import Any

from biaslab.cost.vision import VisionInput, patch_count, plain_vit, register_vision, whole


@register_vision("internvl_vision")
def internvl(config: Any, image: VisionInput) -> tuple[int, int]:
    """Count the FLOPs of InternViT and of the projector behind the pixel shuffle."""
    v, d = config.vision_config, config.text_config.hidden_size
    patches = patch_count(v)
    fold = int(1 / config.downsample_ratio) ** 2  # patches that pixel shuffle folds into one token
    tiles = whole(image.tokens, patches // fold, "tile")
    projector = image.tokens * (v.hidden_size * fold * d + d * d)
    return tiles * plain_vit(v, patches, class_token=True), 2 * projector
