"""Images as training batches: tiles, dense targets per visual token, packed question-answer branches (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from PIL import Image

from biaslab.grounder.observer.dialogue import Dialogue
from biaslab.grounder.observer.model import WHATS, ObserverSize, shipped_tokenizer
from biaslab.grounder.observer.plan import Step
from biaslab.grounder.observer.recipe import ObserverRecipe
from biaslab.scenes import expressions as ex
from biaslab.scenes.gallery import CATEGORIES, Picture, picture, visual_tiles
from biaslab.scenes.gallery.questions import sample_questions
from biaslab.scenes.gallery.signs import LONGEST, SIGN
from biaslab.scenes.objects import COLOURS, SIZES

IGNORE = -100
T = TypeVar("T")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
#: what a branch can be about: types of expressions, then categories of questions
# "what is left of the bus?" is a relation as well as "the cat left of the bus"
N_BOXES = len(ex.EXPRESSION_TYPES)  # tasks below it are answered with a box
TASKS: tuple[str, ...] = (*ex.EXPRESSION_TYPES, *(f"asked {c}" if c in ex.EXPRESSION_TYPES else c for c in CATEGORIES))
GRIDS: tuple[tuple[int, int], ...] = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (2, 3), (3, 2))
_COLOURS = list(COLOURS)
_MIN_COVER = 0.1  # share of a cell that an object must show to own it
_READABLE = 11  # least height of a sign in pixels of a tile
_MOST = 32  # things of an image, and one more


@dataclass(frozen=True)
class Tiles:
    """Tiles and what each of their visual tokens shows.

    Attributes
    ----------
    pixels : uint8 array (tiles, 3, side, side)
    owned : bool array (tiles, tokens)
        Whether a thing owns the cell.
    what, colour : int array (tiles, tokens)
        Class of the owner; `IGNORE` where nothing is owned or no colour word fits.
    box : float array (tiles, tokens, 4)
        Box of the owner in fractions of the tile, cut at its border.
    letters : int array (tiles, tokens, LONGEST)
        What the sign says, on the cells that it owns: numbers in `LETTERS`, their count for no letter, else `IGNORE`,
        as where a tile shows a part of it or it is too small to be read.
    """

    pixels: np.ndarray
    owned: np.ndarray
    what: np.ndarray
    colour: np.ndarray
    box: np.ndarray
    letters: np.ndarray


@dataclass(frozen=True)
class Branches:
    """Question-answer branches of one length behind the images of a batch.

    Attributes
    ----------
    ids, labels : int array (images, branches, length)
        Tokens, and what each row must answer (or `IGNORE`).
    gather : bool array (images, branches, length)
        The rows from the end of the question to the first token of the answer.
    head : int array (images, branches, 3)
        What, size (2: not said) and colour (5: not said) of the noun phrase; `IGNORE` where there are two or none.
    task : int array (images, branches)
        Number in `TASKS`; -1 for an empty branch.
    """

    ids: np.ndarray
    labels: np.ndarray
    gather: np.ndarray
    head: np.ndarray
    task: np.ndarray


@dataclass(frozen=True)
class Batch:
    """One training step's data.

    Attributes
    ----------
    tiles : Tiles
        Of all images, one after the other.
    grid : int array (images,)
        Numbers in `GRIDS`.
    expressions, questions : Branches or None
        None in the vision stage.
    """

    tiles: Tiles
    grid: np.ndarray
    expressions: Branches | None = None
    questions: Branches | None = None

    def part(self, k: int, n: int) -> Batch:
        """Return the k-th of n parts, as equal as can be: of images, in the vision stage of tiles."""
        count = len(self.tiles.pixels if self.expressions is None else self.grid)
        per, rows = len(self.tiles.pixels) // count, slice(k * count // n, (k + 1) * count // n)
        tiles = slice(rows.start * per, rows.stop * per)
        return Batch(
            _rows(self.tiles, tiles), self.grid[rows], self.expressions and _rows(self.expressions, rows),
            self.questions and _rows(self.questions, rows),
        )  # fmt: skip


def _rows(values: T, rows: slice | np.ndarray) -> T:
    return type(values)(**{name: array[rows] for name, array in vars(values).items()})


@cache
def dialogue_of(size: ObserverSize) -> Dialogue:
    """Build the dialogue once per process."""
    return Dialogue(shipped_tokenizer(), size)


def make_batch(recipe: ObserverRecipe, step: Step) -> Batch:
    """Draw the images of a step and what is asked about them; depends on nothing but its arguments."""
    shown = [picture("train", index) for index in step.pictures]
    stage = ("vision", "decoder").index(step.stage)
    rng = np.random.default_rng([recipe.seed, 80, stage, step.number, *([recipe.leg] if recipe.leg else [])])
    if step.stage == "vision":
        return _single_tiles(recipe, shown, rng)
    return pack(recipe, shown, rng, mix=recipe.easy_mix if step.easy else recipe.mix)


def pack(recipe: ObserverRecipe, shown: Sequence[Picture], rng: np.random.Generator, *, mix: Sequence[float]) -> Batch:
    """Pack expressions and questions behind images of one number of visual tiles."""
    dialogue = dialogue_of(recipe.size)
    said, asked = [], []
    for one in shown:
        said.append(_expressions(one, dialogue, rng, recipe.expressions, mix))
        asked.append(_questions(one, dialogue, rng, recipe.questions))
    pad = dialogue.tokenizer.pad_token_id
    return Batch(
        tiles=_joined([tiles_of(one, recipe.size) for one in shown]),
        grid=np.array([GRIDS.index(one.grid) for one in shown]),
        expressions=_packed(said, recipe.expressions, recipe.expression_length, pad),
        questions=_packed(asked, recipe.questions, recipe.question_length, pad),
    )


@dataclass(frozen=True)
class _Branch:
    asked: list[int]
    gather_from: int
    answer: list[int]
    head: tuple[int, int, int]
    task: int


def _expressions(
    shown: Picture, dialogue: Dialogue, rng: np.random.Generator, n: int, mix: Sequence[float]
) -> list[_Branch]:
    out = []
    for e in ex.sample(rng, shown.things, n, mix=mix):
        asked = dialogue.expression(e.text)
        answer = dialogue.box(shown.things[e.target].box.as_tuple(), shown.image.size)
        words = asked.index(dialogue.tokenizer.convert_tokens_to_ids("</ref>"))
        out.append(_Branch(asked, words, answer, _head_classes(e.head), TASKS.index(e.expression_type)))
    return out


def _questions(shown: Picture, dialogue: Dialogue, rng: np.random.Generator, n: int) -> list[_Branch]:
    out = []
    for q in sample_questions(rng, shown.things, shown.counted, shown.text, n=n):
        asked = dialogue.question(q.text)
        answer = dialogue.answer(q.answer, spelled=q.category == "reading")
        head = _head_classes(q.heads[0]) if len(q.heads) == 1 else (IGNORE, IGNORE, IGNORE)
        words = asked.index(dialogue.tokenizer.eos_token_id)
        out.append(_Branch(asked, words, answer, head, N_BOXES + CATEGORIES.index(q.category)))
    return out


def _packed(of_pictures: list[list[_Branch]], branches: int, length: int, pad: int) -> Branches:
    shape = (len(of_pictures), branches, length)
    ids, labels = np.full(shape, pad, np.int64), np.full(shape, IGNORE, np.int64)
    gather, task = np.zeros(shape, bool), np.full(shape[:2], -1, np.int64)
    head = np.full((*shape[:2], 3), IGNORE, np.int64)
    for k, some in enumerate(of_pictures):
        for j, one in enumerate(some):
            row = [*one.asked, *one.answer[:-1]]
            if len(row) > length:
                continue
            ids[k, j, : len(row)] = row
            labels[k, j, len(one.asked) - 1 : len(row)] = one.answer
            gather[k, j, one.gather_from : len(one.asked) + 1] = True
            head[k, j] = one.head
            task[k, j] = one.task
    return Branches(ids, labels, gather, head, task)


def _head_classes(head: ex.Head) -> tuple[int, int, int]:
    return (
        WHATS.index(head.name),
        SIZES.index(head.size) if head.size else len(SIZES),
        _COLOURS.index(head.colour) if head.colour else len(_COLOURS),
    )


# ---- tiles -------------------------------------------------------------------------------------------------------
def tiles_of(shown: Picture, size: ObserverSize) -> Tiles:
    """Cut an image as InternVL's processor does, and find what each visual token shows.

    Parameters
    ----------
    shown : Picture
    size : ObserverSize

    Returns
    -------
    Tiles
        In reading order, the thumbnail last.
    """
    (columns, rows), side = shown.grid, size.tile
    n, cut = visual_tiles(shown.grid), (columns * side, rows * side)
    large = shown.image.resize(cut, Image.Resampling.BICUBIC)
    owner = Image.fromarray(shown.owner)
    large_owner = owner.resize(cut, Image.Resampling.NEAREST)
    out = []
    for k in range(n):
        if k == columns * rows:
            image = shown.image.resize((side, side), Image.Resampling.BICUBIC)
            seen, origin, scale = owner.resize((side, side), Image.Resampling.NEAREST), (0, 0), (1, 1)
        else:
            x, y = k % columns * side, k // columns * side
            part = (x, y, x + side, y + side)
            image, seen = large.crop(part), large_owner.crop(part)
            origin, scale = (k % columns, k // columns), (columns, rows)
        out.append(_tile(shown, np.asarray(image), np.asarray(seen), origin, scale, size))
    return _joined(out)


def _tile(
    shown: Picture, pixels: np.ndarray, owner: np.ndarray, origin: tuple[int, int], scale: tuple[int, int],
    size: ObserverSize,
) -> Tiles:  # fmt: skip
    grid, cell = size.grid, size.tile // size.grid
    ys, xs = np.divmod(np.arange(size.tile**2), size.tile)
    place = (ys // cell * grid + xs // cell) * _MOST + owner.reshape(-1)
    cover = np.bincount(place, minlength=grid * grid * _MOST).reshape(grid * grid, _MOST)
    cover[:, 0] = 0
    number = cover.argmax(1)
    number[cover.max(1) < _MIN_COVER * cell * cell] = 0
    what = np.full(len(shown.things) + 1, IGNORE)
    colour, boxes = what.copy(), np.zeros((len(shown.things) + 1, 4), np.float32)
    letters = np.full((len(shown.things) + 1, LONGEST), IGNORE)
    width, height = shown.image.size
    for j, thing in enumerate(shown.things, start=1):
        what[j] = WHATS.index(thing.name)
        colour[j] = _COLOURS.index(thing.colour) if thing.colour else IGNORE
        box = np.array(thing.box.as_tuple()) / (width, height, width, height)
        inside = box * (*scale, *scale) - (*origin, *origin)
        boxes[j] = np.clip(inside, 0, 1)
        whole = np.array_equal(boxes[j], inside.astype(np.float32))
        if thing.name == SIGN and shown.text is not None and whole and inside[3] - inside[1] >= _READABLE / size.tile:
            text = [LETTERS.index(c) for c in shown.text]
            letters[j] = text + [len(LETTERS)] * (LONGEST - len(text))
    return Tiles(
        np.ascontiguousarray(pixels.transpose(2, 0, 1))[None], (number > 0)[None], what[number][None],
        colour[number][None], boxes[number][None], letters[number][None],
    )  # fmt: skip


def _joined(parts: Sequence[Tiles]) -> Tiles:
    names = Tiles.__dataclass_fields__
    return Tiles(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _single_tiles(recipe: ObserverRecipe, shown: Sequence[Picture], rng: np.random.Generator) -> Batch:
    """Take a few tiles of each image: first those with a sign that can be read, then those with any object."""
    parts = []
    for one in shown:
        tiles = tiles_of(one, recipe.size)
        order = rng.permutation(len(tiles.pixels))
        rank = 2 * (tiles.letters != IGNORE).any((1, 2)) + tiles.owned.any(1)
        parts.append(_rows(tiles, order[np.argsort(-rank[order], kind="stable")][: recipe.vision_tiles]))
    return Batch(_joined(parts), np.array([GRIDS.index(one.grid) for one in shown]))
