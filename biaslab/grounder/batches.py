"""Scenes as training batches: pixels, dense targets per visual token, packed question-answer branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from biaslab.grounder.internvl import IMAGE_MEAN, IMAGE_STD
from biaslab.grounder.model import PROMPT, box_tokens
from biaslab.scenes import expressions as ex
from biaslab.scenes.backgrounds import CANVAS
from biaslab.scenes.objects import COLOURS, NAMES, SIZES
from biaslab.scenes.rendering import Scene

IGNORE = -100
_COLOURS = list(COLOURS)
_MIN_COVER = 0.15  # share of a cell that an object must show to own it


def pixels(scenes: Sequence[Scene]) -> torch.Tensor:
    """Normalise scenes as the processor does: bfloat16, (scenes, 3, 224, 224)."""
    raw = torch.from_numpy(np.stack([np.asarray(s.image) for s in scenes])).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return ((raw - mean) / std).to(torch.bfloat16)


@dataclass
class DenseTargets:
    """What each visual token shows; every tensor is (scenes, tokens) or (scenes, tokens, 4) for `box`.

    Attributes
    ----------
    owned : BoolTensor
        Whether an object owns the cell.
    name, size, colour : LongTensor
        Class of the owner; `IGNORE` where the object has no colour word.
    box : Tensor
        Box of the owner in fractions of the canvas.
    """

    owned: torch.Tensor
    name: torch.Tensor
    size: torch.Tensor
    colour: torch.Tensor
    box: torch.Tensor


def dense_targets(scenes: Sequence[Scene], grid: int) -> DenseTargets:
    """Find what each of the ``grid`` x ``grid`` cells of every scene shows."""
    cell = CANVAS // grid
    n = len(scenes)
    owner = np.zeros((n, grid * grid), np.int64)
    table = np.zeros((n, 16, 7), np.float32)
    for k, s in enumerate(scenes):
        best = np.full(grid * grid, _MIN_COVER * cell * cell)
        for j, thing in enumerate(s.objects, start=1):
            count = (s.owner == j).reshape(grid, cell, grid, cell).sum((1, 3)).reshape(-1)
            better = count > best
            owner[k, better], best[better] = j, count[better]
            hue = _COLOURS.index(thing.colour) if thing.colour else IGNORE
            box = np.array(thing.box.as_tuple()) / CANVAS
            table[k, j] = (NAMES.index(thing.name), SIZES.index(thing.size), hue, *box)
    values = torch.from_numpy(np.take_along_axis(table, owner[:, :, None], 1))
    name, size, colour = (values[..., i].long() for i in range(3))
    return DenseTargets(torch.from_numpy(owner > 0), name, size, colour, values[..., 3:])


class Dialogue:
    """The token ids of the chat format, split where a scene's questions branch off from the shared image prefix."""

    def __init__(self, tokenizer: Any, grid: int) -> None:
        self.tokenizer = tokenizer
        self._ids = tokenizer.convert_tokens_to_ids
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT.format("|")}]}
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        before, after = text.split("<ref>|</ref>")
        image = "<img>" + "<IMG_CONTEXT>" * grid**2 + "</img>"
        self.prefix: list[int] = self._encode(before.replace("<IMG_CONTEXT>", image) + "<ref>")
        self.after: list[int] = self._encode("</ref>" + after)
        self.image_start = self.prefix.index(self._ids("<IMG_CONTEXT>"))
        self._questions: dict[str, list[int]] = {}

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def question(self, text: str) -> list[int]:
        """Encode an expression."""
        if text not in self._questions:
            self._questions[text] = self._encode(text)
        return self._questions[text]

    def answer(self, box: tuple[float, float, float, float]) -> list[int]:
        """Encode the answer for a box in pixels of the scene, end of turn included."""
        return [*self._ids(box_tokens(box)), self.tokenizer.eos_token_id]


@dataclass
class Packed:
    """Question-answer branches behind one image prefix.

    Attributes
    ----------
    ids, labels, positions : LongTensor (scenes, T)
        Tokens, what each row must answer (or `IGNORE`), and positions behind the prefix.
    mask : Tensor (scenes, 1, T, prefix + T)
        Additive: a branch sees the prefix and its own past.
    gather : BoolTensor (scenes, T)
        The rows from ``</ref>`` to the first token of the answer.
    head : LongTensor (scenes, T, 3)
        Name, size (2: not said) and colour (5: not said) of the expression's noun phrase.
    expression_type : LongTensor (scenes, T)
        Number of the expression's type.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    gather: torch.Tensor
    head: torch.Tensor
    expression_type: torch.Tensor


def pack(
    scenes: Sequence[Scene],
    dialogue: Dialogue,
    rng: np.random.Generator,
    *,
    questions: int,
    length: int,
    mix: Sequence[float],
) -> Packed:
    """Pack questions and answers about scenes into one row of tokens per scene.

    Parameters
    ----------
    scenes : sequence of Scene
    dialogue : Dialogue
    rng : numpy.random.Generator
        Draws the expressions.
    questions : int
        At most so many per scene; those that do not fit are left out.
    length : int
        T, tokens of a row.
    mix : sequence of float
        Probabilities of the expression types.

    Returns
    -------
    Packed
    """
    n, prefix = len(scenes), len(dialogue.prefix)
    ids = np.full((n, length), dialogue.tokenizer.pad_token_id, np.int64)
    labels, positions = np.full((n, length), IGNORE, np.int64), np.zeros((n, length), np.int64)
    branch, gather = np.full((n, length), -1, np.int64), np.zeros((n, length), bool)
    head, expression_type = np.zeros((n, length, 3), np.int64), np.zeros((n, length), np.int64)
    for k, s in enumerate(scenes):
        at = 0
        for number, e in enumerate(ex.sample(rng, s.objects, questions, mix=mix)):
            words = dialogue.question(e.text)
            answer = dialogue.answer(s.objects[e.target].box.as_tuple())
            row = [*words, *dialogue.after, *answer[:-1]]
            end, asked = at + len(row), at + len(words) + len(dialogue.after)
            if end > length:
                break
            ids[k, at:end] = row
            labels[k, asked - 1 : end] = answer
            positions[k, at:end] = prefix + np.arange(len(row))
            branch[k, at:end] = number
            gather[k, at + len(words) : asked + 1] = True
            head[k, at:end] = _head_classes(e.head)
            expression_type[k, at:end] = ex.EXPRESSION_TYPES.index(e.expression_type)
            at = end
    branch_t = torch.from_numpy(branch)
    same = branch_t[:, :, None] == branch_t[:, None, :]
    seen = same & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(n, 1, length, prefix + length, dtype=torch.bfloat16)
    mask[:, 0, :, prefix:].masked_fill_(~seen, -1e9)
    return Packed(
        ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        positions=torch.from_numpy(positions),
        mask=mask,
        gather=torch.from_numpy(gather),
        head=torch.from_numpy(head),
        expression_type=torch.from_numpy(expression_type),
    )


def _head_classes(head: ex.Head) -> tuple[int, int, int]:
    return (
        NAMES.index(head.name),
        SIZES.index(head.size) if head.size else len(SIZES),
        _COLOURS.index(head.colour) if head.colour else len(_COLOURS),
    )
