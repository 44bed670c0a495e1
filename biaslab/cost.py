"""Analytic FLOPs of a multimodal forward, from the configuration alone (no weights, no transformers import).

Counted as ``torch.utils.flop_counter`` counts: 2 per multiply-accumulate, matrix products and convolutions
only (norms, softmax, activations and the pruning rule itself are left out), attention over the full square
(causality is not discounted). The formulas equal ``FlopCounterMode`` exactly under
``sdpa_kernel(SDPBackend.MATH)``; under other SDPA kernels the counter misses attention, so do not use it to
check them.

Vision tower, projector and decoder are kept apart because pruning inside the decoder touches only the last: a
reduction quoted for the decoder alone overstates what is saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from biaslab.errors import InputError, UnsupportedError

__all__ = [
    "DECODERS",
    "VISION",
    "Flops",
    "decoder_flops",
    "fastv_reduction",
    "image_flops",
    "layer_lengths",
    "register_vision",
    "vision_flops",
]

Grid = tuple[int, int]

#: config.text_config.model_type of decoders with grouped-query attention and a gated feed-forward block
DECODERS = {"llama", "mistral", "qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text"}

#: config.vision_config.model_type -> function(model_config, n_visual, grid) -> (vision FLOPs, projector
#: FLOPs)
VISION: dict[str, Callable[[Any, int, Grid | None], tuple[int, int]]] = {}


@dataclass(frozen=True)
class Flops:
    """FLOPs of one sample, 2 per multiply-accumulate.

    Attributes
    ----------
    vision, projector : image encoding, all tiles of the image.
    decoder : language model and its output head: prefill and every generated token.
    decode : the part of ``decoder`` that is spent after the prefill.
    """

    vision: int
    projector: int
    decoder: int
    decode: int = 0

    @property
    def total(self) -> int:
        return self.vision + self.projector + self.decoder

    @property
    def prefill(self) -> int:
        """Decoder FLOPs up to and including the first generated token."""
        return self.decoder - self.decode


def image_flops(
    model_config: Any,
    n_visual: int,
    n_text: int,
    keep_n: int | None = None,
    layer: int = 0,
    new_tokens: int = 0,
    grid: Grid | None = None,
) -> Flops:
    """FLOPs to answer one prompt about one image whose tokens are pruned to ``keep_n`` before decoder layer
    ``layer``.

    Parameters
    ----------
    model_config : the model's configuration (``vision_config`` and ``text_config`` inside).
    n_visual : visual tokens of the image, all tiles and the thumbnail.
    n_text : all other tokens of the prompt, template included, padding not.
    keep_n : visual tokens kept; None for no pruning.
    layer : K, the tokens are dropped just before decoder layer index K.
    new_tokens : tokens generated. The first comes out of the prefill, so 0 and 1 cost the same.
    grid : (rows, cols) of the visual tokens; only windowed vision towers (Qwen2.5-VL) read it. Without it
        their windows count as full, a few per cent too much attention for sizes that windows do not divide.

    Raises
    ------
    InputError
        Counts that cannot be.
    UnsupportedError
        A tower or decoder whose cost is not known here.
    """
    vision, projector = vision_flops(model_config, n_visual, grid)
    decoder, decode = decoder_flops(model_config.text_config, n_visual, n_text, keep_n, layer, new_tokens)
    return Flops(vision, projector, decoder, decode)


def layer_lengths(n_layers: int, n_visual: int, n_text: int, keep_n: int | None, layer: int) -> list[int]:
    """Tokens each decoder layer sees in the prefill: all before layer K, text + kept from K on."""
    if n_visual < 0 or n_text < 0 or n_visual + n_text == 0:
        raise InputError(
            f"token counts must not be negative, and not both 0: got n_visual={n_visual}, n_text={n_text}"
        )
    keep_n = n_visual if keep_n is None else keep_n
    if not 0 <= keep_n <= n_visual:
        raise InputError(f"keep_n must be between 0 and the {n_visual} visual tokens, got {keep_n}")
    if not 0 <= layer < n_layers:
        raise InputError(f"the prune layer must be between 0 and {n_layers - 1}, got {layer}")
    return [(n_visual if i < layer else keep_n) + n_text for i in range(n_layers)]


def decoder_flops(
    text_config: Any,
    n_visual: int,
    n_text: int,
    keep_n: int | None = None,
    layer: int = 0,
    new_tokens: int = 0,
) -> tuple[int, int]:
    """(prefill + generation, generation alone) of the language model, each layer at its real length; see
    :func:`image_flops`.
    """
    if text_config.model_type not in DECODERS:
        raise UnsupportedError(
            f"the cost of a {text_config.model_type!r} decoder is not known: "
            f"known are {', '.join(sorted(DECODERS))}"
        )
    c = text_config
    lengths = layer_lengths(c.num_hidden_layers, n_visual, n_text, keep_n, layer)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads

    def step(queries: list[int], keys: list[int]) -> int:
        macs = sum(_gqa_layer(q, k, c, head_dim) for q, k in zip(queries, keys, strict=True))
        return 2 * (macs + c.hidden_size * c.vocab_size)  # only the last row reaches the output head

    one = [1] * len(lengths)
    decode = sum(step(one, [n + t for n in lengths]) for t in range(1, new_tokens))
    return step(lengths, lengths) + decode, decode


def _gqa_layer(q: int, k: int, c: Any, head_dim: int) -> int:
    """Multiply-accumulates of one layer: q new tokens that attend to k."""
    d, heads, kv = c.hidden_size, c.num_attention_heads, c.num_key_value_heads
    projections = q * d * head_dim * (heads + 2 * kv) + q * heads * head_dim * d
    return projections + 2 * q * k * heads * head_dim + 3 * q * d * c.intermediate_size


def fastv_reduction(
    n_visual: int,
    n_kept: int,
    layer: int,
    n_layers: int,
    hidden: int,
    intermediate: int,
    n_text: int = 0,
    gated: bool = False,
) -> float:
    """Share of decoder FLOPs saved, by the formula FastV published (arXiv 2403.06764, section 4.2).

    ``F(n) = 4 n d^2 + 2 n^2 d + 2 n d m`` and ``1 - (K F(n) + (T - K) F(n')) / (T F(n))``. It leaves out the
    vision tower and the output head, and assumes ungrouped heads and a two-matrix feed-forward block;
    ``gated=True`` takes the three matrices that Llama-like models have (PyramidDrop and later papers).

    Which tokens count differs between papers: ``n_text=0`` counts visual tokens only, as FastV's table does;
    otherwise n = n_visual + n_text and n' = n_kept + n_text. Say which when quoting the number.
    """
    if not 0 <= layer <= n_layers or not 0 <= n_kept <= n_visual:
        raise InputError(
            f"need 0 <= layer <= {n_layers} and 0 <= n_kept <= {n_visual}, got {layer} and {n_kept}"
        )
    matrices = 3 if gated else 2

    def f(n: int) -> int:
        return 4 * n * hidden**2 + 2 * n**2 * hidden + matrices * n * hidden * intermediate

    full, pruned = f(n_visual + n_text), f(n_kept + n_text)
    return 1 - (layer * full + (n_layers - layer) * pruned) / (n_layers * full)


def vision_flops(model_config: Any, n_visual: int, grid: Grid | None = None) -> tuple[int, int]:
    """(vision tower, projector) for the tiles that make ``n_visual`` tokens; see :func:`image_flops`."""
    kind = model_config.vision_config.model_type
    if kind not in VISION:
        raise UnsupportedError(
            f"the cost of a {kind!r} vision tower is not known: known are {', '.join(VISION)}"
        )
    return VISION[kind](model_config, n_visual, grid)


def register_vision(*model_types: str) -> Callable:
    """Decorator: make the cost of a vision tower and its projector known by ``vision_config.model_type``."""

    def add(function: Callable) -> Callable:
        VISION.update(dict.fromkeys(model_types, function))
        return function

    return add


@register_vision("internvl_vision")
def _internvl(config: Any, n_visual: int, grid: Grid | None) -> tuple[int, int]:
    v, d = config.vision_config, config.text_config.hidden_size
    patches = _patches(v)
    fold = int(1 / config.downsample_ratio) ** 2  # patches that pixel shuffle folds into one token
    tower = _count(n_visual, patches // fold, "tile") * _vit(v, patches)
    return tower, 2 * n_visual * (v.hidden_size * fold * d + d * d)


@register_vision("clip_vision_model")
def _clip(config: Any, n_visual: int, grid: Grid | None) -> tuple[int, int]:
    v, d = config.vision_config, config.text_config.hidden_size
    patches = _patches(v)
    per_image = patches + (config.vision_feature_select_strategy == "full")
    taps = config.vision_feature_layer
    width = v.hidden_size * (1 if isinstance(taps, int) else len(taps))
    return _count(n_visual, per_image, "image") * _vit(v, patches), 2 * n_visual * (width * d + d * d)


@register_vision("qwen2_5_vl_vision", "qwen2_5_vl")
def _qwen2_5_vl(config: Any, n_visual: int, grid: Grid | None) -> tuple[int, int]:
    v = config.vision_config
    merge, unit = v.spatial_merge_size, v.spatial_merge_size**2
    patches, width = n_visual * unit, v.hidden_size
    side = max(1, v.window_size // v.patch_size // merge)  # window, in visual tokens
    if grid is None:
        squares = patches * min(patches, side**2 * unit)
    elif math.prod(grid) != n_visual:
        raise InputError(
            f"grid {grid} holds {math.prod(grid)} tokens, not {n_visual}: give (rows, cols) of the tokens"
        )
    else:
        # sum over windows of (height x width)^2 factorises into rows and columns
        squares = unit**2 * math.prod(sum(min(side, n - i) ** 2 for i in range(0, n, side)) for n in grid)
    full = sum(1 for i in range(v.depth) if i in v.fullatt_block_indexes)
    macs = patches * width * v.in_channels * v.temporal_patch_size * v.patch_size**2
    macs += v.depth * (4 * patches * width**2 + 3 * patches * width * v.intermediate_size)
    macs += 2 * width * (full * patches**2 + (v.depth - full) * squares)
    inner = width * unit
    return 2 * macs, 2 * n_visual * (inner**2 + inner * v.out_hidden_size)


def _vit(v: Any, patches: int) -> int:
    """One image through a plain ViT with a class token and a two-matrix feed-forward block."""
    h, w = _pair(v.patch_size)
    n = patches + 1
    layer = 4 * n * v.hidden_size**2 + 2 * n**2 * v.hidden_size + 2 * n * v.hidden_size * v.intermediate_size
    return 2 * (patches * v.hidden_size * v.num_channels * h * w + v.num_hidden_layers * layer)


def _patches(v: Any) -> int:
    return math.prod(i // p for i, p in zip(_pair(v.image_size), _pair(v.patch_size), strict=True))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _count(n_visual: int, per: int, what: str) -> int:
    if n_visual % per:
        raise InputError(f"{n_visual} visual tokens are not a whole number of {what}s of {per} tokens")
    return n_visual // per
