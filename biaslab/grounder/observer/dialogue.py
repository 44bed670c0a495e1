"""The token ids of the chat format, split where questions branch off from the image they share."""

from __future__ import annotations

from typing import Any

from biaslab.grounder.model import PROMPT
from biaslab.grounder.observer.model import ObserverSize, box_tokens


class Dialogue:
    """Encodes images, questions and answers as the processor and the adapter do.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        From `biaslab.grounder.observer.model.shipped_tokenizer`.
    size : ObserverSize

    Attributes
    ----------
    stem : list of int
        What every request for a box starts with, behind the image.
    image_start : int
        Place of the first visual token.

    Examples
    --------
    >>> from biaslab.grounder.observer.dialogue import Dialogue
    >>> from biaslab.grounder.observer.model import ObserverSize, shipped_tokenizer
    >>> dialogue = Dialogue(shipped_tokenizer(), ObserverSize())
    >>> len(dialogue.prefix(3)) - len(dialogue.prefix(1))
    72
    """

    def __init__(self, tokenizer: Any, size: ObserverSize) -> None:
        self.tokenizer = tokenizer
        self._ids = tokenizer.convert_tokens_to_ids
        self._tokens = size.tokens
        self._encoded: dict[str, list[int]] = {}
        open_end = self._branch(PROMPT.format("|"))
        self.stem = open_end[: open_end.index(self._ids("<ref>")) + 1]
        self.image_start = self.prefix(1).index(self._ids("<IMG_CONTEXT>"))

    def prefix(self, tiles: int) -> list[int]:
        """Encode the turn up to the end of an image with so many visual tiles."""
        image = "<IMG_CONTEXT>" * (tiles * self._tokens)
        return self.tokenizer(f"<|im_start|>user\n<img>{image}</img>", add_special_tokens=False)["input_ids"]

    def _branch(self, text: str) -> list[int]:
        """Encode all behind the image up to the answer."""
        if text not in self._encoded:
            turn = f"<|im_start|>user\n<img><IMG_CONTEXT></img>\n{text}<|im_end|>\n<|im_start|>assistant\n"
            ids = self.tokenizer(turn, add_special_tokens=False)["input_ids"]
            self._encoded[text] = ids[ids.index(self._ids("</img>")) + 1 :]
        return self._encoded[text]

    def expression(self, text: str) -> list[int]:
        """Encode a referring expression and all up to the answer, without the stem."""
        return self._branch(PROMPT.format(text))[len(self.stem) :]

    def question(self, text: str) -> list[int]:
        """Encode a question and all up to the answer."""
        return self._branch(text)

    def box(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> list[int]:
        """Encode the answer for a box in pixels of an image, end of turn included."""
        return [*self._ids(box_tokens(box, size)), self.tokenizer.eos_token_id]

    def answer(self, text: str, *, spelled: bool) -> list[int]:
        """Encode a short answer, end of turn included: a word, or letter by letter."""
        tokens = list(text) if spelled or text.isdigit() else [f"\u0120{text}"]
        ids = self._ids(tokens)
        return [*ids, self.tokenizer.eos_token_id]
