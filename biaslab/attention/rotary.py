"""Rotary position embedding: its parameters, and the logits it gives to queries and keys that are all ones.

A pair j of components is turned by ``theta_j * p`` at position p (RoFormer, arXiv 2104.09864), so the product of an
all-ones query at p_q and an all-ones key at p_k is ``sum_j 2 cos(theta_j (p_q - p_k))`` whatever the order of the
components. With the three axes of M-RoPE (Qwen2-VL, arXiv 2409.12191) each pair follows the position on one axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from biaslab.models.vlm import VLM

__all__ = ["AXES", "advances", "frequencies", "in_words", "ones_logits", "rotary_of"]

#: axes of M-RoPE; a frequency of a one-dimensional embedding has axis -1
AXES = ("time", "height", "width")


def frequencies(decoder: Any) -> Tensor | None:
    """Radians per position that a decoder turns its queries and keys by: (J,).

    None where it has no rotary embedding, or one that depends on the layer.
    """
    embedding = getattr(decoder, "rotary_emb", None)
    theta: Tensor | None = getattr(embedding, "original_inv_freq", getattr(embedding, "inv_freq", None))
    return theta


def rotary_of(vlm: VLM) -> dict[str, Any] | None:
    """Parameters of the decoder's rotary embedding, ready for JSON.

    Parameters
    ----------
    vlm : VLM
        The model.

    Returns
    -------
    dict or None
        ``inv_freq``: (J,) radians per position; ``axes``: (J,) index into `AXES` that each frequency follows, or None
        for one-dimensional positions; ``head_dim``: 2 J, or more where only a part is turned (the rest adds a
        constant to the logits); ``scaling``: factor on the product of query and key; ``attention_scaling``: factor on
        cosines and sines (YaRN). None where the decoder has no rotary embedding, or one that depends on the layer
        (Gemma 3).

    Notes
    -----
    Frequencies that follow the length of the prompt (dynamic NTK, LongRoPE) are those of prompts within the length
    the model was trained for.

    Examples
    --------
    >>> import biaslab as bl
    >>> rotary = rotary_of(bl.load("grounder"))
    >>> len(rotary["inv_freq"]), rotary["head_dim"], rotary["axes"]
    (24, 48, None)
    """
    import torch

    theta = frequencies(vlm.decoder)
    if theta is None:
        return None
    embedding: Any = vlm.decoder.rotary_emb
    axes = None
    if getattr(embedding, "mrope_section", None) is not None:
        # sections are concatenated or interleaved, by class: moving along one axis at a time shows which turn
        with torch.no_grad():
            step = torch.eye(len(AXES), dtype=torch.long, device=theta.device)
            _, sines = embedding(torch.zeros(1, device=theta.device), step[:, None])
        axes = (sines[0, :, : len(theta)] != 0).int().argmax(0).tolist()
    config: Any = vlm.decoder.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers: Any = vlm.decoder.layers
    attention = getattr(layers[0], "self_attn", None)
    return {
        "inv_freq": theta.float().tolist(),
        "axes": axes,
        "head_dim": int(width),
        "scaling": float(getattr(attention, "scaling", width**-0.5)),
        "attention_scaling": float(getattr(embedding, "attention_scaling", 1.0)),
    }


def advances(layout: TokenLayout, rotary: Mapping[str, Any] | None) -> np.ndarray:
    """Positions that each placeholder of an image moves what follows it on by.

    One each; under M-RoPE an image takes ``max(rows, cols)`` positions, counted here at its last placeholder.

    Parameters
    ----------
    layout : TokenLayout
        Of the image.
    rotary : mapping or None
        Of `rotary_of`.

    Returns
    -------
    ndarray (placeholders,), int64

    Examples
    --------
    >>> layout = TokenLayout.raster(2, 3, size=(84, 56), family="qwen2_vl")
    >>> advances(layout, None), advances(layout, {"axes": [0, 1, 2]})
    (array([1, 1, 1, 1, 1, 1]), array([0, 0, 0, 0, 0, 3]))
    """
    if not rotary or rotary.get("axes") is None:
        return np.ones(layout.placeholders, dtype=np.int64)
    out = np.zeros(layout.placeholders, dtype=np.int64)
    out[-1] = max(layout.grid)
    return out


def ones_logits(
    layout: TokenLayout, *, inv_freq: np.ndarray, axes: np.ndarray, query_distance: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Product of an all-ones query with the all-ones key of each visual token, both turned, mean over distances.

    Parameters
    ----------
    layout : TokenLayout
        Where the tokens are: one-dimensional positions follow its placeholders, those of M-RoPE its rows and columns.
    inv_freq, axes : ndarray (J,)
        Of `rotary_of`; axis -1 for one-dimensional positions.
    query_distance, shares : ndarray (A,)
        Positions from the image's last placeholder to the query, and their shares of the images.

    Returns
    -------
    ndarray (N,), float64
        Without the factor ``scaling * attention_scaling**2``, and without the constant of components not turned.

    Raises
    ------
    InputError
        M-RoPE and a layout that is no single raster.

    Examples
    --------
    The nearer a token is to the query, the higher:

    >>> layout = TokenLayout.raster(1, 4, size=(64, 16), family="internvl")
    >>> ones_logits(
    ...     layout,
    ...     inv_freq=np.array([0.1]),
    ...     axes=np.array([-1]),
    ...     query_distance=np.array([5]),
    ...     shares=np.array([1.0]),
    ... ).round(3)
    array([1.393, 1.53 , 1.651, 1.755])
    """
    total = np.zeros(layout.n)
    for axis in np.unique(axes.astype(np.int64)):
        theta = inv_freq[axes == axis].astype(np.float64)
        # with complex phases the mean over queries enters once per frequency, and distances, written as tens and
        # units of base sqrt(N), need sqrt(N) of them: fits over layers and folds ask for this again and again
        query = (shares[:, None] * np.exp(1j * query_distance[:, None] * theta)).sum(axis=0)
        back = _back(layout, int(axis))
        base = 1 + int(np.sqrt(back.max()))
        tens, units = np.divmod(back, base)
        by_tens = np.exp(1j * base * np.arange(tens.max() + 1)[:, None] * theta) * query
        by_units = np.exp(1j * np.arange(base)[:, None] * theta)
        total += 2 * (by_tens @ by_units.T).real[tens, units]
    return total


