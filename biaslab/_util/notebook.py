"""What a notebook shows of a value: a mixin for rooms that may not draw, and the table of those who draw for them.

A class derives from `InNotebooks`; a file of ``biaslab/figures/inline`` draws it: ``@draws("NAME OF THE CLASS")``. The
files there are imported when the first value is shown, so that no room imports one above it.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from biaslab._util.registry import Registry
from biaslab.errors import BiaslabError

__all__ = ["DRAWINGS", "Drawing", "InNotebooks", "draws"]


class Drawing(NamedTuple):
    """A value as HTML without scripts, and as PNG where an image says it all."""

    html: str
    png: bytes | None = None


#: name of a class -> function of one of its values
DRAWINGS: Registry[Callable[[Any], Drawing]] = Registry("drawing in notebooks", package="biaslab.figures.inline")


def draws(*classes: str) -> Callable[[Callable[[Any], Drawing]], Callable[[Any], Drawing]]:
    """Register a function as what draws the values of classes and of those derived from them: a decorator."""

    def register(draw: Callable[[Any], Drawing]) -> Callable[[Any], Drawing]:
        for name in classes:
            DRAWINGS.add(name, draw)
        return draw

    return register


class InNotebooks:
    """A class whose values are drawn where they are the last of a notebook's cell; elsewhere they are one line.

    Examples
    --------
    >>> import biaslab as bl
    >>> bl.Box(10, 20, 50, 60)._repr_html_()[:11]
    '<span style'
    """

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        return _drawing(self).html

    def _repr_png_(self) -> bytes | None:
        return _drawing(self).png


def _drawing(value: Any) -> Drawing:
    found = (DRAWINGS.get(cls.__name__, None) for cls in type(value).__mro__)
    draw = next((each for each in found if each is not None), None)
    if draw is None:
        return Drawing(_plain(value))
    try:
        return draw(value)
    except BiaslabError as error:  # an image that is not there any more: a value can always be looked at
        return Drawing(f"{_plain(value)}<div>{escape(str(error))}</div>")


def _plain(value: Any) -> str:
    return f"<code>{escape(repr(value))}</code>"
