"""CLIP and SigLIP towers with LLaVA's two-matrix projector: LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision."""

from __future__ import annotations

from typing import Any

from biaslab.cost.vision import VisionInput, patch_count, plain_vit, register_vision, whole
from biaslab.errors import InputError


@register_vision("clip_vision_model")
def clip(config: Any, image: VisionInput) -> tuple[int, int]:
    """Count the FLOPs of a CLIP tower, class token included, and of the projector."""
    v = config.vision_config
    patches = patch_count(v)
    features = patches + (config.vision_feature_select_strategy == "full")  # with or without the class token
    tiles = _tiles(config, image, features)
    return tiles * plain_vit(v, patches, class_token=True), _projector(config, tiles * features)


@register_vision("siglip_vision_model")
def siglip(config: Any, image: VisionInput) -> tuple[int, int]:
    """Count the FLOPs of a SigLIP tower, its pooling head included, and of the projector."""
    v = config.vision_config
    patches = patch_count(v)
    features = patches - (config.vision_feature_select_strategy == "default")  # "default" drops the first
    tiles = _tiles(config, image, features)
    head = _pooling_head(v, patches) if v.vision_use_head else 0
    return tiles * (plain_vit(v, patches, class_token=False) + head), _projector(config, tiles * features)


def _projector(config: Any, features: int) -> int:
    """Count features before unpadding: what is cut away later was projected all the same."""
    d, taps = config.text_config.hidden_size, config.vision_feature_layer
    width = config.vision_config.hidden_size * (1 if isinstance(taps, int) else len(taps))
    return 2 * features * (width * d + d * d)


def _tiles(config: Any, image: VisionInput, features: int) -> int:
    """Count the tiles through the tower, the whole image as one of them."""
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    if pinpoints is None:  # LLaVA-1.5: one image, no tiles
        return whole(image.tokens, features, "image")
    if image.tiles is not None:
        return image.tiles
    if image.tokens == features:  # the image as one tile, without a raster (several images in one prompt)
        return 1
    if image.size is None:
        raise InputError("this model cuts padding away after its vision tower: give tiles= or the image's size=")
    from transformers.image_processing_utils import select_best_resolution

    side = config.vision_config.image_size
    height, width = select_best_resolution(image.size[::-1], pinpoints)
    return -(-height // side) * -(-width // side) + 1


def _pooling_head(v: Any, patches: int) -> int:
    """SigLIP's attention pooling, computed whether it is used or not: one query over all patches, and an MLP."""
    d = v.hidden_size
    return 2 * ((2 * patches + 2) * d**2 + 2 * patches * d + 2 * d * v.intermediate_size)
