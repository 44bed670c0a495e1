"""LLaVA-NeXT (LLaVA-1.6): the whole image as one tile, then a raster of tiles without its padding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from biaslab.core.boxes import BoxSpace
from biaslab.core.layout import TokenLayout
from biaslab.models.adapters.llava import CLIP, clip_fields, complete_from_tower, vicuna_prompt
from biaslab.models.family import Family, register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens
from biaslab.models.pixel_form import PixelForm
from biaslab.models.towers import split_rows

if TYPE_CHECKING:
    from torch import Tensor

_TILINGS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows, columns
_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@register
class LlavaNext(Family):
    """LLaVA-NeXT.

    The image is fitted into the tiling that wastes least and padded; the model cuts whole rows or columns of
    padding out of the raster of all tiles, reads it row by row and ends every row with a newline feature, which
    is no visual token. The thumbnail comes first and shows the image stretched to a square.

    The space of the answered boxes is unverified: the training data of LLaVA-NeXT are not published, and whether the
    boxes of LLaVA-1.5's (padded square) were adapted is an open question (LLaVA issue 1158). Images are no
    longer padded to a square, so fractions of the original image are assumed.
    """

    name = "llava_next"
    model_types = ("llava_next",)
    aliases = {
        "llava-next-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-next-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
        "llava-next-mistral-7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    }
    processor_class = "LlavaNextProcessor"
    pixel_form = PixelForm.TILES
    box_space = BoxSpace.NORM1
    grounding_template = "Please provide the bounding box coordinate of the region this sentence describes: {}"

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write Vicuna's system message and one turn in its format."""
        return f"{_SYSTEM} {vicuna_prompt(processor, text, n_images)}"

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Tell it the patches and the tokens that the tower gives."""
        complete_from_tower(processor, config)

    def filling(self, processor: Any, inputs: dict[str, Any]) -> Tensor | None:
        """Find the tiles that images with fewer of them are filled up with."""
        import torch

        pixels = inputs["pixel_values"]
        images = range(len(inputs["image_sizes"]))
        tiles = torch.tensor([self._tiles(processor, inputs, i, pixels.shape[-1]) for i in images])
        if bool((tiles == pixels.shape[1]).all()):
            return None
        return (torch.arange(pixels.shape[1]) >= tiles[:, None])[..., None, None, None]

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Put the tiles together and cut the padding away with the model's own function; newlines show nothing."""
        vision = model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        tiles = [self._tiles(processor, inputs, i, vision.image_size) for i in range(len(layouts))]
        each = split_rows(values, [n * patches for n in tiles])
        cut = [rows.view(n, patches, -1) for n, rows in zip(tiles, each, strict=True)]
        packed = self._packed(model, cut, inputs["image_sizes"], values.new_zeros(values.shape[1]))
        return [rows[layout.placeholder_index.copy()] for rows, layout in zip(packed, layouts, strict=True)]

    def _packed(self, model: Any, tiles: list[Tensor], sizes: Tensor, newline: Tensor) -> list[Tensor]:
        """Make of (tiles, patches, C) of each image (placeholders, C)."""
        strategy = model.config.vision_feature_select_strategy
        packed, _ = model.model.pack_image_features(tiles, sizes, strategy, image_newline=newline)
        return list(packed)

    def _tiles(self, processor: Any, inputs: dict[str, Any], index: int, tile: int) -> int:
        """Count the tiles of an image, the thumbnail among them."""
        height, width = inputs["image_sizes"][index].tolist()
        (rows, cols), _, _ = fitted((width, height), tile, processor.image_processor.image_grid_pinpoints)
        return rows * cols + 1

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        """Lay out the thumbnail and the raster of tiles without its padding."""
        tile = inputs["pixel_values"].shape[-1]
        layout, resized, _ = self._unpadded(processor, size, tile, tile // processor.patch_size)
        return layout, resized

    def _unpadded(
        self, processor: Any, size: tuple[int, int], tile: int, side: int, coverage: float = 1.0
    ) -> tuple[TokenLayout, tuple[int, int], tuple[int, int]]:
        """Lay out an image that is cut into tiles of ``side`` cells.

        Parameters
        ----------
        processor : LlavaNextProcessor
        size : (width, height)
            Of the image, pixels.
        tile : int
            Side of a tile, pixels.
        side : int
            Cells along the side of a tile.
        coverage : float
            Share of a tile's side that its cells cover.

        Returns
        -------
        layout : TokenLayout
        resized : (width, height)
            Size of the image the model sees, pixels.
        raster : (rows, columns)
            Of the raster that the model keeps.
        """
        tiles, resized, region = fitted(size, tile, processor.image_processor.image_grid_pinpoints)
        top, bottom, left, right = window = unpadded_window(size, (tiles[0] * side, tiles[1] * side))
        raster = bottom - top, right - left
        if 0 in raster:  # so narrow an image that only newlines are left of the raster
            layout = TokenLayout.raster(side, side, size=size, family=self.name, coverage=coverage)
            return replace(layout, placeholders=layout.n + raster[0]), resized, raster
        return (
            TokenLayout.unpadded(
                tiles,
                (side, side),
                size=size,
                family=self.name,
                window=window,
                region=region,
                thumbnail_grid=None,
                coverage=coverage,
            ),
            resized,
            raster,
        )

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    specs = {
        "llava-next-7b": ModelSpec("llama", 4096, 32, 32, 32, 11008, **CLIP, vocab=32064, max_tiles=4),
        "llava-next-13b": ModelSpec("llama", 5120, 40, 40, 40, 13824, **CLIP, vocab=32064, max_tiles=4),
    }
    special_tokens = SpecialTokens(("<s>", "</s>", "<pad>", "<image>"), "</s>", "<pad>", {"image_token": "<image>"})

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `LlavaNextConfig`."""
        import transformers

        fields = clip_fields(spec, tokenizer, self.decoders)
        return transformers.LlavaNextConfig(**fields, image_grid_pinpoints=pinpoints(spec.tile_pixels, _TILINGS))

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `LlavaNextProcessor`."""
        import transformers

        pixels = transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": spec.tile_pixels},
            crop_size={"height": spec.tile_pixels, "width": spec.tile_pixels},
            image_grid_pinpoints=pinpoints(spec.tile_pixels, _TILINGS),
        )
        return transformers.LlavaNextProcessor(
            image_processor=pixels,
            tokenizer=tokenizer,
            patch_size=spec.patch,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )


