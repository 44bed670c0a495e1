"""Qwen2.5-VL: one raster whose size follows the picture; boxes in pixels of the resized picture."""

from __future__ import annotations

from typing import Any

from ..boxes import BoxSpace
from ..layout import TokenLayout
from .base import Family, register


@register
class Qwen25VL(Family):
    """Options: ``min_pixels`` and ``max_pixels`` bound the area of the resized picture."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    aliases = {f"qwen2.5-vl-{size}": f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct" for size in ("3b", "7b")}
    processor_class = "Qwen2_5_VLProcessor"
    box_space = BoxSpace.RESIZED
    grounding_template = "Locate {} in this image and output the bbox coordinates in JSON format."
    stop_tokens = ("<|im_end|>",)
    options = frozenset({"min_pixels", "max_pixels"})

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        images = f"<|vision_start|>{processor.image_token}<|vision_end|>" * n_images
        system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        return f"{system}<|im_start|>user\n{images}{text}<|im_end|>\n<|im_start|>assistant\n"

    def image_kwargs(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        if not options:
            return {}
        size = processor.image_processor.size
        low = options.get("min_pixels", size["shortest_edge"])
        high = options.get("max_pixels", size["longest_edge"])
        return {"size": {"shortest_edge": int(low), "longest_edge": int(high)}}

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        images = processor.image_processor
        _, height, width = (int(v) for v in inputs["image_grid_thw"][index])
        merge = images.merge_size
        layout = TokenLayout.raster(height // merge, width // merge, size, self.name)
        return layout, (width * images.patch_size, height * images.patch_size)
