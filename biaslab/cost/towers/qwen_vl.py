"""Vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: any resolution, patches merged two by two at the end."""

from __future__ import annotations

import math
from typing import Any

from biaslab.cost.vision import VisionInput, register_vision
from biaslab.errors import InputError


@register_vision("qwen2_vl_vision", "qwen2_vl")
def qwen2_vl(config: Any, image: VisionInput) -> tuple[int, int]:
    """Count the FLOPs of Qwen2-VL's tower and merger."""
    v = config.vision_config
    width, ffn = v.embed_dim, int(v.embed_dim * v.mlp_ratio)
    patches = image.tokens * v.spatial_merge_size**2
    tower = _embed(v, patches, width) + v.depth * _layer(patches, patches**2, width, 2 * ffn)
    return 2 * tower, 2 * _merger(v, image.tokens, width, v.hidden_size)


@register_vision("qwen2_5_vl_vision", "qwen2_5_vl")
def qwen2_5_vl(config: Any, image: VisionInput) -> tuple[int, int]:
    """Count the FLOPs of Qwen2.5-VL's tower, most of whose layers attend inside windows, and of its merger."""
    v = config.vision_config
    width, ffn = v.hidden_size, 3 * v.intermediate_size
    patches = image.tokens * v.spatial_merge_size**2
    full = sum(1 for i in range(v.depth) if i in v.fullatt_block_indexes)
    tower = _embed(v, patches, width) + full * _layer(patches, patches**2, width, ffn)
    tower += (v.depth - full) * _layer(patches, _windowed(v, image), width, ffn)
    return 2 * tower, 2 * _merger(v, image.tokens, width, v.out_hidden_size)


@register_vision("qwen3_vl_vision", "qwen3_vl")
def qwen3_vl(config: Any, image: VisionInput) -> tuple[int, int]:
    """Count the FLOPs of Qwen3-VL's tower and of its mergers, those of DeepStack's features included."""
    v = config.vision_config
    patches = image.tokens * v.spatial_merge_size**2
    layer = _layer(patches, patches**2, v.hidden_size, 2 * v.intermediate_size)
    mergers = 1 + len(v.deepstack_visual_indexes)
    tower = _embed(v, patches, v.hidden_size) + v.depth * layer
    return 2 * tower, 2 * mergers * _merger(v, image.tokens, v.hidden_size, v.out_hidden_size)


def _embed(v: Any, patches: int, width: int) -> int:
    """Multiply-accumulates of the patch embedding; a still image fills all frames of a patch with itself."""
    return patches * width * v.in_channels * v.temporal_patch_size * v.patch_size**2


def _layer(patches: int, pairs: int, width: int, ffn: int) -> int:
    """Multiply-accumulates of one block: ``pairs`` of patches that attend, ``ffn`` columns of the feed-forward part."""
    return 4 * patches * width**2 + 2 * pairs * width + patches * width * ffn


def _merger(v: Any, tokens: int, width: int, out: int) -> int:
    inner = width * v.spatial_merge_size**2
    return tokens * (inner**2 + inner * out)


def _windowed(v: Any, image: VisionInput) -> int:
    """Pairs of patches that attend to each other inside windows."""
    merge, unit = v.spatial_merge_size, v.spatial_merge_size**2
    side = max(1, v.window_size // v.patch_size // merge)  # of a window, in visual tokens
    if image.grid is None:
        return image.tokens * unit * min(image.tokens, side**2) * unit
    if math.prod(image.grid) != image.tokens:
        raise InputError(
            f"grid {image.grid} holds {math.prod(image.grid)} tokens, not {image.tokens}: "
            "give (rows, cols) of the tokens"
        )
    # sum over windows of (height x width)^2 factorises into rows and columns
    return unit**2 * math.prod(sum(min(side, n - i) ** 2 for i in range(0, n, side)) for n in image.grid)
