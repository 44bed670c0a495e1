"""Questions about an image, each with one short answer that nobody who looks at it would dispute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from biaslab.scenes.expressions import RELATION_CLEAR, RELATION_NOT, RELATIONS, Head, heads
from biaslab.scenes.gallery.cast import MOST_COUNTED, POPULAR, THEME_OF, THEMES
from biaslab.scenes.gallery.forms import form_of, plural, with_article
from biaslab.scenes.gallery.signs import SIGN
from biaslab.scenes.gallery.thing import Thing
from biaslab.scenes.objects import NAMES

_ASKED_BIG = 0.66
LARGER = 1.6  # how many times the area, and 1.25 the long side, the larger of two must have


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes
    ----------
    text : str
    answer : str
        One word or number.
    category : str
        One of `CATEGORIES`.
    heads : tuple of Head
        The noun phrases that it is about.

    Examples
    --------
    >>> from biaslab.scenes.gallery import picture
    >>> question = picture("test", 0).questions()[0]
    >>> question.category, question.text, question.answer
    ('existence-random', 'is there a panda in the image?', 'yes')
    """

    text: str
    answer: str
    category: str
    heads: tuple[Head, ...]


@dataclass(frozen=True)
class _Asked:
    """What questions are made from."""

    rng: np.random.Generator
    things: Sequence[Thing]
    counted: str | None
    sign: str | None
    held_out: bool

    def form(self, kind: str) -> str:
        return form_of(self.rng, kind, held_out=self.held_out)

    def one(self, options: Sequence) -> int:
        return int(self.rng.integers(len(options)))


def _existence(absent: str) -> Callable[[_Asked], Question | None]:
    """Ask for something, as often there as not; absent ones are drawn at random, popular, or of the same theme."""

    def ask(of: _Asked) -> Question | None:
        shown = {thing.name for thing in of.things} - {SIGN}
        if not shown:
            return None
        yes = of.rng.random() < 0.5
        names = sorted(shown) if yes else [n for n in _absent(of, absent, shown) if n not in shown]
        if not names:
            return None
        name = names[of.one(names)]
        text = of.form("existence").format(with_article(name))
        return Question(text, "yes" if yes else "no", f"existence-{absent}", (Head(name),))

    return ask


def _absent(of: _Asked, kind: str, shown: set[str]) -> Sequence[str]:
    if kind == "popular":
        return POPULAR
    if kind == "adversarial":
        themes = [THEME_OF[name] for name in sorted(shown)]
        return THEMES[themes[of.one(themes)]]
    return NAMES


def _counting(of: _Asked) -> Question | None:
    if of.counted is None:
        return None
    n = sum(thing.name == of.counted for thing in of.things)
    if not 1 <= n <= MOST_COUNTED:
        return None
    return Question(of.form("counting").format(plural(of.counted)), str(n), "counting", (Head(of.counted),))


def _colour(of: _Asked) -> Question | None:
    options = [thing for thing in of.things if thing.colour]
    fit = [t for t in options if sum(t.name == other.name for other in of.things) == 1]
    if not fit:
        return None
    thing = fit[of.one(fit)]
    return Question(of.form("colour").format(thing.name), str(thing.colour), "colour", (Head(thing.name),))


def _size(of: _Asked) -> Question | None:
    """Ask for one that is big or one that is small, so that both are the answer as often: fewer are big."""
    word = "big" if of.rng.random() < _ASKED_BIG else "small"
    fit = [t for t in of.things if t.size == word and sum(t.name == other.name for other in of.things) == 1]
    if not fit:
        return None
    thing = fit[of.one(fit)]
    return Question(of.form("size").format(thing.name), word, "size", (Head(thing.name),))


def _relation(of: _Asked) -> Question | None:
    """Ask what lies on one side of an object, where exactly one thing does and none nearly does."""
    centres = np.array([thing.centre for thing in of.things])
    for _ in range(8):
        mark = of.one(of.things)
        fit = [h for h in heads(of.things[mark]) if sum(h.matches(other) for other in of.things) == 1]
        if not fit:
            continue
        words = list(RELATIONS)[int(of.rng.integers(4))]
        ahead = (centres - centres[mark]) @ np.array(RELATIONS[words])
        holds = ahead > RELATION_CLEAR
        if holds.sum() != 1 or ((ahead > RELATION_NOT) & ~holds).any():
            continue
        answer = of.things[int(holds.argmax())].name
        return Question(of.form("relation").format(words, fit[0]), answer, "relation", (fit[0],))
    return None


def _comparison(of: _Asked) -> Question | None:
    alone = [t for t in of.things if t.name != SIGN and sum(t.name == other.name for other in of.things) == 1]
    for _ in range(8):
        if len(alone) < 2:
            return None
        a, b = (alone[int(k)] for k in of.rng.choice(len(alone), 2, replace=False))
        small, large = sorted((a, b), key=lambda thing: thing.box.area)
        longer = max(large.box.width, large.box.height) / max(small.box.width, small.box.height)
        if large.box.area >= LARGER * small.box.area and longer >= 1.25:
            text = of.form("comparison").format(a=a.name, b=b.name)
            return Question(text, large.name, "comparison", (Head(a.name), Head(b.name)))
    return None


def _reading(of: _Asked) -> Question | None:
    if of.sign is None:
        return None
    return Question(of.form("reading"), of.sign, "reading", (Head(SIGN),))


MAKERS: dict[str, Callable[[_Asked], Question | None]] = {
    "existence-random": _existence("random"), "existence-popular": _existence("popular"),
    "existence-adversarial": _existence("adversarial"), "counting": _counting, "colour": _colour, "size": _size,
    "relation": _relation, "comparison": _comparison, "reading": _reading,
}  # fmt: skip
CATEGORIES: tuple[str, ...] = tuple(MAKERS)


def asked_of(
    rng: np.random.Generator, things: Sequence[Thing], counted: str | None, sign: str | None, *, held_out: bool = False
) -> tuple[Question, ...]:
    """Ask at most one question of each category.

    Parameters
    ----------
    rng : numpy.random.Generator
    things : sequence of Thing
    counted : str or None
        The name to count: one that is drawn evenly from one to six times.
    sign : str or None
        What the sign says.
    held_out : bool
        In the forms that no training split asks in.

    Returns
    -------
    tuple of Question
    """
    of = _Asked(rng, things, counted, sign, held_out)
    made = (maker(of) for maker in MAKERS.values())
    return tuple(question for question in made if question is not None)


def sample_questions(
    rng: np.random.Generator, things: Sequence[Thing], counted: str | None, sign: str | None, *, n: int
) -> list[Question]:
    """Draw at most ``n`` different questions, categories in turns from a random one on."""
    of = _Asked(rng, things, counted, sign, held_out=False)
    order = [CATEGORIES[int(k)] for k in rng.permutation(len(CATEGORIES))]
    questions: dict[str, Question] = {}
    for turn in range(3 * len(order)):
        if len(questions) == n:
            break
        question = MAKERS[order[turn % len(order)]](of)
        if question is not None:
            questions.setdefault(question.text, question)
    return list(questions.values())
