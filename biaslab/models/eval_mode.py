"""Dropout must be off: a model in train mode answers differently each time."""

from __future__ import annotations

import warnings

from torch import nn

from biaslab.errors import InputError

__all__ = ["check_eval_mode", "put_in_eval_mode"]


def put_in_eval_mode(model: nn.Module) -> None:
    """Put a model in evaluation mode, and warn if any of its modules was not; nothing is put back later."""
    if training := _training(model):
        model.eval()
        warnings.warn(f"the model was in train mode ({training}): it has been put in evaluation mode", stacklevel=4)


def check_eval_mode(model: nn.Module) -> None:
    """Refuse to run a model of which any module is in train mode.

    Raises
    ------
    InputError
        Somebody called ``train()`` on the model, or on a part of it, after it had been wrapped.
    """
    if training := _training(model):
        raise InputError(
            f"the model is in train mode ({training}), in which dropout makes it answer differently each time: call "
            "vlm.model.eval() first"
        )


def _training(model: nn.Module) -> str:
    """Name what is in train mode; empty where nothing is."""
    names = [name for name, module in model.named_modules() if module.training]
    if not names:
        return ""
    first = names[0] or "all of it"
    return first if len(names) == 1 or not names[0] else f"{first} and {len(names) - 1} more modules"
