"""InternVL 2.5 (native and original layout), 3 and 3.5: tiles in reading order, a thumbnail last, boxes on 0-1000."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from biaslab.core.boxes import BoxSpace
from biaslab.core.layout import TokenLayout
from biaslab.models.family import Family, register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens, text_config, tower_fields
from biaslab.models.pixel_form import PixelForm
from biaslab.models.processors import image_only
from biaslab.models.towers import folded, split_rows

if TYPE_CHECKING:
    from torch import Tensor

_SIZES_25 = ("1b", "2b", "4b", "8b", "26b")
_SIZES_3 = ("1b", "2b", "8b", "9b", "14b", "38b", "78b")
_SIZES_35 = ("1b", "2b", "4b", "8b", "14b", "38b")

_VIT: dict[str, Any] = {
    "vision_hidden": 1024, "vision_layers": 24, "vision_heads": 16, "vision_ffn": 4096,
    "vision": {"attention_bias": True},
}  # fmt: skip
_VIT_6B: dict[str, Any] = {
    "vision_hidden": 3200, "vision_layers": 45, "vision_heads": 25, "vision_ffn": 12800,
    "vision": {"norm_type": "rms_norm", "use_qk_norm": True},
}  # fmt: skip


def _spec(
    decoder: str,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    tower: dict[str, Any] = _VIT,
) -> ModelSpec:
    return ModelSpec(
        decoder, hidden, layers, heads, kv_heads, ffn, vocab=vocab, **tower, patch=14, tile=448, merge=2, max_tiles=12,
        head_dim=128 if decoder == "qwen3" else None,
    )  # fmt: skip


@register
class InternVL(Family):
    """InternVL 2.5, 3 and 3.5.

    Everything is read from the checkpoint: tile size, tokens per tile, how many tiles.

    Options: ``max_tiles`` and ``min_tiles`` replace the processor's ``max_patches`` and ``min_patches`` (12
    and 1 in published checkpoints; 6 tiles were used for the published RefCOCO numbers).

    Frames of a video (``frames=True``) are images of one prompt, each announced ("Frame1: ...") and of one tile, as in
    the published code (github.com/OpenGVLab/InternVL, README, "Multi-round Video Conversation").
    """

    name = "internvl"
    model_types = ("internvl",)
    aliases = {
        "internvl2.5": "OpenGVLab/InternVL2_5-8B",  # the 2.5 without MPO are in the original layout
        **{f"internvl2.5-{size}": f"OpenGVLab/InternVL2_5-{size.upper()}" for size in _SIZES_25},
        "internvl2.5-2b-mpo": "OpenGVLab/InternVL2_5-2B-MPO-hf",
        "internvl2.5-8b-mpo": "OpenGVLab/InternVL2_5-8B-MPO-hf",
        **{f"internvl3-{size}": f"OpenGVLab/InternVL3-{size.upper()}-hf" for size in _SIZES_3},
        **{f"internvl3.5-{size}": f"OpenGVLab/InternVL3_5-{size.upper()}-HF" for size in _SIZES_35},
    }
    processor_class = "InternVLProcessor"
    pixel_form = PixelForm.TILES
    box_space = BoxSpace.NORM1000
    grounding_template = (
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
    )
    stop_tokens = ("<|im_end|>",)
    options = frozenset({"max_tiles", "min_tiles"})
    frame_options = {"max_tiles": 1}  # as published: a video has many

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write one ChatML turn without a system message."""
        images = f"{processor.image_token}\n" * n_images
        return f"<|im_start|>user\n{images}{text}<|im_end|>\n<|im_start|>assistant\n"

    def frame_label(self, index: int) -> str:
        """Announce a frame as InternVL's published code does."""
        return f"Frame{index + 1}: "

    def image_kwargs(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Say how many tiles an image may have."""
        low, high = self._tile_range(processor, options)
        # said explicitly because the flag in published processor configs is overridden by the processor class
        return {"crop_to_patches": high > 1, "min_patches": low, "max_patches": high}

    def is_one_image(self, config: Any, n: int) -> bool:
        """Tell that it is: markers stand around every image."""
        return True

    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        """Lay out the tiles of the best-fitting raster in reading order, and the thumbnail after them."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        tile = processor.image_processor.size
        low, high = self._tile_range(processor, options)
        cols, rows = 1, 1
        if high > 1:
            cols, rows = get_optimal_tiled_canvas((size[1], size[0]), (tile["height"], tile["width"]), low, high)
        side = self.square_side(processor.image_seq_length)
        layout = TokenLayout.tiled(rows, cols, (side, side), size=size, family=self.name, thumbnail=rows * cols > 1)
        return layout, (cols * tile["width"], rows * tile["height"])

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Average the patches that pixel shuffle puts into one token."""
        fold = int(1 / model.config.downsample_ratio)
        side = fold * self.square_side(model.config.image_seq_length)
        return split_rows(folded(values, side, fold), [layout.n for layout in layouts])

    def _tile_range(self, processor: Any, options: dict[str, Any]) -> tuple[int, int]:
        images = processor.image_processor
        return self.bounds("tiles", options, images.min_patches, images.max_patches)

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders = ("qwen2", "llama", "qwen3")
    specs = {
        "internvl2.5": _spec("llama", 4096, 32, 32, 8, 14336, 92553),
        "internvl2.5-1b": _spec("qwen2", 896, 24, 14, 2, 4864, 151674),
        "internvl2.5-2b": _spec("llama", 2048, 24, 16, 8, 8192, 92553),
        "internvl2.5-4b": _spec("qwen2", 2048, 36, 16, 2, 11008, 151674),
        "internvl2.5-8b": _spec("llama", 4096, 32, 32, 8, 14336, 92553),
        "internvl2.5-26b": _spec("llama", 6144, 48, 48, 8, 16384, 92553, _VIT_6B),
        "internvl2.5-2b-mpo": _spec("llama", 2048, 24, 16, 8, 8192, 92553),
        "internvl2.5-8b-mpo": _spec("llama", 4096, 32, 32, 8, 14336, 92553),
        "internvl3-1b": _spec("qwen2", 896, 24, 14, 2, 4864, 151674),
        "internvl3-2b": _spec("qwen2", 1536, 28, 12, 2, 8960, 151674),
        "internvl3-8b": _spec("qwen2", 3584, 28, 28, 4, 18944, 151674),
        "internvl3-14b": _spec("qwen2", 5120, 48, 40, 8, 13824, 151674),
        "internvl3-38b": _spec("qwen2", 5120, 64, 40, 8, 27648, 151674, _VIT_6B),
        "internvl3-78b": _spec("qwen2", 8192, 80, 64, 8, 29568, 151674, _VIT_6B),
        "internvl3.5-1b": _spec("qwen3", 1024, 28, 16, 8, 3072, 151936),
        "internvl3.5-2b": _spec("qwen3", 2048, 28, 16, 8, 6144, 151936),
        "internvl3.5-4b": _spec("qwen3", 2560, 36, 32, 8, 9728, 151936),
        "internvl3.5-8b": _spec("qwen3", 4096, 36, 32, 8, 12288, 151936),
        "internvl3.5-14b": _spec("qwen3", 5120, 40, 40, 8, 17408, 151936),
        "internvl3.5-38b": _spec("qwen3", 5120, 64, 64, 8, 25600, 151936, _VIT_6B),
    }
    special_tokens = SpecialTokens(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        "<|im_end|>",
        "<|endoftext|>",
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make an `InternVLConfig`."""
        import transformers

        return transformers.InternVLConfig(
            vision_config=transformers.InternVLVisionConfig(**tower_fields(spec)),
            text_config=text_config(spec, tokenizer, self.decoders),
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=spec.side**2,
            downsample_ratio=1 / spec.merge,
            tie_word_embeddings=spec.tied,
        )

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make an `InternVLProcessor` without its video half."""
        import transformers

        pixels = transformers.GotOcr2ImageProcessorPil(
            size={"height": spec.tile_pixels, "width": spec.tile_pixels},
            min_patches=1,
            max_patches=spec.max_tiles,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        cls = image_only(transformers.InternVLProcessor)
        return cls(image_processor=pixels, tokenizer=tokenizer, video_processor=None, image_seq_length=spec.side**2)
