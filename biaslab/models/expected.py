"""What is passed in the place of a model."""

from __future__ import annotations

from typing import Any

from biaslab.errors import InputError

__all__ = ["expect_model"]


def expect_model(value: Any) -> None:
    """Refuse what is no model of :func:`biaslab.load` or :func:`biaslab.wrap`.

    Raises
    ------
    InputError
        A name, a transformers model, None, ...; the message says how to make a model of it.

    Examples
    --------
    >>> expect_model("grounder")
    Traceback (most recent call last):
    biaslab.errors.InputError: vlm must be a model, got str: pass bl.load(name), or bl.wrap(model, processor)
    """
    if not hasattr(value, "family"):  # of a VLM, and of a geometry, which stands for a model without weights
        kind = type(value).__name__
        raise InputError(f"vlm must be a model, got {kind}: pass bl.load(name), or bl.wrap(model, processor)")
