"""LLaVA-1.5: one square raster of the picture padded to a square; boxes are fractions of that square."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..boxes import BoxSpace
from ..layout import TokenLayout
from .base import Family, register

if TYPE_CHECKING:
    from PIL import Image


@register
class Llava(Family):
    """The stock CLIP processor crops the centre; the original model was trained and evaluated on the picture
    padded to a square with the mean colour, so padding is done here (the crop then takes nothing away). Cells
    that show padding only have ``inside = False``.
    """

    name = "llava"
    model_types = ("llava",)
    aliases = {f"llava-1.5-{size}": f"llava-hf/llava-1.5-{size}-hf" for size in ("7b", "13b")}
    processor_class = "LlavaProcessor"
    box_space = BoxSpace.PADDED_SQUARE
    grounding_template = "Please provide the bounding box coordinate of the region this sentence describes: {}"

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        images = f"{processor.image_token}\n" * n_images
        return f"USER: {images}{text} ASSISTANT:"

    def image_kwargs(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        return {}

    def prepare(self, processor: Any, image: Image.Image) -> Image.Image:
        from PIL import Image

        side = max(image.size)
        if image.size == (side, side):
            return image
        mean = processor.image_processor.image_mean
        square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in mean))
        square.paste(image, self._offset(image.size))
        return square

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        height, width = inputs["pixel_values"].shape[-2:]
        rows, cols = height // processor.patch_size, width // processor.patch_size
        side = max(size)
        left, top = self._offset(size)
        region = (-left / size[0], -top / size[1], (side - left) / size[0], (side - top) / size[1])
        return TokenLayout.raster(rows, cols, size, self.name, region), (width, height)

    @staticmethod
    def _offset(size: tuple[int, int]) -> tuple[int, int]:
        side = max(size)
        return (side - size[0]) // 2, (side - size[1]) // 2
