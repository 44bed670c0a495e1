"""Qwen2.5-VL: one raster whose size follows the image; boxes in pixels of the resized image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab.core.boxes import BoxSpace
from biaslab.models.adapters.qwen2_vl import Qwen2VL
from biaslab.models.family import register
from biaslab.models.offline_spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from biaslab.core.layout import TokenLayout

_TOWER: dict[str, Any] = {
    "vision_layers": 32,
    "vision_heads": 16,
    "vision_hidden": 1280,
    "vision_ffn": 3420,
    "patch": 14,
    "merge": 2,
}
_PIXELS: dict[str, Any] = {"min_pixels": 3136, "max_pixels": 12845056}


@register
class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: images and options as in Qwen2-VL."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    aliases = {f"qwen2.5-vl-{size}": f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct" for size in ("3b", "7b", "32b", "72b")}
    processor_class = "Qwen2_5_VLProcessor"
    config_class = "Qwen2_5_VLConfig"
    box_space = BoxSpace.RESIZED
    grounding_template = "Locate {} in this image and output the bbox coordinates in JSON format."
    corners = False
    decoders = ("qwen2_5_vl_text",)
    specs = {
        "qwen2.5-vl-3b": ModelSpec(
            "qwen2_5_vl_text", 2048, 36, 16, 2, 11008, **_TOWER, **_PIXELS, vocab=151936, tied=True
        ),
        "qwen2.5-vl-7b": ModelSpec("qwen2_5_vl_text", 3584, 28, 28, 4, 18944, **_TOWER, **_PIXELS, vocab=152064),
    }

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Average the patches of each token, and undo the order of windows in which the tower sees tokens."""
        vision = model.config.vision_config
        side = vision.window_size // vision.spatial_merge_size // vision.patch_size
        images = super().tower_tokens(model, processor, inputs, layouts, values)
        return [rows[_places(layout.grid, side)] for rows, layout in zip(images, layouts, strict=True)]

    def _vision(self, spec: ModelSpec) -> dict[str, Any]:
        full = (7, 15, 23, 31)  # layers that attend beyond their window
        return {
            **merged_tower(spec),
            "window_size": 8 * spec.patch,
            "fullatt_block_indexes": [i for i in full if i < spec.vision_layers] or [spec.vision_layers - 1],
            **spec.vision,
        }


def _places(grid: tuple[int, int], side: int) -> np.ndarray:
    """Find where each token of a raster lies when windows of ``side x side`` tokens follow each other."""
    rows, cols = np.indices(grid)
    window = rows // side * -(-grid[1] // side) + cols // side
    order = window.ravel().argsort(kind="stable")  # tokens as the tower sees them
    return order.argsort(kind="stable")


def merged_tower(spec: ModelSpec) -> dict[str, Any]:
    """Fill in the fields that the vision towers of Qwen2.5-VL and Qwen3-VL share."""
    return {
        "depth": spec.vision_layers,
        "hidden_size": spec.vision_hidden,
        "intermediate_size": spec.vision_ffn,
        "num_heads": spec.vision_heads,
        "out_hidden_size": spec.hidden,
        "patch_size": spec.patch,
        "spatial_merge_size": spec.merge,
    }
