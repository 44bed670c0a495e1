"""Where a model is put, and in which number format: what is asked for against what the machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from biaslab._util.launch import Launch
from biaslab.errors import InputError
from biaslab.models.checkpoints.files import read_config

__all__ = ["chosen_device", "chosen_dtype"]

#: Apple's GPUs compute in no wider or narrower ones
_ON_MPS = (torch.float32, torch.float16, torch.bfloat16)


def chosen_device(device: str | torch.device | None) -> torch.device:
    """Find the device that a model is put on.

    Parameters
    ----------
    device : str, torch.device or None
        None or ``"auto"``: the first CUDA device (of a launcher's rank its own), else Apple's GPU (``"mps"``), else the
        CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        No such device, or none here.

    Examples
    --------
    >>> chosen_device("cpu")
    device(type='cpu')
    >>> chosen_device("cpux")
    Traceback (most recent call last):
    biaslab.errors.InputError: unknown device 'cpux': use 'auto', 'cpu', 'mps', 'cuda' or 'cuda:0'
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            launch = Launch.from_environment()  # a task of srun may see its own device alone
            return torch.device("cuda", launch.local_rank % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {device!r}: use 'auto', 'cpu', 'mps', 'cuda' or 'cuda:0'") from None
    try:
        torch.empty(0, device=parsed)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"no device {str(parsed)!r} here: use device='cpu'") from None
    return parsed


def chosen_dtype(dtype: str | torch.dtype, folder: Path, device: torch.device | None) -> Any:
    """Find the number format that a checkpoint is loaded in.

    Parameters
    ----------
    dtype : str or torch.dtype
        ``"auto"``: the checkpoint's own, but float32 for float16 on a CPU.
    folder : Path
        Of the checkpoint.
    device : torch.device or None
        None where several may hold the model.

    Returns
    -------
    torch.dtype, or ``"auto"`` for the checkpoint's own

    Raises
    ------
    InputError
        No floating-point format, or one that the device does not compute in.
    """
    on = None if device is None else device.type
    if dtype == "auto":
        own = _own(folder)
        if on == "mps" and own is not None and getattr(torch, own, None) not in _ON_MPS:
            raise InputError(f"the checkpoint is in {own}, which mps does not compute in: give dtype='float32'")
        return torch.float32 if on == "cpu" and own == "float16" else "auto"
    parsed = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point:
        raise InputError(f"unknown dtype {dtype!r}: use 'auto', 'float64', 'float32', 'bfloat16' or 'float16'")
    if on == "mps" and parsed not in _ON_MPS:
        name = str(parsed).removeprefix("torch.")
        raise InputError(f"mps does not compute in {name}: use dtype='float32', or device='cpu'")
    return parsed


def _own(folder: Path) -> str | None:
    config = read_config(folder)
    texts = (config, config.get("text_config") or {})
    return next((c[key] for c in texts for key in ("dtype", "torch_dtype") if c.get(key)), None)
