"""Letters that the figures' fonts lack: taken from another installed font, or named in one line."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

__all__ = ["borrow_letters", "families_with", "lacking_is_said_once", "without_glyph_warnings"]

_Plot = TypeVar("_Plot", bound=Callable[..., Any])
_NO_LETTERS = ("LastResort", "Last Resort", "Emoji")  # boxes for every character; coloured images, which no PDF takes


def families_with(text: str, families: Sequence[str]) -> tuple[list[str], str]:
    """Add to the families of fonts of a text those that have letters which these lack.

    Parameters
    ----------
    text : str
    families : sequence of str
        As ``font.family`` names them, the first that has a letter draws it.

    Returns
    -------
    families : list of str
    lacking : str
        Letters that no installed font has.

    Examples
    --------
    >>> from biaslab.figures.letters import families_with
    >>> families_with("naïve", ["STIXGeneral"])
    (['STIXGeneral'], '')
    >>> families_with("FastV \N{HEBREW LETTER SHIN}", ["DejaVu Serif", "DejaVu Sans"])[1]
    ''
    """
    own, lacking = list(families), ""
    for char in dict.fromkeys(text):
        if char.isascii() or unicodedata.category(char)[0] in "CZ" or any(ord(char) in _letters(f) for f in own):
            continue
        other = _family_with(char)
        if other is None:
            lacking += char
        else:
            own.append(other)
    return own, lacking


def borrow_letters(artist: Artist) -> dict[str, str]:
    """Give all texts of an artist fonts that have their letters.

    Parameters
    ----------
    artist : Artist
        A figure, legend or other artist that holds texts.

    Returns
    -------
    dict of str
        Texts with letters that no installed font has -> those letters.
    """
    lacking = {}
    for text in artist.findobj(Text):
        if text.get_text().isascii():
            continue
        families, missing = families_with(text.get_text(), text.get_fontfamily())
        if families != list(text.get_fontfamily()):
            text.set_fontfamily(families)
        if missing:
            lacking[" ".join(text.get_text().split())] = missing
    return lacking


def lacking_is_said_once(plot: _Plot) -> _Plot:
    """Make the ``plot`` of a display end with letters borrowed, and with one warning for what no font has."""

    @wraps(plot)
    def drawn(self: Any, *args: Any, **kwargs: Any) -> Any:
        with without_glyph_warnings():
            done = plot(self, *args, **kwargs)
        if self.figure_ is not None and (lacking := borrow_letters(self.figure_)):
            letters = "".join(dict.fromkeys("".join(lacking.values())))
            warnings.warn(
                f"no installed font has the letters {letters} of {next(iter(lacking))!r}: they are drawn as boxes; "
                "install a font that has them (Noto Sans has one for every script), or give another name with "
                "labels= or --label",
                stacklevel=2,
            )
        return done

    return drawn  # type: ignore[return-value]


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Silence matplotlib's warning of every missing letter at every drawing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ ")
        yield


def _letters(family: str) -> frozenset[int]:
    return _letters_in(font_manager.findfont(FontProperties(family=[family])))


@cache
def _letters_in(path: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a file that is gone or that FreeType cannot read
        return frozenset()


@cache
def _family_with(char: str) -> str | None:
    """Find an upright font of usual weight with a letter: TrueType first, which a PDF holds whole."""
    fonts = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular", "book")
        and not any(word in font.name for word in _NO_LETTERS)
    ]  # fmt: skip
    fonts.sort(key=lambda font: (Path(font.fname).suffix.lower() != ".ttf", "Sans" not in font.name, font.name))
    return next((font.name for font in fonts if ord(char) in _letters_in(font.fname)), None)
