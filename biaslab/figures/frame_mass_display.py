"""How much attention each frame of a video draws, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab.diagnostics.tables import rows_of_head
from biaslab.errors import InputError
from biaslab.figures.display import Display
from biaslab.figures.layers import depth_colours, evenly
from biaslab.figures.styling import LINES, style

__all__ = ["FrameMassDisplay"]

_ABREAST = 3  # layers in a row of the legend
_MOST = 6  # lines that can be told apart
_COLUMNS = ("layer", "frames", "frame", "ratio", "ratio_lo", "ratio_hi", "n")


class FrameMassDisplay(Display):
    """Attention share of each frame over that of uniform attention, a line per layer from shallow (dark) to deep.

    Bars are the intervals over prompts. 1 is uniform attention.

    ``data`` is the table of :func:`biaslab.diagnostics.measures.frame_mass.frame_mass` of one head and one number of
    frames.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> table = pd.DataFrame({"layer": 0, "frames": 2, "frame": [0, 1], "ratio": [0.7, 1.3], "n": 40})
    >>> display = FrameMassDisplay.from_table(table.assign(ratio_lo=0.6, ratio_hi=1.4)).plot()
    >>> display.title
    '2 frames, n = 40'
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str, *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, *, head: str | int | None = None, frames: int | None = None
    ) -> FrameMassDisplay:
        """Take the table of the diagnostic ``frame_mass``.

        Parameters
        ----------
        table : DataFrame
            Columns layer, frames, frame, ratio, ratio_lo, ratio_hi, n and, if there, head.
        head : str or int, optional
            Default the mean over heads, where the table has it, else its first head.
        frames : int, optional
            Number of frames; default that of most prompts.

        Returns
        -------
        FrameMassDisplay

        Raises
        ------
        InputError
            Columns are missing, no rows, or a head or number of frames that the table does not hold.
        """
        if not len(table) or (missing := [c for c in _COLUMNS if c not in table]):
            what = "it is empty" if not len(table) else f"no column {missing[0]!r}"
            raise InputError(f"nothing to draw ({what}): pass the table of the diagnostic 'frame_mass'")
        rows, name = rows_of_head(table, head)
        count = int(rows["frames"].to_numpy()[rows["n"].to_numpy().argmax()]) if frames is None else frames
        if count not in set(rows["frames"]):
            raise InputError(f"the table has no videos of {count} frames: choose one of {sorted(set(rows['frames']))}")
        rows = rows[rows["frames"] == count].reset_index(drop=True)
        title = ([] if name == "mean" else [f"head {name}"]) + [f"{count} frames", f"n = {int(rows['n'].max())}"]
        return cls(rows, ", ".join(title), provenance=table)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> FrameMassDisplay:
        """Draw one panel; of many layers six at even steps.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        FrameMassDisplay
            Self.
        """
        every = sorted(set(self.data["layer"]))
        layers = evenly(every, _MOST)
        colours = depth_colours(len(layers))
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.66)
            panel.axhline(1, color="black", linewidth=0.5, linestyle=":", zorder=1)
            for i, layer in enumerate(layers):
                part = self.data[self.data["layer"] == layer].sort_values("frame")
                at = part["frame"].to_numpy() + 1 + 0.06 * (i - (len(layers) - 1) / 2)  # bars beside each other
                y = part["ratio"].to_numpy()
                ends = np.maximum(np.stack([y - part["ratio_lo"], part["ratio_hi"] - y]), 0)
                panel.errorbar(
                    at, y, yerr=ends, color=colours(i), linewidth=0.9, elinewidth=0.5, marker="o", markersize=2.5,
                    label=f"layer {layer}", linestyle=LINES[i % len(LINES)],
                )  # fmt: skip
            count = int(self.data["frames"].iloc[0])
            ticks = evenly(range(1, count + 1), 8)
            panel.set_xticks(ticks, [str(k) for k in ticks])
            panel.minorticks_off()
            panel.set_xlabel("frame")
            panel.set_ylabel("attention relative to uniform")
            rows = -(-len(layers) // _ABREAST)
            panel.set_ylim(0, panel.get_ylim()[1] * (1 + 0.12 * rows))  # room for the legend above the bars
            panel.grid(axis="y")
            panel.legend(fontsize=6, loc="upper center", ncols=min(len(layers), _ABREAST))
            few = f", {len(layers)} of {len(every)} layers" if len(layers) < len(every) else ""
            panel.set_title(f"{self.title}{few}", pad=3)
        return self
