"""The observer: a small, unmodified InternVL with InternVL's own tiling, trained from scratch on the gallery.

`transformers.InternVLForConditionalGeneration` from a config, a byte-level BPE tokenizer, InternVL's chat format and
its box format ``[[x1, y1, x2, y2]]`` on 0-1000. A tile of 168 px is 36 visual tokens; an image has one to six tiles
and, if it has more than one, a thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab.grounder.internvl import box_answer, tile_processor, untrained
from biaslab.grounder.model import PROMPT
from biaslab.grounder.tokens import ENGLISH, byte_level_bpe
from biaslab.models.registry import embedded_folder
from biaslab.scenes import expressions as ex
from biaslab.scenes.gallery import picture
from biaslab.scenes.gallery.canvas import MAX_TILES, TILE
from biaslab.scenes.gallery.forms import FORMS, HELD_OUT, plural, with_article
from biaslab.scenes.gallery.signs import SIGN
from biaslab.scenes.objects import COLOURS, NAMES

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

STEP = 5  # of coordinates, in thousandths: small boxes need it
COORDINATES: tuple[str, ...] = tuple(str(v) for v in range(0, 1001, STEP))
#: what a visual token or a noun phrase can be called
WHATS: tuple[str, ...] = (*NAMES, SIGN)


@dataclass(frozen=True)
class ObserverSize:
    """The observer's size; a smaller one makes quick tests of the trainer.

    Attributes
    ----------
    tile, patch : int
        Sides of a tile and of a patch, pixels.
    vision_hidden, vision_layers, vision_heads : int
        Of the vision tower.
    hidden, layers, heads, kv_heads, ffn : int
        Of the decoder; heads share keys and values in groups.

    Examples
    --------
    >>> from biaslab.grounder.observer.model import ObserverSize
    >>> ObserverSize().grid, ObserverSize().tokens
    (6, 36)
    """

    tile: int = TILE
    patch: int = 14
    vision_hidden: int = 192
    vision_layers: int = 5
    vision_heads: int = 4
    hidden: int = 192
    layers: int = 12
    heads: int = 6
    kv_heads: int = 3
    ffn: int = 480

    @property
    def grid(self) -> int:
        """Visual tokens per side of a tile: the pixel shuffle merges 2 x 2 patches."""
        return self.tile // self.patch // 2

    @property
    def tokens(self) -> int:
        """Visual tokens of a tile."""
        return self.grid**2


FULL_SIZE = ObserverSize()


def box_tokens(box: tuple[float, float, float, float], size: tuple[int, int]) -> list[str]:
    """Write a box in pixels as answer tokens: ``[[x1, y1, x2, y2]]``, steps of 5 on 0-1000.

    Parameters
    ----------
    box : tuple of float
        x1, y1, x2, y2.
    size : (int, int)
        Width and height of the image.

    Examples
    --------
    >>> from biaslab.grounder.observer.model import box_tokens
    >>> "".join(box_tokens((0, 20, 50, 200), (400, 200))).replace("\u0120", " ")
    '[[0, 100, 125, 1000]]'
    """
    last = len(COORDINATES) - 1
    shares = (v / size[k % 2] for k, v in enumerate(box))
    steps = [COORDINATES[int(np.clip(round(share * last), 0, last))] for share in shares]
    return box_answer(steps)


def _corpus(pictures: int) -> Iterator[str]:
    yield from [PROMPT.format("")] * 50
    yield from ["user\n", "assistant\n", "system\n", "yes", "no"] * 50
    yield from ENGLISH.split("\n") * 20
    yield from ["Answer the question using a single word or phrase."] * 20
    yield from [f"the {c} {n}" for n in WHATS for c in ("small", "big", *COLOURS)] * 20
    yield from [f"{with_article(n)} {plural(n)}" for n in WHATS] * 60
    yield from [f"[[{v}, {v}]]" for v in COORDINATES] * 400
    questions = [form for forms in FORMS.values() for form in forms] + list(HELD_OUT.values())
    yield from [question.replace("{}", "").replace("{a}", "").replace("{b}", "") for question in questions] * 40
    rng = np.random.default_rng(0)
    for i in range(pictures):
        yield from (e.text for e in ex.sample(rng, picture("train", i).things, 9))


@cache
def build_tokenizer(*, vocab_size: int = 1536, pictures: int = 150) -> PreTrainedTokenizerFast:
    """Train the tokenizer: names, their plurals, colours, coordinates and the words of questions are single tokens.

    Done once, for the folder that `shipped_tokenizer` reads.

    Parameters
    ----------
    vocab_size : int
    pictures : int
        Training images whose expressions are in the corpus.

    Returns
    -------
    PreTrainedTokenizerFast
    """
    return byte_level_bpe(_corpus(pictures), vocab_size=vocab_size)


@cache
def shipped_tokenizer() -> PreTrainedTokenizerFast:
    """Load the tokenizer of the embedded checkpoint's folder, which lies there whether weights do or not.

    Returns
    -------
    PreTrainedTokenizerFast

    Examples
    --------
    >>> from biaslab.grounder.observer.model import shipped_tokenizer
    >>> shipped_tokenizer().tokenize("<ref>cats</ref>")
    ['<ref>', 'Ġcats', '</ref>']
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(embedded_folder("observer"), local_files_only=True)
    return tokenizer


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, size: ObserverSize = FULL_SIZE, seed: int = 0
) -> InternVLForConditionalGeneration:
    """Build the untrained observer in float32, initialised as the grounder is.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        From `shipped_tokenizer`.
    size : ObserverSize
    seed : int
        Of torch's global generator.

    Returns
    -------
    InternVLForConditionalGeneration
    """
    return untrained(tokenizer, size, tile=size.tile, kv_heads=size.kv_heads, seed=seed)


def build_processor(tokenizer: PreTrainedTokenizerFast, *, size: ObserverSize = FULL_SIZE) -> Any:
    """Build InternVL's processor with tiles of the observer's size: one to six and a thumbnail.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    size : ObserverSize

    Returns
    -------
    InternVLProcessor
        Without its video half.
    """
    return tile_processor(tokenizer, size, tile=size.tile, tiles=MAX_TILES)
