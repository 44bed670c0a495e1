"""InternVL 2.5 (native layout), 3 and 3.5: tiles in reading order, a thumbnail last, boxes on 0-1000."""

from __future__ import annotations

from typing import Any

from ..boxes import BoxSpace
from ..layout import TokenLayout
from .base import Family, register

_SIZES_3 = ("1b", "2b", "8b", "9b", "14b", "38b", "78b")
_SIZES_35 = ("1b", "2b", "4b", "8b", "14b", "38b")
_ORIGINAL = (
    "{} is published in InternVL's original layout, which is not read yet: use internvl2.5-8b-mpo, "
    "internvl3-8b or internvl3.5-8b"
)


@register
class InternVL(Family):
    """Everything is read from the checkpoint: tile size, tokens per tile, how many tiles.

    Options: ``max_tiles`` and ``min_tiles`` replace the processor's ``max_patches`` and ``min_patches`` (12
    and 1 in published checkpoints; 6 tiles were used for the published RefCOCO numbers).
    """

    name = "internvl"
    model_types = ("internvl",)
    aliases = {
        "internvl2.5-2b-mpo": "OpenGVLab/InternVL2_5-2B-MPO-hf",
        "internvl2.5-8b-mpo": "OpenGVLab/InternVL2_5-8B-MPO-hf",
        **{f"internvl3-{size}": f"OpenGVLab/InternVL3-{size.upper()}-hf" for size in _SIZES_3},
        **{f"internvl3.5-{size}": f"OpenGVLab/InternVL3_5-{size.upper()}-HF" for size in _SIZES_35},
    }
    refused = {
        name: _ORIGINAL.format(name)
        for name in (
            "internvl2.5",
            *(f"internvl2.5-{s}" for s in ("1b", "2b", "4b", "8b", "26b")),
            "internvl_chat",
        )
    }
    processor_class = "InternVLProcessor"
    box_space = BoxSpace.NORM1000
    grounding_template = (
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
    )
    stop_tokens = ("<|im_end|>",)
    options = frozenset({"max_tiles", "min_tiles"})

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        images = f"{processor.image_token}\n" * n_images
        return f"<|im_start|>user\n{images}{text}<|im_end|>\n<|im_start|>assistant\n"

    def image_kwargs(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        low, high = self._tile_range(processor, options)
        # said explicitly because the flag in published processor configs is overridden by the processor class
        return {"crop_to_patches": high > 1, "min_patches": low, "max_patches": high}

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        tile = processor.image_processor.size
        low, high = self._tile_range(processor, options)
        cols, rows = 1, 1
        if high > 1:
            cols, rows = get_optimal_tiled_canvas((size[1], size[0]), (tile["height"], tile["width"]), low, high)
        side = self.square_side(processor.image_seq_length)
        layout = TokenLayout.tiled(rows, cols, (side, side), size, self.name, thumbnail=rows * cols > 1)
        return layout, (cols * tile["width"], rows * tile["height"])

    @staticmethod
    def _tile_range(processor: Any, options: dict[str, Any]) -> tuple[int, int]:
        images = processor.image_processor
        high = int(options.get("max_tiles", images.max_patches))
        return min(int(options.get("min_tiles", images.min_patches)), high), high
