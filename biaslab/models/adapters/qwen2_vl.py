"""Qwen2-VL: one raster whose size follows the image; boxes between box tokens, on 0-1000."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from biaslab.core.boxes import Box, BoxSpace, find_box
from biaslab.core.layout import TokenLayout
from biaslab.models.family import Family, register
from biaslab.models.offline_spec import ModelSpec, SpecialTokens, rope_sections, text_fields
from biaslab.models.pixel_form import PixelForm
from biaslab.models.processors import image_only
from biaslab.models.towers import split_rows

if TYPE_CHECKING:
    from torch import Tensor

_TOWER: dict[str, Any] = {
    "vision_layers": 32,
    "vision_heads": 16,
    "vision_hidden": 1280,
    "vision_ffn": 5120,
    "patch": 14,
    "merge": 2,
}
_PIXELS: dict[str, Any] = {"min_pixels": 3136, "max_pixels": 12845056}


@register
class Qwen2VL(Family):
    """Qwen2-VL.

    The image is stretched to multiples of a merged patch (``smart_resize``), so cells cover all of it and
    nothing else. Options: ``min_pixels`` and ``max_pixels`` bound the area of the resized image.

    Boxes are answered as ``<|box_start|>(x1,y1),(x2,y2)<|box_end|>`` (technical report, arXiv 2409.12191); decoding
    drops the tokens and leaves the corners. The wording of the prompt is ours: no official one is published.
    """

    name = "qwen2_vl"
    model_types = ("qwen2_vl",)
    aliases = {f"qwen2-vl-{size}": f"Qwen/Qwen2-VL-{size.upper()}-Instruct" for size in ("2b", "7b", "72b")}
    processor_class = "Qwen2VLProcessor"
    pixel_form = PixelForm.PATCHES
    box_space = BoxSpace.NORM1000
    grounding_template = "Output the bounding box of <|object_ref_start|>{}<|object_ref_end|> in the image."
    stop_tokens = ("<|im_end|>",)
    options = frozenset({"min_pixels", "max_pixels"})
    frames_refused = "it takes a video as video tokens, two frames in each, which are not made here"
    system = "You are a helpful assistant."
    corners = True  # boxes are written as two corners

    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write one ChatML turn, after the system message if the family has one."""
        images = f"<|vision_start|>{processor.image_token}<|vision_end|>" * n_images
        system = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system else ""
        return f"{system}<|im_start|>user\n{images}{text}<|im_end|>\n<|im_start|>assistant\n"

    def image_kwargs(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Say the bounds of the area of the resized image."""
        if not options:
            return {}
        size = processor.image_processor.size
        low, high = self.bounds("pixels", options, size["shortest_edge"], size["longest_edge"])
        return {"size": {"shortest_edge": low, "longest_edge": high}}

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
        """Lay out the one raster of merged patches."""
        images = processor.image_processor
        _, height, width = (int(v) for v in inputs["image_grid_thw"][index])
        merge = images.merge_size
        layout = TokenLayout.raster(height // merge, width // merge, size=size, family=self.name)
        return layout, (width * images.patch_size, height * images.patch_size)

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Average the patches that are merged into one token: they follow each other."""
        unit = model.config.vision_config.spatial_merge_size**2
        return split_rows(values.unflatten(0, (-1, unit)).mean(1), [layout.n for layout in layouts])

    def parse_box(self, text: str, size: tuple[int, int], resized: tuple[int, int] | None = None) -> Box | None:
        """Read the first box of an answer in pixels of the original image, or None."""
        values = find_box(text, corners=self.corners)
        return None if values is None else self.box_space.read(values, size=size, resized=resized)

    # ---------------------------------------------------------------------------------- geometry without weights
    decoders = ("qwen2_vl_text",)
    specs = {
        "qwen2-vl-2b": ModelSpec("qwen2_vl_text", 1536, 28, 12, 2, 8960, **_TOWER, **_PIXELS, vocab=151936, tied=True),
        "qwen2-vl-7b": ModelSpec("qwen2_vl_text", 3584, 28, 28, 4, 18944, **_TOWER, **_PIXELS, vocab=152064),
    }
    special_tokens = SpecialTokens(
        (
            "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
            "<|box_start|>", "<|box_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        ),
        "<|im_end|>",
        "<|endoftext|>",
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )  # fmt: skip
    config_class = "Qwen2VLConfig"
    rope = (16, 24, 24)  # sections of M-RoPE: time, height, width
    rope_base = 1e6
    rope_extra: ClassVar[dict[str, Any]] = {}
    pixel_statistics: ClassVar[dict[str, Any]] = {}  # mean and deviation; the image processor's own by default

    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make the configuration of `config_class`."""
        import transformers

        ids = {
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        }
        return getattr(transformers, self.config_class)(
            text_config=self._text(spec, tokenizer),
            vision_config=self._vision(spec),
            tie_word_embeddings=spec.tied,
            **{name: tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
        )

    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make the processor without its video half."""
        import transformers

        size: Any = {"shortest_edge": spec.min_pixels, "longest_edge": spec.max_pixels}
        pixels = transformers.Qwen2VLImageProcessorPil(
            size=size,
            patch_size=spec.patch,
            merge_size=spec.merge,
            **self.pixel_statistics,
        )
        cls = image_only(getattr(transformers, self.processor_class))
        return cls(image_processor=pixels, tokenizer=tokenizer, video_processor=None)

    def _text(self, spec: ModelSpec, tokenizer: Any) -> dict[str, Any]:
        rope = {"rope_type": "default", "rope_theta": self.rope_base, **self.rope_extra}
        rope["mrope_section"] = rope_sections(spec, self.rope)
        return {"rope_parameters": rope, **text_fields(spec, tokenizer)}

    def _vision(self, spec: ModelSpec) -> dict[str, Any]:
        return {
            "depth": spec.vision_layers,
            "embed_dim": spec.vision_hidden,
            "mlp_ratio": spec.vision_ffn // spec.vision_hidden,
            "num_heads": spec.vision_heads,
            "hidden_size": spec.hidden,
            "patch_size": spec.patch,
            "spatial_merge_size": spec.merge,
            **spec.vision,
        }
