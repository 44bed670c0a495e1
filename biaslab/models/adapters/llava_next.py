"""LLaVA-NeXT (LLaVA-1.6): the whole picture as one tile, then a raster of tiles without its padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from biaslab.core.boxes import BoxSpace
from biaslab.core.layout import TokenLayout
from biaslab.models.adapters.llava import CLIP, clip_fields, vicuna_prompt
from biaslab.models.family import Family, register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens

_TILINGS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows, columns
_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@register
class LlavaNext(Family):
    """The picture is fitted into the tiling that wastes least and padded; the model cuts whole rows or columns of
    padding out of the raster of all tiles, reads it row by row and ends every row with a newline feature, which
    is no visual token. The thumbnail comes first and shows the picture stretched to a square.

    The space of the answered boxes is unverified: the training data of LLaVA-NeXT are not published, and whether the
    boxes of LLaVA-1.5's (padded square) were adapted is an open question (LLaVA issue 1158). Pictures are no
    longer padded to a square, so fractions of the original picture are assumed.
    """

    name = "llava_next"
    model_types = ("llava_next",)
    aliases = {
        "llava-next-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-next-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
        "llava-next-mistral-7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    }
    processor_class = "LlavaNextProcessor"
    box_space = BoxSpace.NORM1
    grounding_template = "Please provide the bounding box coordinate of the region this sentence describes: {}"

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        return f"{_SYSTEM} {vicuna_prompt(processor, text, n_images)}"

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        tile = inputs["pixel_values"].shape[-1]
        layout, seen, _ = self._unpadded(processor, size, tile, tile // processor.patch_size)
        return layout, seen

    def _unpadded(
        self, processor: Any, size: tuple[int, int], tile: int, side: int, coverage: float = 1.0
    ) -> tuple[TokenLayout, tuple[int, int], tuple[int, int]]:
        """Layout of a picture cut into tiles of ``side`` cells, the size it is resized to, and the (rows, columns) of
        the raster that the model keeps.
        """
        tiles, seen, region = fitted(size, tile, processor.image_processor.image_grid_pinpoints)
        top, bottom, left, right = window = unpadded_window(size, (tiles[0] * side, tiles[1] * side))
        kept = bottom - top, right - left
        if 0 in kept:  # so narrow a picture that only newlines are left of the raster
            layout = TokenLayout.raster(side, side, size, self.name, coverage=coverage)
            return replace(layout, placeholders=layout.n + kept[0]), seen, kept
        return TokenLayout.unpadded(tiles, (side, side), size, self.name, window, region, None, coverage), seen, kept

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders = ("llama", "mistral")
    specs = {
        "llava-next-7b": ModelSpec("llama", 4096, 32, 32, 32, 11008, **CLIP, vocab=32064, max_tiles=4),
        "llava-next-13b": ModelSpec("llama", 5120, 40, 40, 40, 13824, **CLIP, vocab=32064, max_tiles=4),
    }
    special_tokens = SpecialTokens(("<s>", "</s>", "<pad>", "<image>"), "</s>", "<pad>", {"image_token": "<image>"})

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        import transformers

        fields = clip_fields(spec, tokenizer, self.decoders)
        return transformers.LlavaNextConfig(**fields, image_grid_pinpoints=pinpoints(spec.tile, _TILINGS))

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        import transformers

        pixels = transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": spec.tile},
            crop_size={"height": spec.tile, "width": spec.tile},
            image_grid_pinpoints=pinpoints(spec.tile, _TILINGS),
        )
        return transformers.LlavaNextProcessor(
            image_processor=pixels,
            tokenizer=tokenizer,
            patch_size=spec.patch,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )


def pinpoints(tile: int, tilings: Any) -> list[list[int]]:
    """``(height, width)`` in pixels of every tiling ``(rows, columns)``, as transformers wants them."""
    return [[rows * tile, cols * tile] for rows, cols in tilings]


def fitted(
    size: tuple[int, int], tile: int, resolutions: list[list[int]]
) -> tuple[tuple[int, int], tuple[int, int], tuple[float, float, float, float]]:
    """Tiling of a picture of ``size`` (width, height): (rows, columns) of tiles, the (width, height) the picture is
    resized to, and the region all tiles cover with their padding, in fractions of the picture.
    """
    import numpy as np
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
    from transformers.image_utils import ChannelDimension

    width, height = size
    frame = select_best_resolution((height, width), resolutions)
    blank = np.broadcast_to(np.uint8(0), (3, height, width))  # only its shape is read
    new_height, new_width = get_patch_output_size(blank, frame, ChannelDimension.FIRST)
    left, top = (frame[1] - new_width) // 2, (frame[0] - new_height) // 2
    region = (-left / new_width, -top / new_height, (frame[1] - left) / new_width, (frame[0] - top) / new_height)
    return (frame[0] // tile, frame[1] // tile), (new_width, new_height), region


def unpadded_window(size: tuple[int, int], raster: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the cells the model keeps of a raster of (rows, columns) for a picture of
    ``size`` (width, height), found with the model's own function.
    """
    import torch
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    cells = torch.arange(raster[0] * raster[1]).view(1, *raster)
    kept = unpad_image(cells, (size[1], size[0]))[0]
    top, left = divmod(int(kept[0, 0]), raster[1]) if kept.numel() else (0, 0)
    return top, top + kept.shape[0], left, left + kept.shape[1]
