"""InternVL2.5-8B at its published size with random weights made on the device, and prompts for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from biaslab.models.encoded import Encoded
from biaslab.models.offline.random_init import build
from biaslab.models.offline_spec import ModelSpec
from biaslab.models.registry import families
from biaslab.models.vlm import VLM

from .plan import Plan

__all__ = ["LAYER", "large", "pictures", "prompts", "sharp", "spec"]

LAYER = 2  # K
NAME = "internvl2.5-8b"
#: with the template as many tokens as a usual prompt has in the published tokenizer: 106
_EXPRESSION = (
    "the {} near the big blue triangle on the left, the one below the image frame and next to a chair, not the other"
)
_TINY = {"hidden": 64, "layers": 4, "heads": 4, "kv_heads": 2, "ffn": 128, "vocab": None,
         "vision_hidden": 32, "vision_layers": 2, "vision_heads": 4, "vision_ffn": 64}  # fmt: skip


def spec(plan: Plan, **changes: Any) -> ModelSpec:
    """Return the published sizes, or those of a toy with as many tiles of 4 tokens each; ``changes`` win."""
    published = families()["internvl"].specs[NAME]
    return replace(published, **{**(_TINY | {"tile": 56} if plan.tiny else {}), **changes})


def large(plan: Plan, **changes: Any) -> VLM:
    """Make the model in bf16, its weights random and made on the device; ``changes`` to its sizes."""
    return _made("internvl", spec(plan, **changes), plan.device, torch.bfloat16)


def sharp(family: str, device: torch.device, dtype: torch.dtype) -> VLM:
    """Make a tiny model of a family, its weights sharper than transformers'.

    Under those attention is almost uniform, and a wrong row would go unnoticed. The values are made on the CPU, so that
    every device has the same.
    """
    first = next(iter(families()[family].specs.values()))
    own = {"tile": first.tile and 56, "max_tiles": min(first.max_tiles, 6), "merge": min(first.merge, 2),
           "min_pixels": first.min_pixels and 56 * 56, "max_pixels": first.max_pixels and 28 * 28 * 40}  # fmt: skip
    vlm = _made(family, replace(first, **_TINY, **own, tied=False, vision={}), device, dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in vlm.model.named_parameters():
            if weight.ndim >= 2:
                scale = 0.25 if "q_proj" in name or "k_proj" in name else 0.08
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return vlm


def _made(family: str, sizes: ModelSpec, device: torch.device, dtype: torch.dtype) -> VLM:
    with torch.device(device):  # the weights are drawn where they stay
        model, processor = build(families()[family], sizes, dtype=dtype)
    return VLM(model, processor, families()[family], name=f"{family}, random weights", revision="random")


def pictures(n: int, size: tuple[int, int] = (1200, 900), seed: int = 0) -> list[Image.Image]:
    """Noise images; of this size InternVL cuts 3 x 4 tiles and adds a thumbnail."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(n)]


def prompts(vlm: VLM, batch: int, *, padded: bool = False) -> Encoded:
    """Ask for a box in each of ``batch`` images.

    All prompts are equally long, as they are where there is one expression; with ``padded`` one is longer.
    """
    words = [_EXPRESSION.format("square")] * batch
    if padded:
        words[0] = _EXPRESSION.format("very large dark green square")
    return vlm.encode_grounding(pictures(batch), words, sample_ids=[str(i) for i in range(batch)])
