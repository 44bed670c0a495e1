"""Which visual tokens a line's method kept, as the field ``kept``: one bit a token, base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from biaslab.errors import InputError

__all__ = ["kept_tokens", "mask_of", "token_mask"]


def mask_of(kept: np.ndarray, n: int) -> np.ndarray:
    """Mark kept visual tokens among ``n``: (n,) bool.

    Examples
    --------
    >>> from biaslab.evaluation.kept_tokens import mask_of
    >>> mask_of([0, 3], 4).tolist()
    [True, False, False, True]
    """
    mask = np.zeros(n, bool)
    mask[np.asarray(kept, dtype=int)] = True
    return mask


def token_mask(kept: np.ndarray, n: int) -> str:
    """Write kept visual tokens as a bit mask.

    Parameters
    ----------
    kept : (k,) int array
        Indices of the kept tokens.
    n : int
        Visual tokens of the image.

    Returns
    -------
    str
        base64 of ``numpy.packbits(mask, bitorder="little")``: token i is bit ``i % 8`` of byte ``i // 8``; 44
        characters for 256 tokens, 556 for 3,328.

    Examples
    --------
    >>> from biaslab.evaluation.kept_tokens import token_mask
    >>> token_mask([0, 3, 9], 12)
    'CQI='
    """
    return base64.b64encode(np.packbits(mask_of(kept, n), bitorder="little").tobytes()).decode("ascii")


def kept_tokens(line: Mapping[str, Any]) -> np.ndarray | None:
    """Read which visual tokens of the image the method of a sample line kept.

    Parameters
    ----------
    line : mapping
        A line of a sample log, or a row of ``Results.samples``.

    Returns
    -------
    (N,) bool array or None
        In the order of the layout's tokens; all True for the unpruned model. None where the line does not say: it is
        an error, or of a version that did not record it.

    Raises
    ------
    InputError
        A mask of another number of tokens.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.evaluation.kept_tokens import kept_tokens
    >>> results = bl.evaluate(
    ...     bl.load("grounder"), bl.load_dataset("scenes", n=1), methods="uniform", keep=4, layer=4, progress=False
    ... )
    >>> kept_tokens(results.samples.iloc[0]).nonzero()[0].tolist()
    [68, 76, 196, 204]
    """
    tokens, kept = line.get("tokens"), line.get("kept")
    if pd.isna(tokens):
        return None
    n = int(tokens)
    if not isinstance(kept, str):
        return np.ones(n, bool) if line.get("tokens_kept") == n else None
    try:
        packed = np.frombuffer(base64.b64decode(kept, validate=True), np.uint8)
    except (binascii.Error, ValueError):
        raise InputError(f"kept is no bit mask: {kept[:40]!r}; take the line from its log again") from None
    if len(packed) != -(-n // 8):
        raise InputError(
            f"kept holds {8 * len(packed)} bits and the image has {n} tokens: take the line from its log again"
        )
    return np.unpackbits(packed, count=n, bitorder="little").astype(bool)
