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

from biaslab.scenes import expressions as ex
from biaslab.scenes.backgrounds import CANVAS
from biaslab.scenes.objects import COLOURS, NAMES
from biaslab.scenes.rendering import scene

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
COORDINATES: tuple[str, ...] = tuple(str(v) for v in range(0, 1001, 10))

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
           "<ref>", "</ref>", "<box>", "</box>")  # fmt: skip
# InternVL's own template, as its -hf checkpoints carry it: no default system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ENGLISH = """Please describe the provided image. What is in this picture? Where is the cat? How many objects are there?
Describe the scene in detail. Is there a dog in the image? What colour is the car? \
Which animal stands next to the house?
Find the red apple and give its box. Look at the photo and answer the question with a single word or phrase.
Locate the person who wears a hat. Can you see any food here? Who is holding the umbrella? Why do they look at it?
The quick brown fox jumps over the lazy dog. There are two of them on the table, one in front of the other, between
the man and the woman. Point to the object behind the chair, near the window, under the tree, over the water, inside
the room. List everything that you see, from left to right and from top to bottom. Yes or no? Explain your answer."""


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
    yield from _ENGLISH.split("\n") * 20
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
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    # Every piece of text between special tokens starts with one space: "<ref>cat" and "the cat" share a token.
    core.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Strip(left=True, right=False), normalizers.Prepend(" ")]
    )
    pieces = Regex(r"\[\[|\]\]|, | ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(scenes), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=1024,
        extra_special_tokens={
            "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        },
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


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
        embeddings.position_embeddings[0, 1:] = 0.5 * _sincos(size.vision_hidden, 2 * size.grid)
        patches = embeddings.patch_embeddings.projection.weight
        patches.normal_(0, patches[0].numel() ** -0.5)
        _scale_by_fan_in(model.model.vision_tower.encoder, 0.6)
        _scale_by_fan_in(model.model.multi_modal_projector, 1.0)
        model.model.language_model.embed_tokens.weight.normal_(0, 0.5)
        model.lm_head.weight.normal_(0, 0.02)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _scale_by_fan_in(module: nn.Module, gain: float) -> None:
    for parameter in module.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, gain * parameter.shape[1] ** -0.5)


def _sincos(width: int, grid: int) -> Tensor:
    """Compute 2-D position embeddings, (grid * grid, width): a quarter each of sin x, cos x, sin y, cos y."""
    import torch

    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    ys, xs = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [f(v.reshape(-1, 1) * frequency) for v in (xs, ys) for f in (torch.sin, torch.cos)]
    return torch.cat(waves, 1)
