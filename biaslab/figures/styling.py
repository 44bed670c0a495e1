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
    "MARKERS",
    "SEQUENTIAL",
    "VENUES",
    "Venue",
    "current",
    "figure_width",
    "style",
]


class Venue(NamedTuple):
    """Text widths in inches of one column and of the full page."""

    column: float
    page: float


#: inches, from the authors' kits
VENUES = {
    "cvpr": Venue(3.25, 6.875),
    "icml": Venue(3.25, 6.75),
    "neurips": Venue(5.5, 5.5),
    "iclr": Venue(5.5, 5.5),
    "aaai": Venue(3.3, 7.0),
}

#: Okabe and Ito's palette, told apart under every common colour blindness; black is left for reference lines
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F", "#B3A500")
MARKERS = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "<",
    ">",
    "X",
)  # methods differ in shape too: grey-scale print keeps them apart

ERRORBAR: dict[str, Any] = {"elinewidth": 0.7, "capsize": 1.6, "capthick": 0.7, "markeredgewidth": 0}

SEQUENTIAL = "YlOrRd"  # amounts of attention: light where there is none, so that an image shows through
DIVERGING = "RdBu_r"  # ratios centred at 1, log ratios and differences centred at 0

_venue: ContextVar[str | None] = ContextVar("biaslab_figure_venue", default=None)


@contextmanager
def style(venue: str | None = None, **overrides: Any) -> Iterator[Venue]:
    """Draw in publication style inside the context; all settings return to what they were after it.

    Displays enter it themselves when they draw. Around them it chooses the venue: ``with style("icml"):
    display.plot()``.

    Parameters
    ----------
    venue : str, optional
        "cvpr", "icml", "neurips", "iclr" or "aaai"; None takes the enclosing context's, else "cvpr".
    **overrides
        Further rcParams, dots written as in matplotlib: ``style("icml", **{"font.size": 9})``.

    Yields
    ------
    Venue
        Widths in inches: ``column``, ``page``.

    Raises
    ------
    InputError
        Unknown venue.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> size = mpl.rcParams["font.size"]
    >>> with style("icml") as venue:
    ...     venue.column, mpl.rcParams["font.size"]
    (3.25, 8.0)
    >>> mpl.rcParams["font.size"] == size
    True
    """
    name = current() if venue is None else venue.lower()
    if name not in VENUES:
        raise InputError(f"unknown venue {venue!r}: choose one of {', '.join(VENUES)}")
    nested = venue is None and _venue.get() is not None
    token = _venue.set(name)
    try:
        # inside a style of the user's own, its overrides must survive a display's own entry
        settings: Any = overrides if nested else {**_RC, **overrides}
        with mpl.rc_context(settings):
            yield VENUES[name]
            # A notebook's first figure loads its backend, which switches interactive mode on: without it no later
            # figure is shown.
            interactive = mpl.is_interactive()
        mpl.interactive(interactive)
    finally:
        _venue.reset(token)


def current() -> str:
    """Return the name of the enclosing :func:`style`'s venue, or "cvpr"."""
    return _venue.get() or "cvpr"


def figure_width(columns: int = 1) -> float:
    """Return the inches of one column or, with 2, of the page, at the current venue."""
    venue = VENUES[current()]
    return venue.column if columns == 1 else venue.page


_RC: dict[str, Any] = {
    "pdf.fonttype": 42,  # TrueType: text stays text, and submission checkers accept it
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
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
