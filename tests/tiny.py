"""Tiny models for tests: the real transformers classes with random weights, real processors, a local
tokenizer.

``vlm("internvl", heads=8)`` builds (once per session and set of options) a `biaslab.models.vlm.VLM`; nothing
is downloaded. Weights are sharper than transformers' initialisation, under which attention is almost uniform
and a wrong row would go unnoticed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image

from biaslab.models.loading import wrap
from biaslab.models.processors import image_only

FAMILIES = ("internvl", "llava", "qwen2_5_vl")
TEXT = {"hidden": 64, "layers": 4, "heads": 4, "kv": 2, "inter": 128}
TILE, PATCH = 56, 14

_CORPUS = [
    "Please provide the bounding box coordinate of the region this sentence describes",
    "Where is the red circle on the left? Please describe the provided image.",
    "[[123, 45, 678, 90]] the small green square near the big blue triangle",
]
_SPECIALS = {
    "internvl": [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
    ],
    "llava": ["<s>", "</s>", "<pad>", "<image>"],
    "qwen2_5_vl": [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
        "<|video_pad|>",
    ],
}  # fmt: skip


def images(n: int = 1, sizes: list[tuple[int, int]] | None = None, seed: int = 0) -> list[Image.Image]:
    """Noise pictures of different aspect ratios (width, height)."""
    sizes = sizes or [(112, 56), (60, 60), (90, 150), (200, 40)]
    rng = np.random.default_rng(seed)
    shapes = [sizes[i % len(sizes)] for i in range(n)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in shapes]


TEXTS = [
    "Where is the red circle?",
    "Please describe the provided image, all of it.",
    "the small green square",
    "What is on the left?",
]


def texts(n: int = 1) -> list[str]:
    """Questions of different lengths, so that a batch needs padding."""
    return [TEXTS[i % len(TEXTS)] for i in range(n)]


@cache
def _tokenizer(family: str):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=_SPECIALS[family],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS * 10, trainer)
    return core


def tokenizer(family: str):
    """A byte-level BPE with the special tokens of the family."""
    from transformers import PreTrainedTokenizerFast

    ends = {"llava": ("</s>", "<pad>")}.get(family, ("<|im_end|>", "<|endoftext|>"))
    extra = {
        "internvl": {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        "llava": {"image_token": "<image>"},
        "qwen2_5_vl": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    }[family]
    return PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(family), eos_token=ends[0], pad_token=ends[1], extra_special_tokens=extra
    )


def processor(family: str, tile: int = TILE, patch: int = PATCH, max_tiles: int = 6):
    """The family's real processor, made offline."""
    import transformers as T

    tok = tokenizer(family)
    if family == "internvl":
        pixels = T.GotOcr2ImageProcessorPil(
            size={"height": tile, "width": tile},
            min_patches=1,
            max_patches=max_tiles,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        side = tile // patch // 2
        cls = image_only(T.InternVLProcessor)
        return cls(image_processor=pixels, tokenizer=tok, video_processor=None, image_seq_length=side**2)
    if family == "llava":
        pixels = T.CLIPImageProcessorPil(size={"shortest_edge": tile}, crop_size={"height": tile, "width": tile})
        return T.LlavaProcessor(
            image_processor=pixels,
            tokenizer=tok,
            patch_size=patch,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
    pixels = T.Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 40})
    return image_only(T.Qwen2_5_VLProcessor)(image_processor=pixels, tokenizer=tok, video_processor=None)


def config(family: str, text: str = "qwen2", tile: int = TILE, patch: int = PATCH, **text_kw):
    """A small config of the real class; ``text_kw``: hidden, layers, heads, kv, inter, or any field."""
    import transformers as T

    tok = tokenizer(family)
    size = {**TEXT, **{k: text_kw.pop(k) for k in TEXT if k in text_kw}}
    fields = {
        "vocab_size": len(tok),
        "hidden_size": size["hidden"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["kv"],
        "intermediate_size": size["inter"],
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
        **text_kw,
    }
    small = {"hidden_size": 32, "intermediate_size": 64}
    if family == "internvl":
        vision = T.InternVLVisionConfig(
            **small,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=(tile, tile),
            patch_size=(patch, patch),
        )
        texts = {"qwen2": T.Qwen2Config, "llama": T.LlamaConfig, "qwen3": T.Qwen3Config}
        return T.InternVLConfig(
            vision_config=vision,
            text_config=texts[text](**fields),
            image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=(tile // patch // 2) ** 2,
            downsample_ratio=0.5,
            tie_word_embeddings=False,
        )
    if family == "llava":
        vision = T.CLIPVisionConfig(
            **small,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=tile,
            patch_size=patch,
            projection_dim=32,
        )
        return T.LlavaConfig(
            vision_config=vision,
            text_config=T.LlamaConfig(**fields),
            image_token_id=tok.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            image_seq_length=(tile // patch) ** 2,
        )
    dim = size["hidden"] // size["heads"] // 2
    sections = [dim // 4, dim // 4 + dim // 8, dim - 2 * (dim // 4) - dim // 8]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    return T.Qwen2_5_VLConfig(
        text_config={**fields, "rope_parameters": rope},
        vision_config={
            **small,
            "depth": 2,
            "num_heads": 4,
            "out_hidden_size": size["hidden"],
            "patch_size": PATCH,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=tok.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tok.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tok.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tok.convert_tokens_to_ids("<|vision_end|>"),
    )


def build(family: str, attn: str = "sdpa", **text_kw):
    """A fresh model of the real class with sharp random weights."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config(family, **text_kw), attn_implementation=attn)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.25 if "q_proj" in name or "k_proj" in name else 0.08)
    tok = tokenizer(family)
    model.generation_config.eos_token_id = tok.eos_token_id
    model.generation_config.pad_token_id = tok.pad_token_id
    return model.eval().requires_grad_(False)


@cache
def vlm(family: str = "internvl", attn: str = "sdpa", **text_kw):
    """A shared VLM: do not change its weights."""
    return wrap(build(family, attn, **text_kw), processor(family), name=f"tiny-{family}", revision="0")


def encoded(model, n: int = 2, seed: int = 0, **options):
    """A left-padded batch of ``n`` pictures of different shapes with questions of different lengths."""
    ids = [f"s{i}" for i in range(n)]
    return model.encode(images(n, seed=seed), texts(n), sample_ids=ids, **options)


def sequences(model, enc, max_new_tokens: int = 6, **kw) -> torch.Tensor:
    """Token ids a plain greedy ``generate`` gives, stopping at nothing, prompt included."""
    with model.running(enc) as inputs, torch.no_grad():
        return model.model.generate(
            **inputs, max_new_tokens=max_new_tokens, min_new_tokens=max_new_tokens, do_sample=False, **kw
        )
