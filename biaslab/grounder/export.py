"""The trained grounder as a folder that plain `from_pretrained` loads: half-precision weights, config, processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from biaslab.grounder.internvl import tile_processor
from biaslab.grounder.model import Size, build_model, build_tokenizer
from biaslab.models.loading import quiet
from biaslab.scenes.backgrounds import CANVAS


def export(weights: Path, folder: str | Path, *, size: Size = Size()) -> Path:
    """Write model, tokenizer and processor.

    Parameters
    ----------
    weights : Path
        ``weights.pt`` of a training run (float32).
    folder : path
        Gets ``model.safetensors`` (float16, loaded as float32), configs, tokenizer and processor.
    size : Size
        The size that was trained.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, size=size)
    state = torch.load(weights, weights_only=True)["model"]
    model.load_state_dict(state, strict=True)
    with quiet():
        model.half().save_pretrained(folder)
    # Stored in half the size, computed in float32: `dtype="auto"` follows the config, not the file.
    model.config.dtype = torch.float32
    parts: tuple[Any, ...] = (model.config.text_config, model.config.vision_config)
    for part in parts:
        part.dtype = torch.float32
    model.config.save_pretrained(folder)
    tile_processor(tokenizer, size, tile=CANVAS, tiles=1).save_pretrained(folder)
    return folder
