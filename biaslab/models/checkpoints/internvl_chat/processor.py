"""The processor of an original checkpoint, as transformers' `InternVLProcessor` without its video half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from biaslab.models.checkpoints.internvl_chat.config import check, tile_size, tokens_per_tile
from biaslab.models.checkpoints.internvl_chat.template import chat_template
from biaslab.models.checkpoints.internvl_chat.tokenizer import load_tokenizer
from biaslab.models.processors import image_only

__all__ = ["load_processor"]

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as in the published preprocessing code


def load_processor(folder: Path, config: dict[str, Any]) -> Any:
    """Make tokenizer, tiling and chat template from the checkpoint's files; neither remote code nor torchvision.

    Tiles as published: up to ``max_dynamic_patch`` squares of ``force_image_size`` pixels, bicubic, thumbnail last.

    Raises
    ------
    ModelError
        For an unknown conversation template or tokenizer files that do not belong together.
    """
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

    check(config)
    side = tile_size(config)
    tiles = (config.get("min_dynamic_patch", 1), config.get("max_dynamic_patch", 6))
    low, high = tiles if config.get("dynamic_image_size") else (1, 1)
    pixels = GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        crop_to_patches=True,
        min_patches=int(low),
        max_patches=int(high),
        image_mean=_MEAN,
        image_std=_STD,
    )
    return image_only(InternVLProcessor)(
        image_processor=pixels,
        tokenizer=load_tokenizer(folder, config),
        video_processor=None,
        image_seq_length=tokens_per_tile(config),
        chat_template=chat_template(config),
    )
