"""The embedded models' architecture: an unmodified InternVL, untrained, of a given size, and its processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from biaslab.grounder.initial import scale_by_fan_in, sincos

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

__all__ = ["IMAGE_MEAN", "IMAGE_STD", "SizeOfModel", "box_answer", "tile_processor", "untrained"]

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SizeOfModel(Protocol):
    """What the two embedded models' sizes have in common."""

    @property
    def patch(self) -> int: ...  # noqa: D102
    @property
    def vision_hidden(self) -> int: ...  # noqa: D102
    @property
    def vision_layers(self) -> int: ...  # noqa: D102
    @property
    def vision_heads(self) -> int: ...  # noqa: D102
    @property
    def hidden(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def ffn(self) -> int: ...  # noqa: D102
    @property
    def grid(self) -> int: ...  # noqa: D102


def untrained(
    tokenizer: PreTrainedTokenizerFast, size: SizeOfModel, *, tile: int, kv_heads: int, seed: int
) -> InternVLForConditionalGeneration:
    """Build a model in float32.

    The initialisation differs from the class's default (standard deviation 0.02 throughout), with which a model
    this small hardly starts to learn: matrices are scaled by their fan-in and the tower's position embeddings
    start as 2-D sines and cosines.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    size : SizeOfModel
    tile : int
        Side of a tile, pixels.
    kv_heads : int
        Of the decoder.
    seed : int
        Of torch's global generator.

    Returns
    -------
    InternVLForConditionalGeneration
    """
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

    vision = InternVLVisionConfig(
        hidden_size=size.vision_hidden, num_hidden_layers=size.vision_layers, num_attention_heads=size.vision_heads,
        intermediate_size=4 * size.vision_hidden, image_size=tile, patch_size=size.patch,
        layer_scale_init_value=1.0, use_mean_pooling=True, attention_bias=True, use_qk_norm=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=size.hidden, intermediate_size=size.ffn,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=kv_heads,
        max_position_embeddings=1024, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False, use_sliding_window=False, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, initializer_range=0.04,
    )  # fmt: skip
    image_token: Any = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = InternVLConfig(
        vision_config=vision, text_config=text, downsample_ratio=0.5, image_seq_length=size.grid**2,
        image_token_id=image_token, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():
        embeddings = model.model.vision_tower.embeddings
        embeddings.cls_token.normal_(0, 0.02)
        embeddings.position_embeddings[0, 1:] = 0.5 * sincos(size.vision_hidden, 2 * size.grid)
        patches = embeddings.patch_embeddings.projection.weight
        patches.normal_(0, patches[0].numel() ** -0.5)
        scale_by_fan_in(model.model.vision_tower.encoder, 0.6)
        scale_by_fan_in(model.model.multi_modal_projector, 1.0)
        model.model.language_model.embed_tokens.weight.normal_(0, 0.5)
        model.lm_head.weight.normal_(0, 0.02)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def tile_processor(tokenizer: PreTrainedTokenizerFast, size: SizeOfModel, *, tile: int, tiles: int) -> Any:
    """Build InternVL's processor without its video half; images are cut into at most so many tiles.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    size : SizeOfModel
    tile : int
        Side of a tile, pixels.
    tiles : int
        1 for images that are never cut.

    Returns
    -------
    InternVLProcessor
    """
    import transformers

    from biaslab.models.processors import image_only

    images = transformers.GotOcr2ImageProcessorPil(
        size={"height": tile, "width": tile}, crop_to_patches=tiles > 1, min_patches=1, max_patches=tiles,
        image_mean=list(IMAGE_MEAN), image_std=list(IMAGE_STD),
    )  # fmt: skip
    return image_only(transformers.InternVLProcessor)(
        image_processor=images, tokenizer=tokenizer, video_processor=None, image_seq_length=size.grid**2,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def box_answer(steps: Sequence[str]) -> list[str]:
    """Write four coordinates as the tokens of an answer.

    Examples
    --------
    >>> "".join(box_answer(["0", "100", "125", "1000"])).replace("\u0120", " ")
    '[[0, 100, 125, 1000]]'
    """
    middle = [token for step in steps for token in (step, ",\u0120")][:-1]
    return ["[[", *middle, "]]"]
