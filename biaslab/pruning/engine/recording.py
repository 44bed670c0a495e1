"""The attention rows of a running prefill that a method reads, and whether they can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from biaslab.attention.hook import row_options
from biaslab.attention.scores import SCORES
from biaslab.errors import ModelError
from biaslab.pruning.algorithms.transfer import Arriving
from biaslab.pruning.engine.prompt import Prompt

__all__ = ["are_finite", "check_finite", "prompt_rows"]


def prompt_rows(
    name: str, prompt: Prompt, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **kw: Any
) -> Tensor | None:
    """Score what a layer's attention is called with, for the query rows and visual tokens of a prompt.

    Parameters
    ----------
    name : str
        In `biaslab.attention.scores.SCORES`.
    prompt : Prompt
    module, query, key, value, **kw
        As a recorder of `biaslab.attention.hook.watch` hears them.

    Returns
    -------
    (B, H, Q, V) float32 Tensor or None
        None of a prompt without query rows.
    """
    if prompt.rows is None:
        return None
    options = {
        **row_options(module, kw),
        "rows": prompt.rows.to(query.device),
        "cols": prompt.visual.to(query.device),
        "scaling": kw["scaling"],
        "attention_mask": kw["attention_mask"],
    }
    return SCORES[name](query, key, value, kw.get("cos"), kw.get("sin"), **options).float()


def are_finite(rows: Tensor) -> Arriving:
    """Ask whether rows are finite, without waiting for the device."""
    return Arriving(torch.isfinite(rows).all())


def check_finite(flags: Iterable[tuple[int, Arriving]]) -> None:
    """Refuse a layer whose rows are not finite; ``flags`` are layers with what `are_finite` has asked.

    Raises
    ------
    ModelError
        With the fix.
    """
    for index, flag in flags:
        if not bool(flag.read()):
            raise ModelError(f"attention of layer {index} is not finite: load the model in another dtype")
