"""Idefics3 and SmolVLM: tiles in reading order, each announced by text, the whole image last."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from biaslab.core.boxes import BoxSpace
from biaslab.core.layout import TokenLayout
from biaslab.models.family import Family, register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens, text_config, tower_fields
from biaslab.models.pixel_form import PixelForm
from biaslab.models.towers import folded, split_rows

if TYPE_CHECKING:
    from torch import Tensor

_SO400M: dict[str, Any] = {
    "vision_hidden": 1152,
    "vision_layers": 27,
    "vision_heads": 16,
    "vision_ffn": 4304,
    "patch": 14,
}
_BASE: dict[str, Any] = {
    "vision_hidden": 768, "vision_layers": 12, "vision_heads": 12, "vision_ffn": 3072, "patch": 16,
    "tile": 512, "merge": 4, "longest_edge": 2048,
}  # fmt: skip


@register
class Idefics3(Family):
    """Idefics3, SmolVLM and SmolVLM2.

    The image is resized to ``longest_edge``, stretched to whole tiles and cut; a last tile shows all of it. An image
    that fits one tile is that tile alone. What stands between the tiles is text.

    SmolVLM2 is served by the processor of Idefics3 too: images and prompts are the same, and its own needs a
    video half and another package for numbers in words.

    Boxes are taken as fractions of the original image: unverified. Option: ``longest_edge``, pixels.
    """

    name = "idefics3"
    model_types = ("idefics3", "smolvlm")
    aliases = {
        "idefics3-8b": "HuggingFaceM4/Idefics3-8B-Llama3",
        "smolvlm-2b": "HuggingFaceTB/SmolVLM-Instruct",
        "smolvlm-256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
        "smolvlm-500m": "HuggingFaceTB/SmolVLM-500M-Instruct",
        "smolvlm2-2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    }
    processor_class = "Idefics3Processor"
    pixel_form = PixelForm.TILES
    box_space = BoxSpace.NORM1
    grounding_template = "Please provide the bounding box coordinate of the region this sentence describes: {}"
    stop_tokens = ("<end_of_utterance>",)
    options = frozenset({"longest_edge"})
    frames_refused = "its prompts for video tell the time of each frame, which images alone do not say"

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write one turn of Idefics3's chat, start token included."""
        start = processor.tokenizer.bos_token or ""
        return f"{start}User:{processor.image_token * n_images}{text}<end_of_utterance>\nAssistant:"

    def image_kwargs(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Say the longest edge; the prompt begins with the start token already."""
        return {"add_special_tokens": False, "size": {"longest_edge": self._longest_edge(processor, options)}}

    def filling(self, processor: Any, inputs: dict[str, Any]) -> Tensor | None:
        """Find the tiles that images with fewer of them are filled up with; the others are shown whole."""
        mask = inputs.get("pixel_attention_mask")
        if mask is None:
            return None
        empty = mask[..., 0, 0] == 0
        return empty[..., None, None, None] if bool(empty.any()) else None

    def is_one_image(self, config: Any, n: int) -> bool:
        """Tell that it is: text stands around every tile."""
        return True

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        """Lay out the tiles that the resized image is cut into, and the whole image after them."""
        tile = int(processor.image_processor.max_image_size["longest_edge"])
        rows, cols = 1, 1
        if processor.image_processor.do_image_splitting:
            rows, cols = tiling(size, tile, self._longest_edge(processor, options))
        side = self.square_side(processor.image_seq_len)
        coverage = side * (tile // side) / tile  # patches folded into a token leave less than one of them unseen
        layout = TokenLayout.tiled(
            rows, cols, (side, side), size=size, family=self.name, thumbnail=rows * cols > 1, coverage=coverage
        )
        return layout, (cols * tile, rows * tile)

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Average the patches that pixel shuffle puts into one token."""
        vision, fold = model.config.vision_config, model.config.scale_factor
        values = folded(values, vision.image_size // vision.patch_size, fold)
        return split_rows(values, [layout.n for layout in layouts])

    @staticmethod
    def _longest_edge(processor: Any, options: dict[str, Any]) -> int:
        return int(options.get("longest_edge", processor.image_processor.size["longest_edge"]))

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders = ("llama",)
    specs = {
        "idefics3-8b": ModelSpec(
            "llama", 4096, 32, 32, 8, 14336, **_SO400M, vocab=128259, tile=364, merge=2, longest_edge=1456
        ),
        "smolvlm-2b": ModelSpec(
            "llama", 2048, 24, 32, 32, 8192, **_SO400M, vocab=49155, tile=384, merge=3, longest_edge=1536
        ),
        "smolvlm-500m": ModelSpec("llama", 960, 32, 15, 5, 2560, **_BASE, vocab=49280),
        "smolvlm-256m": ModelSpec("llama", 576, 30, 9, 3, 1536, **_BASE, vocab=49280),
    }
    special_tokens = SpecialTokens(
        (
            "<|begin_of_text|>", "<|end_of_text|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>",
        ),
        "<end_of_utterance>",
        "<|end_of_text|>",
        bos="<|begin_of_text|>",
    )  # fmt: skip

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make an `Idefics3Config`."""
        import transformers

        return transformers.Idefics3Config(
            vision_config=tower_fields(spec),
            text_config=text_config(spec, tokenizer, self.decoders),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            scale_factor=spec.merge,
            tie_word_embeddings=spec.tied,
        )

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make an `Idefics3Processor`, for SmolVLM too."""
        import transformers

        edge: Any = {"longest_edge": spec.longest_edge}
        pixels = transformers.Idefics3ImageProcessorPil(size=edge, max_image_size={"longest_edge": spec.tile_pixels})
        return transformers.Idefics3Processor(image_processor=pixels, tokenizer=tokenizer, image_seq_len=spec.side**2)


def tiling(size: tuple[int, int], tile: int, longest_edge: int) -> tuple[int, int]:
    """Compute the (rows, columns) of the tiles of an image of ``size`` (width, height).

    transformers' ``get_number_of_image_patches`` is not used: it rounds the shorter side otherwise than the
    resizing does.
    """
    import numpy as np
    from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

    blank = np.broadcast_to(np.uint8(0), (3, size[1], size[0]))  # only its shape is read
    height, width = get_resize_output_image_size(blank, longest_edge)
    ratio = width / height  # from here on as `resize_for_vision_encoder` does
    if width >= height:
        cols = math.ceil(width / tile)
        return math.ceil(int(cols * tile / ratio) / tile), cols
    rows = math.ceil(height / tile)
    return rows, math.ceil(int(rows * tile * ratio) / tile)
