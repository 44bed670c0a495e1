"""FLOPs of one prompt: vision tower, projector and decoder apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from biaslab.cost.decoder import decoder_flops
from biaslab.cost.vision import Grid, VisionInput, vision_flops

__all__ = ["Flops", "image_flops", "prompt_flops"]


@dataclass(frozen=True)
class Flops:
    """FLOPs of one sample, 2 per multiply-accumulate.

    Attributes
    ----------
    vision, projector : image encoding, all tiles of all images.
    decoder : language model and its output head: prefill and every generated token.
    decode : the part of ``decoder`` that is spent after the prefill.
    """

    vision: int
    projector: int
    decoder: int
    decode: int = 0

    @property
    def total(self) -> int:
        return self.vision + self.projector + self.decoder

    @property
    def prefill(self) -> int:
        """Decoder FLOPs up to and including the first generated token."""
        return self.decoder - self.decode


def image_flops(
    model_config: Any,
    n_visual: int,
    n_text: int,
    *,
    keep_n: int | None = None,
    layer: int = 0,
    new_tokens: int = 0,
    grid: Grid | None = None,
    tiles: int | None = None,
    size: tuple[int, int] | None = None,
) -> Flops:
    """FLOPs to answer one prompt about one image whose tokens are pruned to ``keep_n`` before decoder layer
    ``layer``.

    Parameters
    ----------
    model_config : the model's configuration (``vision_config`` and ``text_config`` inside).
    n_visual : visual tokens of the image, all tiles and the thumbnail.
    n_text : all other tokens of the prompt: template, separators and newlines included, padding not.
    keep_n : visual tokens kept; None for no pruning.
    layer : K, the tokens are dropped just before decoder layer index K.
    new_tokens : tokens generated. The first comes out of the prefill, so 0 and 1 cost the same.
    grid, tiles, size : how the vision tower saw the image, where ``n_visual`` does not tell; see
        :class:`~biaslab.cost.VisionInput`.

    Raises
    ------
    InputError
        Counts that cannot be.
    UnsupportedError
        A tower or decoder whose cost is not known here.
    """
    image = VisionInput(n_visual, grid, tiles, size)
    return prompt_flops(model_config, [image], n_text, keep_n=keep_n, layer=layer, new_tokens=new_tokens)


def prompt_flops(
    model_config: Any,
    images: Sequence[VisionInput],
    n_text: int,
    *,
    keep_n: int | None = None,
    layer: int = 0,
    new_tokens: int = 0,
) -> Flops:
    """FLOPs to answer one prompt about any number of images; ``keep_n`` counts the tokens kept of all of them.

    See :func:`image_flops`; ``VisionInput.of(layout)`` makes a picture from a token layout.
    """
    encoded = [vision_flops(model_config, i.tokens, grid=i.grid, tiles=i.tiles, size=i.size) for i in images]
    vision, projector = (sum(parts) for parts in zip(*encoded, strict=True)) if encoded else (0, 0)
    n_visual = sum(image.tokens for image in images)
    decoder, decode = decoder_flops(
        model_config.text_config, n_visual, n_text, keep_n=keep_n, layer=layer, new_tokens=new_tokens
    )
    return Flops(vision, projector, decoder, decode)
