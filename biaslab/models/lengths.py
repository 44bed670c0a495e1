"""How long a prompt a model can read: beyond its positions it answers, but what it says means nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded

__all__ = ["check_length", "position_limit"]


def position_limit(config: Any) -> int | None:
    """Find the number of positions that a model was made for.

    Parameters
    ----------
    config : PreTrainedConfig
        Of the multimodal model.

    Returns
    -------
    int or None
        ``max_position_embeddings`` of its text model, or what a stretched rotary embedding (YaRN, dynamic) makes of it,
        whichever is more; None where the configuration does not say.

    Examples
    --------
    >>> import biaslab as bl
    >>> position_limit(bl.load("grounder").model.config)
    1024
    """
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    factor = rope.get("factor")
    if limit is None or factor is None:
        return limit
    return max(limit, int(factor * (rope.get("original_max_position_embeddings") or limit)))


def check_length(encoded: Encoded, config: Any) -> None:
    """Refuse prompts that take more positions than the model has.

    A batch is refused for its longest prompt; encode prompts one by one to know which.

    Parameters
    ----------
    encoded : Encoded
        B prompts.
    config : PreTrainedConfig
        Of the model.

    Raises
    ------
    InputError
        Names the prompt, its length and the limit.
    """
    limit, length = position_limit(config), encoded.last + 1
    if limit is None or length <= limit:
        return
    mask = encoded.inputs.get("attention_mask")
    used = [length] * len(encoded) if mask is None else mask.sum(1).tolist()
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if "mrope_section" in rope:  # an image of r x c tokens moves what follows it on by max(r, c) positions
        for owner, layout in zip(encoded.owners, encoded.layouts, strict=True):
            used[owner] += max(layout.grid) - layout.placeholders
    longest = max(range(len(used)), key=used.__getitem__)
    if used[longest] > limit:
        who = f"sample {encoded.sample_ids[longest]!r}" if encoded.sample_ids else f"prompt {longest}"
        raise InputError(
            f"{who} takes {used[longest]} positions with its image, and the model has {limit}: shorten the text, or "
            "give the image fewer tokens"
        )
