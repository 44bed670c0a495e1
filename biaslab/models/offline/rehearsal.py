"""A model's true geometry with few layers, small width and random weights, to rehearse a run on a laptop.

Tiles, tokens per tile, prompt template, tokenizer and head layout are the model's own, so data, prompts, layouts,
disk space and the whole pipeline are checked; the numbers that come out mean nothing, and everything written says so.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch

from biaslab._util.watermark import REVISION, rehearsal_name
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.loading import read
from biaslab.models.offline.geometry import geometry
from biaslab.models.offline.random_init import build
from biaslab.models.recipe import LoadRecipe
from biaslab.models.vlm import VLM

__all__ = ["rehearse", "shrunk"]

_HEAD = 8  # width of an attention head


def rehearse(name: str | Path, *, layers: int = 4, seed: int = 0, revision: str | None = None) -> VLM:
    """Make a small stand-in for a model, on the CPU in float32.

    Parameters
    ----------
    name : str or Path
        Alias, hub id or folder, as for :func:`biaslab.models.load`. Configuration and processor files are used
        where they are on this machine (weights are not needed), published sizes and a stand-in tokenizer otherwise.
    layers : int
        Decoder layers, no more than the model has.
    seed : int
        Of the weights.
    revision : str, optional
        Branch, tag or commit of a hub model whose files are on this machine.

    Returns
    -------
    VLM
        Named "rehearsal of NAME", revision "rehearsal": profiles and runs of real models refuse to mix with it.

    Raises
    ------
    InputError
        A name that means nothing, or fewer than 1 layer.
    ModelError
        Neither files nor published sizes are known, so that there is nothing to rehearse with.

    Examples
    --------
    >>> import biaslab as bl
    >>> from PIL import Image
    >>> vlm = bl.rehearse("qwen2.5-vl-7b", layers=2)
    >>> vlm
    VLM('rehearsal of Qwen/Qwen2.5-VL-7B-Instruct', family='qwen2_5_vl', layers=2, device=cpu)
    >>> vlm.encode([Image.new("RGB", (640, 480))], ["Where is the cat?"]).layouts  # as many tokens as the real model
    [TokenLayout(qwen2_5_vl/17x23/tiles1x1, n=391, size=640x480)]
    """
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise InputError(f"a rehearsal needs at least 1 decoder layer, got {layers!r}")
    full = geometry(name if revision is None else LoadRecipe(name=str(name), revision=revision))
    if full.spec is not None:
        model, processor = build(full.family, full.spec.small(layers=layers, head_dim=_HEAD), seed=seed)
    else:
        small, processor = shrunk(full.config, layers), full.processor
        folder = cast(Path, full.folder)  # without published sizes the geometry comes from files
        model = read(folder, "configuration", lambda: _build(small, seed))
        _end_tokens(model, folder, processor.tokenizer)
    return VLM(model, processor, full.family, name=rehearsal_name(full.name), revision=REVISION)


def shrunk(config: Any, layers: int) -> Any:
    """Copy a configuration with small width and depth; heads, patches, merging and token ids stay.

    Decoder layers that get image features of their own (DeepStack) are all kept.

    Raises
    ------
    UnsupportedError
        A tower whose fields are not known here.
    """
    config = copy.deepcopy(config)
    vision = config.vision_config
    deep = len(getattr(vision, "deepstack_visual_indexes", None) or ())
    _shrink_text(config.text_config, max(layers, deep + 1) if deep else layers)
    taps = getattr(config, "vision_feature_layer", None)
    taps = [taps] if isinstance(taps, int) else list(taps or ())
    depth = max([2, deep, *(abs(t) if t < 0 else t for t in taps)])
    _shrink_vision(vision, config.text_config.hidden_size, depth)
    return config


def _shrink_text(c: Any, layers: int) -> None:
    c.num_hidden_layers = min(layers, c.num_hidden_layers)
    c.hidden_size = _HEAD * c.num_attention_heads
    c.intermediate_size = 2 * c.hidden_size
    if getattr(c, "head_dim", None) is not None:
        c.head_dim = _HEAD
    if getattr(c, "layer_types", None):
        c.layer_types = list(c.layer_types)[: c.num_hidden_layers]
    rope = getattr(c, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("mrope_section"):
        c.rope_parameters = {**rope, "mrope_section": _sections(rope["mrope_section"], _HEAD // 2)}


def _sections(sections: list[int], total: int) -> list[int]:
    """Time, height and width sections of the rotary angles in about the same shares of fewer angles, none empty."""
    shares = [s * total / sum(sections) for s in sections]
    out = [max(1, int(s)) for s in shares]
    while sum(out) < total:
        i = max(range(len(out)), key=lambda k: shares[k] - out[k])
        out[i] += 1
    return out


def _shrink_vision(v: Any, text_width: int, depth: int) -> None:
    heads = getattr(v, "num_attention_heads", None) or getattr(v, "num_heads", None)
    if heads is None or not hasattr(v, "num_hidden_layers"):
        raise UnsupportedError(f"no rehearsal for a {v.model_type!r} vision tower: its width or depth is not known")
    width = _HEAD * heads
    if hasattr(v, "embed_dim"):  # Qwen2-VL calls the width of its output hidden_size
        v.embed_dim, v.hidden_size = width, text_width
    else:
        v.hidden_size = width
    if hasattr(v, "intermediate_size"):
        v.intermediate_size = 2 * width
    if hasattr(v, "out_hidden_size"):
        v.out_hidden_size = text_width
    if hasattr(v, "projection_dim"):
        v.projection_dim = width
    v.num_hidden_layers = depth
    for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if getattr(v, name, None):
            count = min(len(getattr(v, name)), depth)
            setattr(v, name, list(range(depth - count, depth)) if name[0] == "d" else [depth - 1])


def _build(config: Any, seed: int) -> Any:
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    return model.eval().requires_grad_(False)


def _end_tokens(model: Any, folder: Path, tokenizer: Any) -> None:
    """Set the checkpoint's own generation settings; end and padding tokens of its tokenizer where they say none."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    for name in ("eos_token_id", "pad_token_id"):
        if getattr(model.generation_config, name) is None:
            setattr(model.generation_config, name, getattr(tokenizer, name))
