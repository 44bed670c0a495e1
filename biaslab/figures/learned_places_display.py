"""How the student of a conditional profile leans to places, beside its teacher's profile and a causal probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab._util.number_text import count_text
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name, ratio_ticks
from biaslab.figures.fitting import inward_ticks, snug, title_above, wrapped
from biaslab.figures.profile_display import raster
from biaslab.figures.styling import DIVERGING, SMALLEST, figure_width, style

if TYPE_CHECKING:
    from biaslab.diagnostics.probe import ProbeResult
    from biaslab.profiles import LookaheadProfile

__all__ = ["LearnedPlacesDisplay"]

_TITLES = {"teacher": "teacher's positional profile", "probe": "causal probe of the teacher", "student": "student"}


class LearnedPlacesDisplay(Display):
    """What places draw, in one scale: of the heads that taught, by the causal probe, and of the student.

    The student learned from attention without its positional part; how far its mean over many images still leans to
    places is what it took over all the same, or what the images have there. Below each map stands the factor by which
    it varies (one standard deviation over places), with that of its own noise, and the correlation with the teacher's
    profile.

    ``data`` has a line per token of the tiles: row, col (of the whole raster), teacher, student, se, images and, with
    a probe, probe and probe_se (natural logarithms, centred; NaN where the probe put no object).

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
    >>> places = pd.DataFrame({"thumbnail": False, "teacher": np.linspace(-1, 1, 16), "student": 0.0, "se": 0.1})
    >>> display = LearnedPlacesDisplay.from_places(places.assign(pictures=30), layout).plot()
    >>> [panel.get_title() for panel in display.ax_]
    ["teacher's positional profile", 'student']
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, layout: TokenLayout, title: str = "", *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.layout, self.title = layout, title

    @classmethod
    def from_places(
        cls,
        places: pd.DataFrame,
        layout: TokenLayout,
        *,
        profile: LookaheadProfile | None = None,
        probe: ProbeResult | None = None,
    ) -> LearnedPlacesDisplay:
        """Take what `biaslab.profiles.lookahead.learned.learned_places` measured.

        Parameters
        ----------
        places : DataFrame
            A row per token of the layout.
        layout : TokenLayout
        profile : LookaheadProfile, optional
            That was measured; needed for a probe.
        probe : ProbeResult, optional
            Of the heads that taught (``biaslab probe --layers ... --heads all``), whose maps are weighted as they are.

        Returns
        -------
        LearnedPlacesDisplay

        Raises
        ------
        InputError
            Places of another layout, a probe without the profile, of other heads, or on another grid.
        ProfileMismatchError
            A probe of another model.
        """
        if len(places) != layout.n:
            raise InputError(f"places covers {len(places)} tokens but the layout has {layout.n}")
        row, col = raster(layout)
        tiles = ~layout.thumbnail
        data = places.assign(row=row, col=col)[tiles].drop(columns=["tile", "thumbnail"], errors="ignore")
        data = data.reset_index(drop=True)
        title = ""
        if profile is not None:
            model = model_name(profile.provenance_) or "model"
            pictures = count_text(int(data["pictures"].iloc[0]), "image")
            title = f"{model}, taught by {profile.teacher.names}; student's mean over {pictures}"
        if probe is not None:
            data = data.join(_probe_of(probe, profile, data))
        return cls(data, layout, title, provenance=None if profile is None else profile.provenance_)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> LearnedPlacesDisplay:
        """Draw two panels, three with a probe.

        Parameters
        ----------
        ax : sequence of Axes, optional
            One per panel; default a new figure.

        Returns
        -------
        LearnedPlacesDisplay
            Self.
        """
        names = [name for name in _TITLES if name in self.data]
        rows, cols = (int(self.data[c].max()) + 1 for c in ("row", "col"))
        log = self.data[names].to_numpy() / np.log(2)
        limit = float(np.clip(np.nanquantile(np.abs(log), 0.98), 0.25, 8.0))
        with style():
            axes = self._axes(
                ax, len(names), columns=2 if len(names) > 2 else 1, ratio=rows / cols + 0.25, extra=0.55,
                layout="compressed",
            )  # fmt: skip
            room = figure_width(2 if len(names) > 2 else 1) / len(names) - 0.06 if ax is None else np.inf
            for panel, name in zip(axes, names, strict=True):
                values = np.full((rows, cols), np.nan)
                values[self.data["row"], self.data["col"]] = self.data[name] / np.log(2)
                drawn = panel.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
                panel.set_title(wrapped(_TITLES[name], room, 7), fontsize=7, pad=3)
                panel.set_xlabel(wrapped(self._account(name), room, SMALLEST), fontsize=SMALLEST, labelpad=2)
            figure = self._drawn_figure()
            ticks, labels = ratio_ticks(limit)
            bar = figure.colorbar(
                drawn, ax=axes, location="bottom", fraction=0.05, pad=0.03 if ax is None else 0.14, aspect=45,
                shrink=0.8, extend="both",
            )  # fmt: skip
            inward_ticks(bar, ticks, labels, size=7)
            bar.set_label("attention relative to the mean over places", fontsize=7)
            bar.outline.set_linewidth(0.4)
            if ax is None:
                if self.title:
                    title_above(figure, self.title)
                snug(figure, axes)
        return self

    def _account(self, name: str) -> str:
        """Say by what factor a map varies, with its noise, and how it goes with the teacher's."""
        values = self.data[name]
        text = f"varies by {np.exp(np.nanstd(values)):.2f}\N{MULTIPLICATION SIGN}"
        errors = {"student": "se", "probe": "probe_se"}.get(name)
        if errors is not None and self.data[errors].notna().any():
            noise = float(np.exp(np.sqrt(np.nanmean(self.data[errors] ** 2))))
            text += f" (noise {noise:.2f}\N{MULTIPLICATION SIGN})"
        if name != "teacher":
            both = self.data[["teacher", name]].dropna()
            if both[name].std() > 0 and both["teacher"].std() > 0:
                text += f", r {np.corrcoef(both['teacher'], both[name])[0, 1]:.2f}"
        return text


def _probe_of(probe: ProbeResult, profile: LookaheadProfile | None, places: pd.DataFrame) -> pd.DataFrame:
    """Weight the probe's maps as the heads that taught are: columns probe and probe_se, a row per token."""
    if profile is None:
        raise InputError("a probe is compared by the heads that taught: pass the profile as well")
    asked = {name: probe.settings.get(name) for name in ("model", "revision", "fingerprint", "family")}
    profile.check(**asked)
    rows, cols = (int(places[c].max()) + 1 for c in ("row", "col"))
    if probe.grid != (rows, cols):
        raise InputError(f"the probe has {probe.grid} places, the layout {(rows, cols)}: measure it on that grid")
    heads = profile.teacher.heads
    effect = sum(head.weight * probe.map(head.layer, head.head) for head in heads)
    # of different heads on the same objects: the largest it can be, as if they erred together
    error = sum(head.weight * probe.standard_error(head.layer, head.head) for head in heads)
    at = places["row"], places["col"]
    return pd.DataFrame({"probe": np.asarray(effect)[at], "probe_se": np.asarray(error)[at]})
