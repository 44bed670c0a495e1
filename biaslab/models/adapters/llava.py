"""LLaVA-1.5: one square raster of the image padded to a square; boxes are fractions of that square."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from biaslab.core.boxes import BoxSpace
from biaslab.core.layout import TokenLayout
from biaslab.errors import UnsupportedError
from biaslab.models.family import Family, register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens, text_config, tower_fields
from biaslab.models.pixel_form import PixelForm
from biaslab.models.towers import split_rows

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

CLIP: dict[str, Any] = {
    "vision_hidden": 1024,
    "vision_layers": 24,
    "vision_heads": 16,
    "vision_ffn": 4096,
    "patch": 14,
    "tile": 336,
}


@register
class Llava(Family):
    """LLaVA-1.5.

    The stock CLIP processor crops the centre; the original model was trained and evaluated on the image
    padded to a square with the mean colour, so padding is done here (the crop then takes nothing away). Cells that
    show padding only have ``in_image = False``.
    """

    name = "llava"
    model_types = ("llava",)
    aliases = {f"llava-1.5-{size}": f"llava-hf/llava-1.5-{size}-hf" for size in ("7b", "13b")}
    processor_class = "LlavaProcessor"
    pixel_form = PixelForm.TILES
    box_space = BoxSpace.PADDED_SQUARE
    grounding_template = "Please provide the bounding box coordinate of the region this sentence describes: {}"

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write one turn in the format of Vicuna."""
        return vicuna_prompt(processor, text, n_images)

    def prepare(self, processor: Any, image: Image.Image) -> Image.Image:
        """Pad the image to a square with the mean colour."""
        from PIL import Image

        side = max(image.size)
        if image.size == (side, side):
            return image
        mean = processor.image_processor.image_mean
        square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in mean))
        square.paste(image, _offset(image.size))
        return square

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Tell it the patches and the tokens that the tower gives."""
        complete_from_tower(processor, config)

    def is_one_image(self, config: Any, n: int) -> bool:
        """Tell whether it is as many as one image has: images may follow each other."""
        return n == config.image_seq_length

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        """Lay out one raster over the padded square."""
        height, width = inputs["pixel_values"].shape[-2:]
        rows, cols = height // processor.patch_size, width // processor.patch_size
        return TokenLayout.raster(rows, cols, size=size, family=self.name, region=padded_square(size)), (width, height)

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Give every patch its token."""
        return split_rows(values, [layout.n for layout in layouts])

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders = ("llama",)
    specs = {
        "llava-1.5-7b": ModelSpec("llama", 4096, 32, 32, 32, 11008, vocab=32064, **CLIP),
        "llava-1.5-13b": ModelSpec("llama", 5120, 40, 40, 40, 13824, vocab=32064, **CLIP),
    }
    special_tokens = SpecialTokens(("<s>", "</s>", "<pad>", "<image>"), "</s>", "<pad>", {"image_token": "<image>"})

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `LlavaConfig`."""
        import transformers

        return transformers.LlavaConfig(**clip_fields(spec, tokenizer, self.decoders))

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `LlavaProcessor`."""
        import transformers

        pixels = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": spec.tile_pixels}, crop_size={"height": spec.tile_pixels, "width": spec.tile_pixels}
        )
        return transformers.LlavaProcessor(
            image_processor=pixels,
            tokenizer=tokenizer,
            patch_size=spec.patch,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )


_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # of a tower, in front of its patches


def complete_from_tower(processor: Any, config: Any) -> None:
    """Fill in what decides the number of image tokens: older folders lack it, and transformers' defaults are others.

    Raises
    ------
    UnsupportedError
        A tower of which more or less than the patches is kept.
    """
    tower, strategy = config.vision_config, config.vision_feature_select_strategy
    if processor.patch_size is None:
        processor.patch_size = tower.patch_size
    extra = _CLASS_TOKENS.get(tower.model_type, processor.num_additional_image_tokens)
    processor.num_additional_image_tokens, processor.vision_feature_select_strategy = extra, strategy
    if extra - (strategy == "default"):
        what = "hands on its class token, which shows no place" if extra else "loses its first patch"
        raise UnsupportedError(
            f"under vision_feature_select_strategy={strategy!r} this model's {tower.model_type} {what}: use a model "
            "that keeps the patches and nothing else"
        )


def padded_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Compute what an image of ``size`` (width, height) covers once padded to a square, in fractions of the image."""
    (width, height), side = size, max(size)
    left, top = _offset(size)
    return -left / width, -top / height, (side - left) / width, (side - top) / height


def _offset(size: tuple[int, int]) -> tuple[int, int]:
    side = max(size)
    return (side - size[0]) // 2, (side - size[1]) // 2


def vicuna_prompt(processor: Any, text: str, n_images: int) -> str:
    """Write one turn in the format of Vicuna, without a system message."""
    images = f"{processor.image_token}\n" * n_images
    return f"USER: {images}{text} ASSISTANT:"


def clip_fields(spec: ModelSpec, tokenizer: Any, decoders: Sequence[str]) -> dict[str, Any]:
    """Fill in the fields that the configurations of LLaVA-1.5 and LLaVA-NeXT share."""
    import transformers

    return {
        "vision_config": transformers.CLIPVisionConfig(**tower_fields(spec)),
        "text_config": text_config(spec, tokenizer, decoders),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": spec.side**2,
        "tie_word_embeddings": spec.tied,
    }
