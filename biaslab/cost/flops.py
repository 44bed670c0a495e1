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
    vision, projector : int
        Image encoding, all tiles of all images.
    decoder : int
        Language model and its output head: prefill and every generated token.
    decode : int
        The part of ``decoder`` that is spent after the prefill.

    Examples
    --------
    >>> from biaslab.cost import Flops
    >>> flops = Flops(vision=400, projector=20, decoder=1000, decode=100)
    >>> flops.total, flops.prefill
    (1420, 900)
    """

    vision: int
    projector: int
    decoder: int
    decode: int = 0

    @property
    def total(self) -> int:
        """Sum of vision tower, projector and decoder."""
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
    keep_n: int | Sequence[int] | None = None,
    layer: int | Sequence[int] = 0,
    new_tokens: int = 0,
    grid: Grid | None = None,
    tiles: int | None = None,
    size: tuple[int, int] | None = None,
    cache: str = "full",
) -> Flops:
    """Count the FLOPs of answering one prompt about one image, pruned or not.

    Parameters
    ----------
    model_config : PretrainedConfig
        The model's configuration (``vision_config`` and ``text_config`` inside).
    n_visual : int
        Visual tokens of the image, all tiles and the thumbnail.
    n_text : int
        All other tokens of the prompt: template, separators and newlines included, padding not.
    keep_n : int or sequence of int, optional
        Visual tokens kept, of a schedule after each stage; None for no pruning.
    layer : int or sequence of int
        K, the tokens are dropped just before decoder layer index K; of a schedule that of each stage.
    new_tokens : int
        Tokens generated. The first comes out of the prefill, so 0 and 1 cost the same.
    grid, tiles, size
        How the vision tower saw the image, where ``n_visual`` does not tell; see
        :class:`~biaslab.cost.VisionInput`.
    cache : "full" or "trimmed"
        As of :func:`biaslab.pruning.prune`: what layers below K hold of the prompt while tokens are generated.

    Returns
    -------
    Flops

    Raises
    ------
    InputError
        Counts that cannot be.
    UnsupportedError
        A tower or decoder whose cost is not known here.

    Examples
    --------
    >>> from biaslab.cost import image_flops
    >>> from biaslab.models.offline.geometry import geometry
    >>> config = geometry("llava-1.5-7b").config
    >>> full, pruned = image_flops(config, 576, 64), image_flops(config, 576, 64, keep_n=64, layer=2)
    >>> print(f"{full.total / 1e12:.2f} -> {pruned.total / 1e12:.2f} TFLOPs")
    8.91 -> 2.50 TFLOPs
    """
    image = VisionInput(n_visual, grid, tiles, size)
    return prompt_flops(model_config, [image], n_text, keep_n=keep_n, layer=layer, new_tokens=new_tokens, cache=cache)


def prompt_flops(
    model_config: Any,
    images: Sequence[VisionInput],
    n_text: int,
    *,
    keep_n: int | Sequence[int] | None = None,
    layer: int | Sequence[int] = 0,
    new_tokens: int = 0,
    cache: str = "full",
) -> Flops:
    """Count the FLOPs of answering one prompt about any number of images.

    Parameters
    ----------
    model_config : PretrainedConfig
        The model's configuration.
    images : sequence of VisionInput
        ``VisionInput.of(layout)`` makes one from a token layout.
    n_text : int
        All other tokens of the prompt.
    keep_n : int or sequence of int, optional
        Visual tokens kept of all images together; None for no pruning.
    layer, new_tokens, cache
        As in :func:`image_flops`.

    Returns
    -------
    Flops

    Raises
    ------
    InputError
        Counts that cannot be.
    UnsupportedError
        A tower or decoder whose cost is not known here.

    Examples
    --------
    >>> from biaslab.cost import VisionInput, prompt_flops
    >>> from biaslab.models.offline.geometry import geometry
    >>> config = geometry("llava-1.5-7b").config
    >>> flops = prompt_flops(config, [VisionInput(576), VisionInput(576)], 64, keep_n=128, layer=2)
    >>> print(f"vision {flops.vision / 1e12:.2f}, decoder {flops.decoder / 1e12:.2f} TFLOPs")
    vision 0.76, decoder 3.38 TFLOPs
    """
    encoded = [vision_flops(model_config, i.tokens, grid=i.grid, tiles=i.tiles, size=i.size) for i in images]
    vision, projector = (sum(parts) for parts in zip(*encoded, strict=True)) if encoded else (0, 0)
    n_visual = sum(image.tokens for image in images)
    decoder, decode = decoder_flops(
        model_config.text_config, n_visual, n_text, keep_n=keep_n, layer=layer, new_tokens=new_tokens, cache=cache
    )
    return Flops(vision, projector, decoder, decode)
