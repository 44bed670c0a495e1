"""Which images of the stream make up each training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from biaslab.grounder.observer.recipe import ObserverRecipe
from biaslab.scenes.gallery import grid_of, picture_size, visual_tiles

WINDOW = 1024  # images of the stream that are put into batches together
# Both stages stream the train split; the vision stage starts where the decoder stage cannot reach.
FIRST_PICTURE = {"vision": 10_000_000, "decoder": 0}
LEG = 1_000_000  # pictures between the starts of two legs of the decoder stage


@dataclass(frozen=True)
class Step:
    """The images of one training step.

    Attributes
    ----------
    stage : {"vision", "decoder"}
    number : int
        Of the step in its stage.
    pictures : tuple of int
        Numbers of images of the train split; in the decoder stage all have one number of visual tiles.
    easy : bool
        Whether the step lies in the easy share of the decoder stage.
    """

    stage: str
    number: int
    pictures: tuple[int, ...]
    easy: bool = False


def steps_of(recipe: ObserverRecipe, stage: str, *, start: int = 0) -> Iterator[Step]:
    """Yield the steps of a stage from ``start`` on, the same ones whenever they are asked for.

    Parameters
    ----------
    recipe : ObserverRecipe
    stage : {"vision", "decoder"}
    start : int
        First step that is wanted; those before it are gone through without drawing an image.

    Yields
    ------
    Step

    Examples
    --------
    >>> from biaslab.grounder.observer.plan import steps_of
    >>> from biaslab.grounder.observer.recipe import ObserverRecipe
    >>> [len(step.pictures) for step in steps_of(ObserverRecipe(vision_steps=3), "vision")]
    [20, 20, 20]
    """
    first = FIRST_PICTURE[stage] + (recipe.leg * LEG if stage == "decoder" else 0)
    if stage == "vision":
        n = recipe.vision_pictures
        for number in range(start, recipe.vision_steps):
            yield Step(stage, number, tuple(range(first + number * n, first + (number + 1) * n)))
        return
    number, window = 0, 0
    while number < recipe.decoder_steps:
        easy = recipe.leg == 0 and number < recipe.easy_share * recipe.decoder_steps
        for pictures in _batches(recipe, first + window * WINDOW, recipe.shares_at_first if easy else recipe.shares):
            if number >= recipe.decoder_steps:
                return
            if number >= start:
                yield Step(stage, number, pictures, easy)
            number += 1
        window += 1


def _batches(recipe: ObserverRecipe, first: int, shares: dict[int, float]) -> list[tuple[int, ...]]:
    """Put the images of one window into batches of one number of tiles each, in random order."""
    rng = np.random.default_rng([recipe.seed, 79, first])
    kept = rng.random(WINDOW)
    of_tiles: dict[int, list[int]] = {tiles: [] for tiles in recipe.pictures_of_tiles}
    for k in range(WINDOW):
        tiles = visual_tiles(grid_of(picture_size("train", first + k)))
        if kept[k] < shares[tiles]:
            of_tiles[tiles].append(first + k)
    batches = []
    for tiles, pictures in of_tiles.items():
        n = recipe.pictures_of_tiles[tiles]
        batches += [tuple(pictures[k : k + n]) for k in range(0, len(pictures) - n + 1, n)]
    return [batches[int(k)] for k in rng.permutation(len(batches))]
