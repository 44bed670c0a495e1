"""Qwen3-VL: one raster whose size follows the image, features added in the first decoder layers; boxes on 0-1000."""

from __future__ import annotations

from typing import Any

from biaslab.core.boxes import BoxSpace
from biaslab.models.adapters.qwen2_5_vl import merged_tower
from biaslab.models.adapters.qwen2_vl import Qwen2VL
from biaslab.models.family import register
from biaslab.models.offline_spec import ModelSpec

_PIXELS: dict[str, Any] = {"min_pixels": 65536, "max_pixels": 16777216, "patch": 16, "merge": 2}
_SMALL: dict[str, Any] = {"vision_hidden": 1024, "vision_layers": 24, "vision_heads": 16, "vision_ffn": 4096}
_LARGE: dict[str, Any] = {"vision_hidden": 1152, "vision_layers": 27, "vision_heads": 16, "vision_ffn": 4304}


@register
class Qwen3VL(Qwen2VL):
    """Qwen3-VL: images as in Qwen2-VL, with patches of 16 pixels.

    DeepStack adds features of inner layers of the vision tower
    to the visual tokens after each of the first decoder layers, so tokens can only be dropped after those.
    Options: ``min_pixels`` and ``max_pixels`` bound the area of the resized image.
    """

    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    aliases = {f"qwen3-vl-{size}": f"Qwen/Qwen3-VL-{size.upper()}-Instruct" for size in ("2b", "4b", "8b", "32b")}
    processor_class = "Qwen3VLProcessor"
    config_class = "Qwen3VLConfig"
    box_space = BoxSpace.NORM1000
    grounding_template = (
        'Locate every object that matches the description "{}" in the image. Report bbox coordinates in JSON format.'
    )
    corners = False
    system = ""
    decoders = ("qwen3_vl_text",)
    specs = {
        "qwen3-vl-4b": ModelSpec(
            "qwen3_vl_text", 2560, 36, 32, 8, 9728, **_SMALL, **_PIXELS, vocab=151936, head_dim=128, tied=True,
            vision={"deepstack_visual_indexes": [5, 11, 17]},
        ),
        "qwen3-vl-8b": ModelSpec(
            "qwen3_vl_text", 4096, 36, 32, 8, 12288, **_LARGE, **_PIXELS, vocab=151936, head_dim=128,
            vision={"deepstack_visual_indexes": [8, 16, 24]},
        ),
    }  # fmt: skip
    rope = (24, 20, 20)
    rope_base = 5e6
    rope_extra = {"mrope_interleaved": True}
    pixel_statistics = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

    def _vision(self, spec: ModelSpec) -> dict[str, Any]:
        return {**merged_tower(spec), **spec.vision, "deepstack_visual_indexes": _deepstack(spec)}


def _deepstack(spec: ModelSpec) -> list[int]:
    """Choose the layers of the vision tower that feed the decoder.

    They are the published ones, or fewer in a small stand-in, so that at least two thirds of its decoder are free of
    them.
    """
    published = list(spec.vision.get("deepstack_visual_indexes", (8, 16, 24)))
    count = min(len(published), max(1, spec.layers // 3), spec.vision_layers)
    if count == len(published) and published[-1] < spec.vision_layers:
        return published
    return list(range(spec.vision_layers - count, spec.vision_layers))