def _back(layout: TokenLayout, axis: int) -> np.ndarray:
    """(N,) positions from each token to that of the image's last placeholder, so that the query adds its own."""
    if axis < 0:
        return layout.placeholders - 1 - layout.placeholder_index
    if layout.tiles != (1, 1) or layout.placeholders != layout.grid[0] * layout.grid[1]:
        raise InputError(f"M-RoPE positions are known of single rasters only, not of {layout.key}: use 'exponential'")
    # text goes on at max(rows, cols) behind the first token, as transformers' get_rope_index has it
    along = (np.zeros(layout.n, dtype=np.int64), layout.row, layout.col)[axis]
    return max(layout.grid) - 1 - along


def in_words(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Short forms of the long entries ``rotary`` and ``after`` of a provenance, of those that are there.

    ``after`` is how files name the distance from the image to the query.

    Examples
    --------
    >>> in_words({"after": [[7, 3], [9, 1]]})
    {'after': '7 to 9 tokens from the image to the query, mean 7.5'}
    """
    out = {}
    if rotary := provenance.get("rotary"):
        inv_freq = rotary["inv_freq"]
        out["rotary"] = f"{len(inv_freq)} frequencies from {max(inv_freq):.3g} to {min(inv_freq):.3g}"
        if rotary["axes"] is not None:
            counts = np.bincount(rotary["axes"], minlength=len(AXES))
            out["rotary"] += ": " + ", ".join(f"{name} {n}" for name, n in zip(AXES, counts, strict=True))
    if distances := provenance.get("after"):
        lengths, counts = np.array(distances).T
        mean = (lengths * counts).sum() / counts.sum()
        out["after"] = f"{lengths.min()} to {lengths.max()} tokens from the image to the query, mean {mean:.1f}"
    return out
