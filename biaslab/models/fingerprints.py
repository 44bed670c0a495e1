"""What a model in memory is known by: the checkpoint it was loaded from, or samples of the weights it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from biaslab.models.checkpoints.fingerprint import weights_fingerprint
from biaslab.models.load_options import NEUTRAL

__all__ = ["loaded_fingerprint", "memory_fingerprint"]

_VALUES = 64  # of every tensor


def loaded_fingerprint(
    folder: Path, quantization: Any = None, arguments: Mapping[str, Any] | None = None
) -> str | None:
    """Fingerprint of a checkpoint as it is loaded: quantised or with other settings on the way, it is another model.

    Which attention computes it, the device and the dtype are no part of it: they round, and no more.

    Parameters
    ----------
    folder : Path
    quantization : object or dict, optional
        The ``quantization_config`` of the load.
    arguments : mapping, optional
        What else ``from_pretrained`` was given; those that only place the weights do not count.

    Returns
    -------
    str or None
        None where the files cannot be read.
    """
    fingerprint = weights_fingerprint(folder)
    if fingerprint is None:
        return None
    if quantization is not None:
        fingerprint += f" quantised-{_digest(quantization)}"
    others = {k: v for k, v in (arguments or {}).items() if k not in NEUTRAL and k != "quantization_config"}
    return f"{fingerprint} with-{_digest(others)}" if others else fingerprint


def _digest(settings: Any) -> str:
    def readable(value: Any) -> Any:
        return value.to_dict() if hasattr(value, "to_dict") else str(value)

    settings = settings.to_dict() if hasattr(settings, "to_dict") else settings
    text = json.dumps(settings, sort_keys=True, default=readable)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def memory_fingerprint(model: nn.Module) -> str | None:
    """Hash 64 values of every parameter, in one transfer per device and dtype.

    Other weights under one name, such as those of a base model and of an adapter merged into it, differ; the dtype,
    which rounds them, is named, so that only models of one dtype are compared.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    str or None
        "memory:DTYPE-" and 16 hex digits; None where a part of the weights is not in memory, or is of a kind whose
        values cannot be picked.
    """
    digest = hashlib.sha256()
    groups: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = {}
    parameters = list(model.named_parameters())
    if not parameters or any(p.is_meta for _, p in parameters):
        return None
    for name, p in parameters:
        digest.update(f"{name}{tuple(p.shape)}{p.dtype}\n".encode())
        groups.setdefault((p.device, p.dtype), []).append(p)
    try:
        with torch.no_grad():
            for same in groups.values():
                picked = torch.cat([p.detach().reshape(-1)[:: max(1, p.numel() // _VALUES)][:_VALUES] for p in same])
                digest.update(picked.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    except (RuntimeError, NotImplementedError, TypeError):  # of quantised kinds of tensors
        return None
    dtype = str(parameters[0][1].dtype).removeprefix("torch.")
    return f"memory:{dtype}-{digest.hexdigest()[:16]}"
