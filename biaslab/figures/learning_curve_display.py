"""How the student of a conditional profile came to what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from biaslab._util.number_text import count_text
from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name
from biaslab.figures.fitting import wrapped
from biaslab.figures.styling import COLORS, figure_width, style

if TYPE_CHECKING:
    from biaslab.profiles import LookaheadProfile

__all__ = ["LearningCurveDisplay"]


class LearningCurveDisplay(Display):
    """Loss on the prompts a student learns from and cross entropy on held-out images, epoch by epoch.

    The dotted line is the entropy of the teacher's own maps, which no student falls below; the ring is the epoch that
    was kept, the best on what was held out.

    ``data`` is the curve: epoch, train, held_out, floor.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> curve = pd.DataFrame({"epoch": [0, 1, 2], "train": [4.0, 3.5, 3.2], "held_out": [3.9, 3.6, 3.7], "floor": 3.1})
    >>> display = LearningCurveDisplay.from_curve(curve).plot()
    >>> display.best, display.ax_.get_ylabel()
    (1, 'cross entropy (nats)')
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str = "", *, provenance: Any = None) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_profile(cls, profile: LookaheadProfile) -> LearningCurveDisplay:
        """Read a fitted or loaded conditional profile.

        Parameters
        ----------
        profile : LookaheadProfile

        Returns
        -------
        LearningCurveDisplay

        Raises
        ------
        InputError
            A profile without a learning curve: a positional one, or one of an earlier version.
        """
        curve = getattr(profile, "curve_", None)
        if curve is None or not len(curve):
            raise InputError("this profile has no learning curve: fit a conditional one (LookaheadProfile)")
        p = profile.provenance_
        model = model_name(p) or "model"
        learned = f"learned from {count_text(p['learned_from'], 'prompt')}"
        return cls(curve, f"{model}, {profile.name} profile, {learned}", provenance=p)

    @classmethod
    def from_curve(cls, curve: pd.DataFrame) -> LearningCurveDisplay:
        """Take a curve as `biaslab.LookaheadProfile` keeps it in ``curve_``.

        Parameters
        ----------
        curve : DataFrame
            Columns epoch, train, held_out, floor.

        Returns
        -------
        LearningCurveDisplay

        Raises
        ------
        InputError
            An empty table, or one without these columns.
        """
        if missing := [name for name in ("epoch", "train", "held_out", "floor") if name not in curve]:
            raise InputError(f"a learning curve has no column {missing[0]!r}: pass profile.curve_")
        if not len(curve):
            raise InputError("the learning curve is empty: pass profile.curve_ of a profile that was fitted")
        return cls(curve)

    @property
    def best(self) -> int:
        """The epoch that was kept."""
        return int(self.data["epoch"].iloc[int(self.data["held_out"].argmin())])

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> LearningCurveDisplay:
        """Draw one panel.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        LearningCurveDisplay
            Self.
        """
        # counted from 1, as one says "25 epochs"
        epoch, best = self.data["epoch"] + 1, self.best + 1
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.62)
            panel.plot(epoch, self.data["train"], color=COLORS[1], linestyle="--", label="learned from (loss)")
            panel.plot(epoch, self.data["held_out"], color=COLORS[0], label="held-out images")
            panel.plot(
                epoch, self.data["floor"], color="black", linewidth=0.8, linestyle=":", label="teacher's entropy"
            )
            panel.plot(
                [best], [self.data["held_out"].min()], marker="o", markersize=5, markerfacecolor="none",
                color=COLORS[0], linestyle="none", label=f"kept: epoch {best}",
            )  # fmt: skip
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_xlabel("epoch")
            panel.set_ylabel("cross entropy (nats)")
            panel.grid(axis="y")
            panel.legend()
            if self.title:
                panel.set_title(wrapped(self.title, figure_width() - 0.7, 8))
        return self
