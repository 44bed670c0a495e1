"""Tiny models for tests: the real transformers classes with random weights, real processors, a local
tokenizer.

``vlm("internvl", heads=8)`` builds (once per session and set of options) a `biaslab.models.vlm.VLM` of any
registered family; nothing is downloaded. Weights are sharper than transformers' initialisation, under which
attention is almost uniform and a wrong row would go unnoticed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from biaslab.models import families
from biaslab.models.loading import wrap
from biaslab.models.offline import stand_in_tokenizer as stand_in_tokenizer
from biaslab.models.offline_spec import ModelSpec

FAMILIES = tuple(sorted(families()))
QUICK = ("internvl", "llava", "qwen2_5_vl")  # tiles, a padded square, a raster with rotary sections


def quick(family: str, *values):
    """Parameters of a test of every family: `make quick` runs those of three that stand for the others."""
    return pytest.param(family, *values, marks=() if family in QUICK else pytest.mark.slow)


CROSSED = [quick(family) for family in FAMILIES]  # where families are crossed with something else
TEXT = {"hidden": 64, "layers": 4, "heads": 4, "kv": 2, "inter": 128}
TILE, PATCH = 56, 14


def images(n: int = 1, sizes: list[tuple[int, int]] | None = None, seed: int = 0) -> list[Image.Image]:
    """Noise images of different aspect ratios (width, height)."""
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


def shape(family: str, text: str | None = None, tile: int = TILE, patch: int = PATCH, max_tiles: int = 6, **text_kw):
    """A tiny shape of a family; ``text_kw``: hidden, layers, heads, kv, inter, or any field of the text config."""
    adapter = families()[family]
    size = {**TEXT, **{k: text_kw.pop(k) for k in TEXT if k in text_kw}}
    first: ModelSpec = next(iter(adapter.specs.values()))
    return replace(
        first,
        decoder=text if text in adapter.decoders else adapter.decoders[0],
        hidden=size["hidden"],
        layers=size["layers"],
        heads=size["heads"],
        kv_heads=size["kv"],
        ffn=size["inter"],
        vocab=None,
        head_dim=None if first.head_dim is None else size["hidden"] // size["heads"],
        tied=False,
        vision_hidden=32,
        vision_layers=2,
        vision_heads=4,
        vision_ffn=64,
        patch=patch,
        tile=first.tile and tile,
        merge=min(first.merge, 2),
        max_tiles=min(first.max_tiles, max_tiles),
        min_pixels=first.min_pixels and 56 * 56,
        max_pixels=first.max_pixels and 28 * 28 * 40,
        longest_edge=first.longest_edge and 4 * tile,
        text={"max_position_embeddings": 4096, **text_kw},
        vision={},
    )


def tokenizer(family: str):
    """A byte-level BPE with the special tokens of the family."""
    return stand_in_tokenizer.tokenizer(families()[family].special_tokens)


def processor(family: str, tile: int = TILE, patch: int = PATCH, max_tiles: int = 6):
    """The family's real processor, made offline."""
    tiny = shape(family, tile=tile, patch=patch, max_tiles=max_tiles)
    return families()[family].make_processor(tiny, tokenizer(family))


def config(family: str, text: str | None = None, tile: int = TILE, patch: int = PATCH, **text_kw):
    """A small config of the real class; ``text_kw`` as for `shape`."""
    return families()[family].config(shape(family, text, tile, patch, **text_kw), tokenizer(family))


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


@cache
def windowed(kinds: str = "ssff", window: int = 9, family: str = "internvl", attn: str = "sdpa", **text_kw):
    """A shared VLM whose layers have a sliding window (s) or full attention (f), one letter each."""
    names = {"s": "sliding_attention", "f": "full_attention"}
    options = {"layer_types": [names[kind] for kind in kinds], "sliding_window": window, "layers": len(kinds)}
    if family != "paligemma":
        options["use_sliding_window"] = True
    model = build(family, attn, **options, **text_kw)
    return wrap(model, processor(family), name=f"tiny-{family}-{kinds}", revision="0")


def encoded(model, n: int = 2, seed: int = 0, **options):
    """A left-padded batch of ``n`` images of different shapes with questions of different lengths."""
    ids = [f"s{i}" for i in range(n)]
    return model.encode(images(n, seed=seed), texts(n), sample_ids=ids, **options)


def sequences(model, enc, max_new_tokens: int = 6, **kw) -> torch.Tensor:
    """Token ids a plain greedy ``generate`` gives, stopping at nothing, prompt included."""
    with model.running(enc) as inputs, torch.no_grad():
        return model.model.generate(
            **inputs, max_new_tokens=max_new_tokens, min_new_tokens=max_new_tokens, do_sample=False, **kw
        )
