"""The embedded grounder: a small, unmodified InternVL that is trained from scratch on the scenes.

Nothing here is special to biaslab: `transformers.InternVLForConditionalGeneration` from a config, a byte-level
BPE tokenizer, InternVL's chat format and its box format ``[[x1, y1, x2, y2]]`` on 0-1000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab.grounder.initial import scale_by_fan_in, sincos
from biaslab.grounder.tokens import ENGLISH, byte_level_bpe
from biaslab.scenes import expressions as ex
from biaslab.scenes.backgrounds import CANVAS
from biaslab.scenes.objects import COLOURS, NAMES
from biaslab.scenes.rendering import scene

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
COORDINATES: tuple[str, ...] = tuple(str(v) for v in range(0, 1001, 10))


@dataclass(frozen=True)
class Size:
    """The grounder's size; a smaller one makes quick tests of the trainer.

    Attributes
    ----------
    patch : int
        Side of a patch, pixels.
    vision_hidden, vision_layers, vision_heads : int
        Of the vision tower.
    hidden, layers, heads, ffn : int
        Of the decoder.

    Examples
    --------
    >>> from biaslab.grounder.model import Size
    >>> Size().grid, Size(patch=14).grid
    (16, 8)
    """

    patch: int = 7
    vision_hidden: int = 128
    vision_layers: int = 3
    vision_heads: int = 2
    hidden: int = 192
    layers: int = 10
    heads: int = 4
    ffn: int = 512

    @property
    def grid(self) -> int:
        """Visual tokens per side: the pixel shuffle merges 2 x 2 patches."""
        return CANVAS // self.patch // 2


def box_tokens(box: tuple[float, float, float, float]) -> list[str]:
    """Write a box in pixels of a scene as answer tokens: ``[[x1, y1, x2, y2]]``, steps of 10 on 0-1000."""
    steps = [COORDINATES[int(np.clip(round(v / CANVAS * 100), 0, 100))] for v in box]
    middle = [token for step in steps for token in (step, ",\u0120")][:-1]
    return ["[[", *middle, "]]"]


def _corpus(scenes: int) -> Iterator[str]:
    yield from [PROMPT.format("")] * 50
    yield from ["user\n", "assistant\n", "system\n"] * 50
    yield from ENGLISH.split("\n") * 20
    yield from [f"the {c} {n}" for n in NAMES for c in ("small", "big", *COLOURS)] * 20
    yield from [f"[[{v}, {v}]]" for v in COORDINATES] * 400
    rng = np.random.default_rng(0)
    for i in range(scenes):
        yield from (e.text for e in ex.sample(rng, scene("train", i).objects, 9))


@cache
def build_tokenizer(*, vocab_size: int = 1536, scenes: int = 200) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level BPE: any text has tokens; object names and coordinates are single ones.

    Parameters
    ----------
    vocab_size : int
    scenes : int
        Training scenes whose expressions are in the corpus.

    Returns
    -------
    PreTrainedTokenizerFast
    """
    return byte_level_bpe(_corpus(scenes), vocab_size=vocab_size)


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    size: Size = Size(),
    seed: int = 0,
) -> InternVLForConditionalGeneration:
    """Build the untrained grounder in float32.

    The initialisation differs from the class's default (standard deviation 0.02 throughout), with which a model
    this small hardly starts to learn: matrices are scaled by their fan-in and the tower's position embeddings
    start as 2-D sines and cosines.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        From `build_tokenizer`.
    size : Size
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
        intermediate_size=4 * size.vision_hidden, image_size=CANVAS, patch_size=size.patch,
        layer_scale_init_value=1.0, use_mean_pooling=True, attention_bias=True, use_qk_norm=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=size.hidden, intermediate_size=size.ffn,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
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