def pinpoints(tile: int, tilings: Any) -> list[list[int]]:
    """Compute ``(height, width)`` in pixels of every tiling ``(rows, columns)``, as transformers wants them."""
    return [[rows * tile, cols * tile] for rows, cols in tilings]


def fitted(
    size: tuple[int, int], tile: int, resolutions: list[list[int]]
) -> tuple[tuple[int, int], tuple[int, int], tuple[float, float, float, float]]:
    """Fit an image into the tiling that wastes least.

    Parameters
    ----------
    size : (width, height)
        Of the image, pixels.
    tile : int
        Side of a tile, pixels.
    resolutions : list of [height, width]
        The tilings to choose from, pixels.

    Returns
    -------
    tiles : (rows, columns)
    resized : (width, height)
        Size the image is resized to, pixels.
    region : (x0, y0, x1, y1)
        What all tiles cover with their padding, in fractions of the image.
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
    """Find the cells of a raster that the model keeps, with the model's own function.

    Parameters
    ----------
    size : (width, height)
        Of the image, pixels.
    raster : (rows, columns)
        Of all tiles, in cells.

    Returns
    -------
    (top, bottom, left, right)
        Rows and columns of the window, the ends excluded.
    """
    import torch
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    cells = torch.arange(raster[0] * raster[1]).view(1, *raster)
    window = unpad_image(cells, (size[1], size[0]))[0]
    top, left = divmod(int(window[0, 0]), raster[1]) if window.numel() else (0, 0)
    return top, top + window.shape[0], left, left + window.shape[1]
