"""What an answer should take by FLOPs, memory traffic and the host's floor: computed, for a card that is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from biaslab.cost import VisionInput, layer_lengths, prompt_flops
from biaslab.cost.decoder import head_dim

__all__ = ["H100", "Card", "Parts", "computed"]


@dataclass(frozen=True)
class Card:
    """What is assumed of a card in bf16.

    Attributes
    ----------
    name : str
    products : float
        Large matrix products, FLOP/s: the share of the peak that they reach.
    tower : float
        The vision tower's narrower ones, its attention included, FLOP/s.
    attention : float
        Flash attention, FLOP/s.
    memory : float
        Byte/s.
    step : float
        Host time of a decode step of ``step_layers`` layers without graphs, seconds.
    """

    name: str
    products: float
    tower: float
    attention: float
    memory: float
    step: float = 15e-3
    step_layers: int = 32

    def __str__(self) -> str:
        return (
            f"{self.name}: matrix products {self.products / 1e12:.0f} TFLOP/s, those of the vision tower "
            f"{self.tower / 1e12:.0f}, flash attention {self.attention / 1e12:.0f}, memory "
            f"{self.memory / 1e12:.2f} TB/s, an eager decode step of {self.step_layers} layers "
            f"{1e3 * self.step:.0f} ms of host time"
        )


H100 = Card("H100", products=0.70 * 790e12, tower=0.45 * 790e12, attention=350e12, memory=3.35e12)


@dataclass(frozen=True)
class Parts:
    """Milliseconds per answer; the selection is not computed: launches and waits decide it."""

    vision: float
    below: float
    above: float
    decode: float

    @property
    def answer(self) -> float:
        """Sum, ms."""
        return self.vision + self.below + self.above + self.decode


def computed(
    config: Any, layout: Any, n_text: int, kept: int | None, layer: int, new_tokens: int, batch: int, card: Card = H100
) -> Parts:
    """Compute the parts of one answer in a batch without padding.

    Parameters
    ----------
    config : PretrainedConfig
        Of the whole model.
    layout : TokenLayout
        Of its image.
    n_text : int
    kept : int or None
        Visual tokens kept; None for no pruning.
    layer : int
        K.
    new_tokens : int
        Tokens of an answer; the first comes out of the prefill.
    batch : int
        Answers that share a decode step.
    card : Card

    Returns
    -------
    Parts

    Notes
    -----
    Causal attention is counted over the triangle, which is what flash attention computes. A decode step is the larger
    of the host's floor and of reading weights and KV cache once; the copies of a growing cache are left out.
    """
    c = config.text_config
    width = c.num_attention_heads * head_dim(c)
    flops = prompt_flops(config, [VisionInput.of(layout)], n_text, keep_n=kept, layer=layer)
    lengths = layer_lengths(c.num_hidden_layers, layout.n, n_text, keep_n=kept, layer=layer)
    square = [4 * n * n * width for n in lengths]  # two products of n x n by the width, 2 FLOPs each
    head = 2 * c.hidden_size * c.vocab_size
    per_token = (flops.prefill - sum(square) - head) / sum(lengths)  # of a layer, attention left out
    times = [n * per_token / card.products + s / 2 / card.attention for n, s in zip(lengths, square, strict=True)]
    weights = per_token * len(lengths) + head  # 2 bytes and 2 FLOPs each
    cache = 2 * 2 * c.num_key_value_heads * head_dim(c) * sum(lengths) * batch
    step = max(card.step * len(lengths) / card.step_layers, (weights + cache) / card.memory)
    return Parts(
        vision=1e3 * (flops.vision + flops.projector) / card.tower,
        below=1e3 * sum(times[:layer]),
        above=1e3 * sum(times[layer:]),
        decode=1e3 * (new_tokens - 1) * step / batch,
    )
