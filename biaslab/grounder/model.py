"""The embedded grounder: a small, unmodified InternVL that is trained from scratch on the scenes.

Nothing here is special to biaslab: `transformers.InternVLForConditionalGeneration` from a config, a byte-level
BPE tokenizer, InternVL's chat format and its box format ``[[x1, y1, x2, y2]]`` on 0-1000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from biaslab.grounder.internvl import box_answer, untrained
from biaslab.grounder.tokens import ENGLISH, byte_level_bpe
from biaslab.scenes import expressions as ex
from biaslab.scenes.backgrounds import CANVAS
from biaslab.scenes.objects import COLOURS, NAMES
from biaslab.scenes.rendering import scene

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
COORDINATES: tuple[str, ...] = tuple(str(v) for v in range(0, 1001, 10))


@dataclass(frozen=True)
class Size:
    """The grounder's size; a smaller one makes quick tests of the trainer.

    Attributes
    ----------
    patch : int
        Side of a patch, pixels.
    vision_hidden, vision_layers, vision_heads : int
        Of the vision tower.
    hidden, layers, heads, ffn : int
        Of the decoder.

    Examples
    --------
    >>> from biaslab.grounder.model import Size
    >>> Size().grid, Size(patch=14).grid
    (16, 8)
    """

    patch: int = 7
    vision_hidden: int = 128
    vision_layers: int = 3
    vision_heads: int = 2
    hidden: int = 192
    layers: int = 10
    heads: int = 4
    ffn: int = 512

    @property
    def grid(self) -> int:
        """Visual tokens per side: the pixel shuffle merges 2 x 2 patches."""
        return CANVAS // self.patch // 2


def box_tokens(box: tuple[float, float, float, float]) -> list[str]:
    """Write a box in pixels of a scene as answer tokens: ``[[x1, y1, x2, y2]]``, steps of 10 on 0-1000."""
    steps = [COORDINATES[int(np.clip(round(v / CANVAS * 100), 0, 100))] for v in box]
    return box_answer(steps)


def _corpus(scenes: int) -> Iterator[str]:
    yield from [PROMPT.format("")] * 50
    yield from ["user\n", "assistant\n", "system\n"] * 50
    yield from ENGLISH.split("\n") * 20
    yield from [f"the {c} {n}" for n in NAMES for c in ("small", "big", *COLOURS)] * 20
    yield from [f"[[{v}, {v}]]" for v in COORDINATES] * 400
    rng = np.random.default_rng(0)
    for i in range(scenes):
        yield from (e.text for e in ex.sample(rng, scene("train", i).objects, 9))


@cache
def build_tokenizer(*, vocab_size: int = 1536, scenes: int = 200) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level BPE: any text has tokens; object names and coordinates are single ones.

    Parameters
    ----------
    vocab_size : int
    scenes : int
        Training scenes whose expressions are in the corpus.

    Returns
    -------
    PreTrainedTokenizerFast
    """
    return byte_level_bpe(_corpus(scenes), vocab_size=vocab_size)


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    size: Size = Size(),
    seed: int = 0,
) -> InternVLForConditionalGeneration:
    """Build the untrained grounder in float32, initialised so that a model this small starts to learn.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        From `build_tokenizer`.
    size : Size
    seed : int
        Of torch's global generator.

    Returns
    -------
    InternVLForConditionalGeneration
    """
    return untrained(tokenizer, size, tile=CANVAS, kv_heads=size.heads, seed=seed)
