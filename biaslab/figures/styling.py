"""Publication style as a context: nothing is written to matplotlib's global settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import matplotlib as mpl
from cycler import cycler

from biaslab.errors import InputError

__all__ = [
    "COLORS",
    "DIVERGING",
    "LINES",
    "MARKERS",
    "SMALLEST",
    "SEQUENTIAL",
    "VENUES",
    "Venue",
    "current",
    "figure_width",
    "style",
]


class Venue(NamedTuple):
    """Text widths in inches of one column and of the full page, and whether the text is set in a face with serifs."""

    column: float
    page: float
    serif: bool = True


#: from the authors' kits; those of one column have one width
VENUES = {
    "cvpr": Venue(3.25, 6.875),
    "eccv": Venue(4.8, 4.8),
    "icml": Venue(3.25, 6.75),
    "neurips": Venue(5.5, 5.5),
    "iclr": Venue(5.5, 5.5),
    "aaai": Venue(3.3, 7.0),
    "aistats": Venue(3.25, 6.75),
    "uai": Venue(3.25, 6.75),
    "acl": Venue(3.03, 6.3),
    "colm": Venue(5.5, 5.5),
    "tmlr": Venue(6.5, 6.5, serif=False),
    "jmlr": Venue(6.0, 6.0),
}
_USUAL = "cvpr"  # whose widths figures have that are made for no venue

#: Okabe and Ito's six, a violet and a dark brown: any two differ by 16 or more in CIELAB, for full sight and under
#: protanopia, deuteranopia and tritanopia; black is left for reference lines
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7B2FBE", "#4B2E16")
#: in grey print colours of one lightness are one colour: methods differ in shape too, and neighbours in the line
MARKERS = ("o", "s", "^", "D", "v", "<", ">", "X")
LINES = ("-", "--", "-.", (0, (1, 1)))

ERRORBAR: dict[str, Any] = {"elinewidth": 0.7, "capsize": 1.6, "capthick": 0.7, "markeredgewidth": 0}

SMALLEST = 6.0  # points: letters below cannot be read in print

SEQUENTIAL = "YlOrRd"  # amounts of attention: light where there is none, so that an image shows through
DIVERGING = "RdBu_r"  # ratios centred at 1, log ratios and differences centred at 0

_venue: ContextVar[str | None] = ContextVar("biaslab_figure_venue", default=None)


@contextmanager
def style(venue: str | None = None, *, font: str | None = None, **overrides: Any) -> Iterator[Venue]:
    r"""Draw in publication style inside the context; all settings return to what they were after it.

    Displays enter it themselves when they draw. Around them it chooses the venue: ``with style("icml"):
    display.plot()``.

    Parameters
    ----------
    venue : str, optional
        "cvpr", "eccv", "icml", "neurips", "iclr", "aaai", "aistats", "uai", "acl", "colm", "tmlr" or "jmlr"; None takes
        the enclosing context's, else the widths of "cvpr" and letters without serifs.
    font : str, optional
        "serif", "sans", or the name of an installed family such as "CMU Serif"; default what the venue's text has.
    **overrides
        Further rcParams, dots written as in matplotlib: ``style("icml", **{"font.size": 9})``.

    Yields
    ------
    Venue
        Widths in inches: ``column``, ``page``.

    Raises
    ------
    InputError
        Unknown venue, or a font that is not installed.

    Notes
    -----
    Widths are ``\textwidth`` and, of two columns, ``\columnwidth`` of the kits: ``cvpr.sty`` (6.875 in, columns
    0.3125 in apart: 3.28 in), ``icml2024.sty``, ``aistats2025.sty`` and UAI's instructions (6.75 in, 0.25 in apart),
    ``aaai24.sty`` (7.0 in, 0.375 in apart: 3.31 in), ``acl.sty`` (16 cm, 0.6 cm apart), ``neurips_2024.sty``,
    ``iclr2025_conference.sty`` and ``colm2024_conference.sty`` (5.5 in), ``eccv.sty`` with Springer's ``llncs.cls``
    (122 mm), ``tmlr.sty`` (6.5 in, set in Computer Modern Bright: no serifs), ``jmlr2e.sty`` (6.0 in). Letters with
    serifs are STIX's, cut as Times are and shipped with matplotlib, so that a figure is the same on every machine; they
    also stand for Computer Modern (ECCV, AISTATS, JMLR) and Palatino (COLM), of which matplotlib ships no font with the
    signs that figures need (cmr10 has neither < nor a multiplication sign).

    Examples
    --------
    >>> import matplotlib as mpl
    >>> size = mpl.rcParams["font.size"]
    >>> with style("icml") as venue:
    ...     venue.column, mpl.rcParams["font.size"], mpl.rcParams["font.family"][0]
    (3.25, 8.0, 'STIXGeneral')
    >>> mpl.rcParams["font.size"] == size
    True
    """
    name = current() if venue is None else venue.lower()
    if name not in VENUES:
        raise InputError(f"unknown venue {venue!r}: choose one of {', '.join(VENUES)}")
    nested = venue is None and _venue.get() is not None
    settings: Any = {} if nested else {**_RC}
    if font is not None or not nested:
        settings |= _faces(font or ("serif" if venue is not None and VENUES[name].serif else "sans"))
    token = _venue.set(name)
    try:
        # inside a style of the user's own, its overrides must survive a display's own entry
        settings |= overrides
        with mpl.rc_context(settings):
            yield VENUES[name]
            # A notebook's first figure loads its backend, which switches interactive mode on: without it no later
            # figure is shown.
            interactive = mpl.is_interactive()
        mpl.interactive(interactive)
    finally:
        _venue.reset(token)


def _faces(font: str) -> dict[str, Any]:
    """Name the families of letters and of formulas; what a family lacks is taken from DejaVu, which is always there."""
    if font == "sans":
        return {"font.family": ["DejaVu Sans"], "mathtext.fontset": "dejavusans"}
    if font == "serif":
        return {"font.family": ["STIXGeneral", "DejaVu Serif"], "mathtext.fontset": "stix"}
    from matplotlib import font_manager

    if font not in font_manager.get_font_names():
        raise InputError(f"font {font!r} is not installed: choose serif, sans, or one that matplotlib finds")
    return {"font.family": [font, "DejaVu Sans"], "mathtext.fontset": "custom", "mathtext.rm": font}


def current() -> str:
    """Return the name of the enclosing :func:`style`'s venue, or that of the usual widths, "cvpr"."""
    return _venue.get() or _USUAL


def figure_width(columns: int = 1) -> float:
    """Return the inches of one column or, with 2, of the page, at the current venue."""
    venue = VENUES[current()]
    return venue.column if columns == 1 else venue.page


_RC: dict[str, Any] = {
    "pdf.fonttype": 42,  # TrueType: text stays text, and submission checkers accept it
    "ps.fonttype": 42,
    "svg.fonttype": "path",  # the same letters wherever it is opened
    "svg.hashsalt": "biaslab",  # the same figure is the same file
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "grid.linewidth": 0.4,
    "grid.color": "0.88",
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.0,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "image.interpolation": "nearest",  # a smoothed map invents structure between tokens
}
