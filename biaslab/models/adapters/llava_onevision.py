"""LLaVA-OneVision: as LLaVA-NeXT with a SigLIP tower, many more tilings, and large rasters scaled down."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from biaslab.core.layout import TokenLayout
from biaslab.errors import UnsupportedError
from biaslab.models.adapters.llava import padded_square
from biaslab.models.adapters.llava_next import LlavaNext, pinpoints
from biaslab.models.family import register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens, text_config, tower_fields
from biaslab.models.processors import image_only

if TYPE_CHECKING:
    from torch import Tensor

_SIGLIP: dict[str, Any] = {
    "vision_hidden": 1152,
    "vision_layers": 26,
    "vision_heads": 16,
    "vision_ffn": 4304,
    "patch": 14,
    "tile": 384,
}

_MOST = 9  # tiles that a raster is scaled down to


@register
class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision.

    A raster of more than about 11 tiles (``anyres_max_9``) is scaled down by the model: its layout is then one
    tile as large as the scaled raster, whose cells are placed evenly (off by at most the margin of 6 in 384 pixels
    that SigLIP's patches leave unseen in every tile).

    Where a prompt has several images each is padded to a square and seen as a single tile. Boxes are taken
    as fractions of the original image: unverified.
    """

    name = "llava_onevision"
    model_types = ("llava_onevision",)
    aliases = {
        f"llava-onevision-{size}": f"llava-hf/llava-onevision-qwen2-{size}-ov-hf" for size in ("0.5b", "7b", "72b")
    }
    processor_class = "LlavaOnevisionProcessor"
    stop_tokens = ("<|im_end|>",)
    frames_refused = "it takes a video as video tokens, each frame pooled to a quarter, which are not made here"

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write one ChatML turn as the published template does."""
        images = f"{processor.image_token}" * n_images
        return f"<|im_start|>user {images}\n{text}<|im_end|><|im_start|>assistant\n"

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Tell it the number of tokens that the tower gives, all of them patches."""
        tower, strategy = config.vision_config, config.vision_feature_select_strategy
        if strategy != "full":
            raise UnsupportedError(
                f"under vision_feature_select_strategy={strategy!r} this model's {tower.model_type} loses its first "
                "patch: use a model that keeps all of them"
            )
        processor.vision_feature_select_strategy = strategy
        if processor.num_image_tokens is None:
            processor.num_image_tokens = (tower.image_size // tower.patch_size) ** 2

    def _packed(self, model: Any, tiles: list[Tensor], sizes: Tensor, newline: Tensor) -> list[Tensor]:
        ratio = model.config.vision_aspect_ratio
        packed, _ = model.model.pack_image_features(tiles, sizes, image_newline=newline, vision_aspect_ratio=ratio)
        return list(packed)

    def _tiles(self, processor: Any, inputs: dict[str, Any], index: int, tile: int) -> int:
        return 1 if _images_beside(inputs, index) > 1 else super()._tiles(processor, inputs, index, tile)

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        """Lay out the thumbnail and the unpadded, maybe scaled raster; of several images, one padded tile each."""
        tile, side = inputs["pixel_values"].shape[-1], self.square_side(processor.num_image_tokens)
        coverage = side * (tile // side) / tile  # the patches leave less than one of them unseen
        if _images_beside(inputs, index) > 1:
            layout = TokenLayout.raster(
                side, side, size=size, family=self.name, region=padded_square(size), coverage=coverage
            )
            return replace(layout, placeholders=layout.n + 1), (tile, tile)  # a newline ends it
        layout, resized, raster = self._unpadded(processor, size, tile, side, coverage)
        small = _scaled(raster, side, int(processor.vision_aspect_ratio.removeprefix("anyres_max_")))
        if small is not None:
            cells = layout.boxes[~layout.thumbnail]
            (x0, y0), (x1, y1) = cells[0, :2], cells[-1, 2:]
            region = (x0, y0, x0 + (x1 - x0) / coverage, y0 + (y1 - y0) / coverage)  # its cells end where those end
            window = (0, small[0], 0, small[1])
            layout = TokenLayout.unpadded(
                (1, 1),
                small,
                size=size,
                family=self.name,
                window=window,
                region=region,
                thumbnail_grid=(side, side),
                coverage=coverage,
            )
        return layout, resized

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders = ("qwen2",)
    specs = {
        "llava-onevision-7b": ModelSpec("qwen2", 3584, 28, 28, 4, 18944, **_SIGLIP, vocab=152000, max_tiles=36),
    }
    special_tokens = SpecialTokens(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        "<|im_end|>",
        "<|endoftext|>",
        {"image_token": "<image>", "video_token": "<video>"},
    )

    def most_tokens(self, spec: ModelSpec) -> int:
        """Count thumbnail and the largest raster that is not scaled down (see `_scaled`)."""
        return spec.side**2 + int(1.1**2 * _MOST * spec.side**2)

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `LlavaOnevisionConfig`."""
        import transformers

        ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("image", "video")}
        return transformers.LlavaOnevisionConfig(
            vision_config=transformers.SiglipVisionConfig(**tower_fields(spec), vision_use_head=False),
            text_config=text_config(spec, tokenizer, self.decoders),
            **ids,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            image_grid_pinpoints=pinpoints(spec.tile_pixels, _tilings(spec)),
            vision_aspect_ratio=f"anyres_max_{_MOST}",
            tie_word_embeddings=spec.tied,
        )

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `LlavaOnevisionProcessor` without its video half."""
        import transformers

        pixels = transformers.LlavaOnevisionImageProcessorPil(
            size={"height": spec.tile_pixels, "width": spec.tile_pixels},
            image_grid_pinpoints=pinpoints(spec.tile_pixels, _tilings(spec)),
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
        return image_only(transformers.LlavaOnevisionProcessor)(
            image_processor=pixels,
            tokenizer=tokenizer,
            video_processor=None,
            num_image_tokens=spec.side**2,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=f"anyres_max_{_MOST}",
        )


def _images_beside(inputs: dict[str, Any], index: int) -> int:
    """Count the images in the prompt that image ``index`` of the batch belongs to."""
    for count in (int(n) for n in inputs["batch_num_images"]):
        if index < count:
            return count
        index -= count
    raise IndexError(index)


def _scaled(raster: tuple[int, int], side: int, most: int) -> tuple[int, int] | None:
    """Compute the rows and columns the model scales a raster down to, or None where it does not.

    The rule is that of ``pack_image_features`` in transformers.
    """
    ratio = math.sqrt(raster[0] * raster[1] / (most * side**2))
    return (int(raster[0] // ratio), int(raster[1] // ratio)) if ratio > 1.1 else None


def _tilings(spec: ModelSpec) -> list[tuple[int, int]]:
    most = math.isqrt(spec.max_tiles)
    return list(product(range(1, most + 1), range(1, most + 1)))
