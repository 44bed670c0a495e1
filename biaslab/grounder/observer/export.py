"""The trained observer as a folder that plain `from_pretrained` loads: half-precision weights, config, processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from biaslab.grounder.observer.model import FULL_SIZE, ObserverSize, build_model, build_processor, shipped_tokenizer
from biaslab.grounder.observer.start import PROBES
from biaslab.models.loading import quiet

_FORMAT = {"format": "pt"}  # transformers refuses a file that does not say whose tensors they are


def export_observer(weights: Path, folder: str | Path, *, size: ObserverSize = FULL_SIZE) -> Path:
    """Write model, tokenizer and processor.

    Parameters
    ----------
    weights : Path
        ``weights.pt`` (float32) of a training run, or its ``checkpoint.pt`` (bfloat16), to look at a run on the way.
    folder : path
        Gets ``model.safetensors`` (float16, loaded as float32), configs, tokenizer and processor, and
        ``probes.safetensors``: the probes of the auxiliary losses, with which a further leg of the training goes on.
    size : ObserverSize
        The size that was trained.

    Returns
    -------
    Path
        The folder.
    """
    folder = export_geometry(folder, size=size)
    model = build_model(shipped_tokenizer(), size=size)
    trained = torch.load(weights, weights_only=True, map_location="cpu")
    model.load_state_dict({name: value.float() for name, value in trained["model"].items()}, strict=True)
    save_file({n: v.half().contiguous() for n, v in model.state_dict().items()}, folder / "model.safetensors", _FORMAT)
    probes = {n: v.half().contiguous() for n, v in trained["heads"].items()}
    save_file(probes, folder / PROBES, _FORMAT | {"leg": str(trained.get("leg", 0))})
    return folder


def export_geometry(folder: str | Path, *, size: ObserverSize = FULL_SIZE, tokenizer: Any = None) -> Path:
    """Write all of a checkpoint's folder but the weights: configs, tokenizer and processor.

    Parameters
    ----------
    folder : path
    size : ObserverSize
    tokenizer : PreTrainedTokenizerFast, optional
        By default the shipped one; of `biaslab.grounder.observer.model.build_tokenizer`, to ship another.

    Returns
    -------
    Path
        The folder.
    """
    folder, tokenizer = Path(folder), tokenizer or shipped_tokenizer()
    with quiet():
        model = build_model(tokenizer, size=size)
        model.config.architectures = [type(model).__name__]
        # Weights are stored in half the size and computed in float32: `dtype="auto"` follows the config, not the file.
        parts: tuple[Any, ...] = (model.config, model.config.text_config, model.config.vision_config)
        for part in parts:
            part.dtype = torch.float32
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        build_processor(tokenizer, size=size).save_pretrained(folder)
    return folder
