"""Which words of a question the student of a conditional profile looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name
from biaslab.figures.fitting import wrapped
from biaslab.figures.styling import COLORS, ERRORBAR, figure_width, style

if TYPE_CHECKING:
    from biaslab.profiles import LookaheadProfile

__all__ = ["WordWeightsDisplay"]

_PER_BAR = 0.125  # inches
_BLANK = "blank"  # what a token of white space is called
_GROUPS = ("weigh most", "draw most of the rest", "occur most")
_LOOKS = (COLORS[0], COLORS[3], COLORS[6])


class WordWeightsDisplay(Display):
    """Mean weight of the tokens that weigh most, then of those that draw most of the rest, then of the most frequent.

    The weights of the tokens of one question sum to 1. Whiskers are 95 % intervals over occurrences; the dotted line is
    the weight of a token where all weigh alike.

    ``data`` has a line per bar: token, n, weight, se, share (of all weight), even, group ("weigh most", "draw most of
    the rest" or "occur most").

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> words = pd.DataFrame(
    ...     {"token": ["cup", "red", "the"], "n": [9, 4, 20], "weight": [0.8, 0.2, 0.01], "share": [0.7, 0.1, 0.02]}
    ... ).assign(se=0.01, even=0.1)
    >>> display = WordWeightsDisplay.from_words(words, most=1, rest=1).plot()
    >>> display.data[["token", "group"]].values.tolist()
    [['cup', 'weigh most'], ['red', 'draw most of the rest'], ['the', 'occur most']]
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str = "", *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_words(
        cls,
        words: pd.DataFrame,
        *,
        most: int = 20,
        rest: int = 5,
        frequent: int = 5,
        least: int = 3,
        profile: LookaheadProfile | None = None,
    ) -> WordWeightsDisplay:
        """Take what `biaslab.profiles.lookahead.learned.word_weights` measured.

        Parameters
        ----------
        words : DataFrame
            Columns token, n, weight, se, share, even.
        most : int
            Bars of the tokens of the largest mean weight.
        rest : int
            Bars of those that draw most of all weight and are not among them: words that are shared by many questions.
        frequent : int
            Bars of those that occur most often and are in neither.
        least : int
            Occurrences below which a token is left out; where none has as many, all are drawn.
        profile : LookaheadProfile, optional
            That was measured, for the title.

        Returns
        -------
        WordWeightsDisplay

        Raises
        ------
        InputError
            An empty table, or one without these columns.
        """
        if missing := [name for name in ("token", "n", "weight", "se", "share", "even") if name not in words]:
            raise InputError(f"words has no column {missing[0]!r}: pass what word_weights() returned")
        if not len(words):
            raise InputError("there is no word to draw: pass what word_weights() returned")
        known = words[words["n"] >= least] if (words["n"] >= least).any() else words
        heavy = known.nlargest(most, "weight")
        drawing = known.drop(heavy.index).nlargest(rest, "share")
        common = known.drop(heavy.index).drop(drawing.index).nlargest(frequent, "n")
        parts = [table.assign(group=name) for name, table in zip(_GROUPS, (heavy, drawing, common), strict=True)]
        data = pd.concat(parts, ignore_index=True)
        title = ""
        if profile is not None:
            model = model_name(profile.provenance_) or "model"
            title = f"{model}, words that weigh"
        return cls(data, title, provenance=None if profile is None else profile.provenance_)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> WordWeightsDisplay:
        """Draw one panel of bars.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        WordWeightsDisplay
            Self.
        """
        group = self.data["group"].map({name: i for i, name in enumerate(dict.fromkeys(self.data["group"]))}).to_numpy()
        at = np.arange(len(self.data)) + 1.1 * group  # above each group there is room for its name
        weight, half = self.data["weight"], self._half_width()
        ends = np.stack([half.clip(upper=weight), half.clip(upper=1 - weight)])
        with style():
            (panel,) = self._axes(ax, 1, ratio=(_PER_BAR * (at[-1] + 2) + 0.6) / figure_width())
            panel.barh(
                at, weight, height=0.72, color=[_LOOKS[i] for i in group],
                xerr=ends, error_kw={**ERRORBAR, "capsize": 0},
            )  # fmt: skip
            panel.axvline(self.data["even"].mean(), color="black", linewidth=0.7, linestyle=":")
            names = zip(self.data["token"], self.data["n"], strict=True)
            labels = [f"{token.strip() or _BLANK} ({n:,})" for token, n in names]
            panel.set_yticks(at, labels, fontsize=6, parse_math=False)
            panel.tick_params(axis="y", length=0)
            panel.set_ylim(at.max() + 0.6, -1.3)
            panel.set_xlim(0, min(1.0, 1.05 * float((weight + half).max())))
            panel.set_xlabel("mean weight (occurrences in brackets)")
            panel.grid(axis="x")
            for i, name in enumerate(dict.fromkeys(self.data["group"])):
                panel.text(
                    panel.get_xlim()[1], at[group == i].min() - 0.5, name, ha="right", va="bottom", fontsize=6,
                    color=_LOOKS[i],
                )  # fmt: skip
            if self.title:
                panel.set_title(wrapped(self.title, figure_width() - 0.7, 8))
        return self

    def _half_width(self) -> pd.Series:
        """Half the width of the 95 % interval by Student's t; 0 for a token that occurs once."""
        se, n = self.data["se"].fillna(0), self.data["n"].clip(lower=2)
        return se * stats.t.ppf(0.975, n - 1)
