"""Which objects an image shows: their names, sizes, colours and styles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from biaslab.scenes.drawings import COLOURLESS, STYLES, UNFAMILIAR_STYLE
from biaslab.scenes.objects import COLOURS, NAMES, TINTABLE

#: objects that are shown together more often than chance: what is absent of a theme is the adversarial question
THEMES: dict[str, tuple[str, ...]] = {
    "animals": NAMES[:27], "food": NAMES[27:44], "vehicles": NAMES[44:55], "things": NAMES[55:]
}  # fmt: skip
THEME_OF = {name: theme for theme, names in THEMES.items() for name in names}


def _popularity() -> dict[str, float]:
    """Let some names be up to six times as frequent as others, in an order that has nothing to do with themes."""
    order = np.random.default_rng(5).permutation(len(NAMES))
    weights = 1 / (np.arange(len(NAMES)) + 16.0)
    return {NAMES[k]: float(w / weights.sum()) for k, w in zip(order, weights, strict=True)}


POPULARITY = _popularity()
#: the names that images show most, the most frequent first
POPULAR: tuple[str, ...] = tuple(sorted(NAMES, key=lambda name: -POPULARITY[name])[:16])

SMALL, MEDIUM, BIG = (0.05, 0.19), (0.20, 0.29), (0.31, 0.80)  # long side over the side of the image as a square
MOST_COUNTED = 6


@dataclass(frozen=True)
class Role:
    """An object that is to be placed; ``side`` is its long side over the side of a square as large as the image."""

    name: str
    size: str | None
    colour: str | None
    style: str
    side: float


def roles(rng: np.random.Generator, *, unfamiliar_style: bool, least: float) -> tuple[list[Role], str | None]:
    """Draw the objects of an image and the name that may be counted in it.

    Parameters
    ----------
    rng : numpy.random.Generator
    unfamiliar_style : bool
        All in `UNFAMILIAR_STYLE`; else in one of `STYLES` or, three times of ten, each in its own.
    least : float
        Smallest long side of an object, over the side of the image as a square.

    Returns
    -------
    list of Role, str or None
        Two to nine objects; a name of which one to six are shown, each number as often, in six images of ten.
    """
    theme = THEMES[list(THEMES)[int(rng.integers(4))]] if rng.random() < 0.5 else NAMES
    counted = rng.random() < 0.6
    multiple = int(rng.integers(1, MOST_COUNTED + 1)) if counted else int(rng.integers(1, 4))
    others = int(rng.integers(1, 6)) if multiple < 4 else int(rng.integers(1, 4))
    weights = np.array([POPULARITY[name] for name in theme])
    names = [theme[k] for k in rng.choice(len(theme), others + 1, replace=False, p=weights / weights.sum())]
    if rng.random() < 0.45 and not TINTABLE & set(names):
        names[-1] = sorted(TINTABLE)[int(rng.integers(len(TINTABLE)))]  # else few images had a colour to ask for
    cast = [names[0]] * multiple + names[1:]
    if others >= 2 and rng.random() < 0.4:
        cast.append(names[1])
    one_style = STYLES[int(rng.integers(len(STYLES)))] if rng.random() < 0.7 else None
    big_share = max(0.18, 0.68 - 0.07 * len(cast))
    colours, out = list(COLOURS), []
    for name in cast:
        style = UNFAMILIAR_STYLE if unfamiliar_style else one_style or STYLES[int(rng.integers(len(STYLES)))]
        colour = colours[int(rng.integers(len(colours)))] if name in TINTABLE else None
        if (style, name) in COLOURLESS:
            colour = None
        u = rng.random()
        # where several have one name, a size word must tell them apart: none of them is in between
        size = None if u < 0.2 and cast.count(name) == 1 else "big" if u < 0.2 + 0.8 * big_share else "small"
        low, high = MEDIUM if size is None else BIG if size == "big" else (max(SMALL[0], least), SMALL[1])
        high = min(high, 1.1 / math.sqrt(len(cast))) if size == "big" else high
        side = math.exp(rng.uniform(math.log(low), math.log(max(low, high))))
        out.append(Role(name, size, colour, style, side))
    return out, names[0] if counted else None
