"""PaliGemma: one square raster of the stretched image, a prefix that attends both ways, boxes as location tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from biaslab.core.boxes import Box, BoxSpace
from biaslab.core.layout import TokenLayout
from biaslab.cost.decoder import register_decoder
from biaslab.cost.vision import VisionInput, patch_count, plain_vit, register_vision, whole
from biaslab.models.family import Family, register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens, text_fields, tower_fields
from biaslab.models.pixel_form import PixelForm
from biaslab.models.towers import split_rows

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_LOCATIONS = re.compile(r"<loc(\d{4})>" * 4)
_STEPS = 1024  # of a location token, over the side of the image
_TOWER: dict[str, Any] = {
    "vision_hidden": 1152,
    "vision_layers": 27,
    "vision_heads": 16,
    "vision_ffn": 4304,
    "patch": 14,
}
_GEMMA = ("gemma", 2048, 18, 8, 1, 16384)


@register
class PaliGemma(Family):
    """PaliGemma 1, mix checkpoints: ``detect ...`` is answered with ``<loc>`` tokens in the order y0, x0, y1, x1.

    The image is stretched to the square that the checkpoint was trained at. Image and question form a prefix
    without causal order: the query rows of every prompt token see all visual tokens, and so does every visual
    token. What is refused: K = 0, because the model makes its mask before the decoder; pruning PaliGemma 2, whose
    Gemma 2 decoder has a sliding window in every other layer (capture works). Under FlashAttention transformers'
    own masks lose the two-way prefix, pruned or not: load it with SDPA.
    """

    name = "paligemma"
    model_types = ("paligemma",)
    aliases = {f"paligemma-3b-mix-{side}": f"google/paligemma-3b-mix-{side}" for side in (224, 448)}
    processor_class = "PaliGemmaProcessor"
    pixel_form = PixelForm.TILES
    box_space = BoxSpace.NORM1
    grounding_template = "detect {}"
    naming_prompt = "answer en what objects are in the image?"
    stop_tokens = ("<eos>",)
    lowest_layer = 1  # its mask, which is not causal, is made for the full prompt
    two_way_prefix = True

    def chat_prompt(self, processor: Any, text: str, n_images: int = 1) -> str:
        """Write image tokens and text, without a chat template; the processor adds ``<bos>`` and the last newline."""
        return self.plain_prompt(processor, text, n_images)

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write the image tokens and the text."""
        return processor.image_token * n_images + text

    def run_processor(self, processor: Any, prompts: list[str], images: list[list[Image.Image]], **kw: Any) -> dict:
        """Leave out the labels that the processor makes for fine-tuning: the model would compute a loss.

        It makes them with numpy, which warns where it is given tensors.
        """
        import torch

        made = processor(images=images, text=prompts, return_tensors="np", padding=True, padding_side="left", **kw)
        return {name: torch.from_numpy(value) for name, value in made.items() if name != "labels"}

    def is_one_image(self, config: Any, n: int) -> bool:
        """Tell whether it is as many as one image has: images follow each other."""
        vision = config.vision_config
        return n == (vision.image_size // vision.patch_size) ** 2

    def layout(
        self, processor: Any, size: tuple[int, int], index: int, inputs: dict[str, Any], options: dict[str, Any]
    ) -> tuple[TokenLayout, tuple[int, int]]:
        """Lay out one raster over the stretched image."""
        side = self.square_side(processor.image_seq_length)
        height, width = inputs["pixel_values"].shape[-2:]
        return TokenLayout.raster(side, side, size=size, family=self.name), (width, height)

    def parse_box(self, text: str, size: tuple[int, int], resized: tuple[int, int] | None = None) -> Box | None:
        """Read the first ``<loc....>`` quadruple of an answer in pixels of the original image, or None."""
        match = _LOCATIONS.search(text)
        if match is None:
            return None
        y0, x0, y1, x1 = (int(v) / _STEPS for v in match.groups())
        return self.box_space.read((x0, y0, x1, y1), size=size, resized=resized)

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Give every patch its token."""
        return split_rows(values, [layout.n for layout in layouts])

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders = ("gemma",)
    specs = {
        f"paligemma-3b-mix-{side}": ModelSpec(*_GEMMA, **_TOWER, tile=side, vocab=257216, head_dim=256, tied=True)
        for side in (224, 448)
    }
    special_tokens = SpecialTokens(("<pad>", "<eos>", "<bos>", "<image>"), "<eos>", "<pad>", {"image_token": "<image>"})

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `PaliGemmaConfig`."""
        import transformers

        _complete(tokenizer)
        tower = {**tower_fields(spec), "projection_dim": spec.hidden, "vision_use_head": False}
        ids = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>")}
        return transformers.PaliGemmaConfig(
            vision_config=transformers.SiglipVisionConfig(**tower),
            text_config=transformers.GemmaConfig(**text_fields(spec, tokenizer)),
            projection_dim=spec.hidden,
            tie_word_embeddings=spec.tied,
            **ids,
        )

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make a `PaliGemmaProcessor`."""
        import transformers

        _complete(tokenizer)
        pixels: Any = transformers.SiglipImageProcessorPil(size={"height": spec.tile_pixels, "width": spec.tile_pixels})
        pixels.image_seq_length = spec.side**2
        return transformers.PaliGemmaProcessor(image_processor=pixels, tokenizer=tokenizer)


def _complete(tokenizer: Any) -> None:
    """Add location and segment tokens, as the processor does to any tokenizer, before the embedding is sized."""
    from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

    tokenizer.add_tokens(EXTRA_TOKENS)
    if tokenizer.bos_token is None:
        tokenizer.bos_token = "<bos>"


register_decoder("gemma")


@register_vision("paligemma")
def _tower(config: Any, image: VisionInput) -> tuple[int, int]:
    v, patches = config.vision_config, patch_count(config.vision_config)
    images = whole(image.tokens, patches, "image")
    return images * plain_vit(v, patches, class_token=False), 2 * image.tokens * v.hidden_size * v.projection_dim
