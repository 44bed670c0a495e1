"""Unambiguous referring expressions of three types: attribute, location, relation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Referable(Protocol):
    """What an expression can be about."""

    @property
    def name(self) -> str:
        """One English word."""
        ...

    @property
    def size(self) -> str | None:
        """The size word that fits it, if one does."""
        ...

    @property
    def colour(self) -> str | None:
        """The colour word that fits it, if one does."""
        ...

    @property
    def centre(self) -> tuple[float, float]:
        """Where it is, in fractions of the image."""
        ...


EXPRESSION_TYPES: tuple[str, ...] = ("attribute", "location", "relation")

SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
CORNERS = {(v, h): (SIDES[h][0], SIDES[v][1]) for v in ("top", "bottom") for h in ("left", "right")}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}

# Margins in fractions of the canvas: how much further than its rivals a target must lie, so that a person
# who looks at the image would not hesitate.
SIDE_MARGIN, CORNER_MARGIN, CORNER_INSIDE = 0.085, 0.12, 0.07
RELATION_CLEAR, RELATION_NOT = 0.095, 0.025


@dataclass(frozen=True)
class Head:
    """The noun phrase of an expression: its name and the size and colour words that it says."""

    name: str
    size: str | None = None
    colour: str | None = None

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.name) if word)

    def matches(self, other: Referable) -> bool:
        """Whether the noun phrase is true of an object."""
        return other.name == self.name and self.size in (None, other.size) and self.colour in (None, other.colour)


@dataclass(frozen=True)
class Expression:
    """A referring expression: it fits one object of its scene and no other.

    Attributes
    ----------
    text : str
    expression_type : {"attribute", "location", "relation"}
        What singles the object out: words of the noun phrase, its place, or another object.
    target : int
        Number of the object in ``scene.objects``.
    head : Head
        The noun phrase of the object.

    Examples
    --------
    >>> from biaslab.scenes import scene
    >>> made = scene("test", 0)
    >>> expression = made.expressions[0]
    >>> expression.text, expression.expression_type, made.objects[expression.target].name
    ('big elephant left of the sheep', 'relation', 'elephant')
    """

    text: str
    expression_type: str
    target: int
    head: Head


def heads(thing: Referable) -> list[Head]:
    """List every true noun phrase for an object, the shortest first."""
    colours = (None, thing.colour) if thing.colour else (None,)
    out = [Head(thing.name, s, c) for s in (None, thing.size) for c in colours]
    return sorted(out, key=lambda head: (head.size is not None) + (head.colour is not None))


def _unique_head(rng: np.random.Generator, things: Sequence[Referable], target: int) -> Head | None:
    """Draw a noun phrase that fits this object alone: mostly the shortest, at times a longer one."""
    fit = [h for h in heads(things[target]) if sum(h.matches(o) for o in things) == 1]
    if not fit:
        return None
    return fit[0] if rng.random() < 0.6 else fit[int(rng.integers(len(fit)))]


def _shared_head(rng: np.random.Generator, thing: Referable) -> Head:
    options = heads(thing)
    return options[0] if rng.random() < 0.65 else options[int(rng.integers(len(options)))]


def _the(rng: np.random.Generator, text: str) -> str:
    return f"the {text}" if rng.random() < 0.7 else text


def attribute(rng: np.random.Generator, things: Sequence[Referable], target: int) -> Expression | None:
    """Refer by name, size and colour: "the small red car"."""
    head = _unique_head(rng, things, target)
    return None if head is None else Expression(_the(rng, str(head)), "attribute", target, head)


def location(rng: np.random.Generator, things: Sequence[Referable], target: int) -> Expression | None:
    """Refer by the place, where several fit the noun phrase: "the cat on the left", "top right penguin"."""
    head = _shared_head(rng, things[target])
    centres = np.array([o.centre for o in things])
    rivals = [j for j, o in enumerate(things) if j != target and head.matches(o)]
    if not rivals:
        return None
    ahead = centres[target] - centres[rivals]
    options: list[tuple[str, ...]] = [
        (side,) for side, way in SIDES.items() if (ahead @ np.array(way)).min() > SIDE_MARGIN
    ]
    for corner, way in CORNERS.items():
        inside = ((centres[target] - 0.5) * way).min() > CORNER_INSIDE
        if inside and (ahead @ np.array(way)).min() > CORNER_MARGIN:
            options.append(corner)
    if not options:
        return None
    place = options[int(rng.integers(len(options)))]
    form = int(rng.integers(3))
    if len(place) == 2:
        both = " ".join(place)
        text = (f"{both} {head}", f"{head} at the {both}", f"{head} in the {both}")[form]
    else:
        (side,) = place
        after = f"{head} on the {side}" if side in ("left", "right") else f"{head} at the {side}"
        text = (after, f"{side}most {head}", f"{side} {head}")[form]
    return Expression(_the(rng, text), "location", target, head)


def relation(rng: np.random.Generator, things: Sequence[Referable], target: int) -> Expression | None:
    """Refer by a landmark, another object that is unambiguous itself: "the apple left of the bus"."""
    centres = np.array([o.centre for o in things])
    for _ in range(8):
        head = _shared_head(rng, things[target])
        same = [j for j, o in enumerate(things) if head.matches(o)]
        mark = int(rng.integers(len(things)))
        if mark in same or (len(same) == 1 and rng.random() < 0.75):
            continue
        landmark = _unique_head(rng, things, mark)
        if landmark is None:
            continue
        words = list(RELATIONS)[int(rng.integers(4))]
        ahead = (centres[same] - centres[mark]) @ np.array(RELATIONS[words])
        holds = ahead > RELATION_CLEAR
        unclear = (ahead > RELATION_NOT) & ~holds
        if unclear.any() or holds.sum() != 1 or same[int(holds.argmax())] != target:
            continue
        return Expression(_the(rng, f"{head} {words} the {landmark}"), "relation", target, head)
    return None


MAKERS = {"attribute": attribute, "location": location, "relation": relation}


def sample(
    rng: np.random.Generator, things: Sequence[Referable], n: int, *, mix: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)
) -> list[Expression]:
    """Draw at most `n` different expressions about a scene, types drawn with probabilities `mix`."""
    expressions: dict[str, Expression] = {}
    for _ in range(12 * n):
        if len(expressions) == n:
            break
        expression_type = EXPRESSION_TYPES[int(rng.choice(3, p=mix))]
        expression = MAKERS[expression_type](rng, things, int(rng.integers(len(things))))
        if expression is not None:
            expressions.setdefault(expression.text, expression)
    return list(expressions.values())


def one_of_each_type(rng: np.random.Generator, things: Sequence[Referable]) -> tuple[Expression, ...]:
    """Draw at most one expression of each type, about different things where these allow it."""
    order = rng.permutation(len(things))
    out: list[Expression] = []
    for expression_type in (EXPRESSION_TYPES[k] for k in rng.permutation(3)):
        used = {e.target for e in out}
        for target in sorted(order, key=lambda t: t in used):
            expression = MAKERS[expression_type](rng, things, int(target))
            if expression is not None:
                out.append(expression)
                break
    return tuple(out)
