"""The tokens each method keeps of every frame of a video, drawn on the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import Display, image_array
from biaslab.figures.fitting import snug, title_above, wrapped
from biaslab.figures.kept_display import KEPT, THUMBNAIL, cells, faded, outline, quoted, selected_tokens
from biaslab.figures.styling import SMALLEST, figure_width, style

__all__ = ["KeptFramesDisplay"]

_PER_ROW = 8


class KeptFramesDisplay(Display):
    r"""A row per method and a panel per frame: kept tokens in full colour, dropped ones faded.

    More than eight frames of a method go on in the next row. ``data`` has a line per method, frame and kept token:
    method, frame (from 0), token, tile, row, col, thumbnail.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from PIL import Image
    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
    >>> display = KeptFramesDisplay.from_selections(
    ...     [Image.new("RGB", (64, 64))] * 2, [layout] * 2, {"fastv": [[0, 5], []], "random": [[3], [6]]}
    ... ).plot()
    >>> display.data[["method", "frame", "token", "row", "col"]]
       method  frame  token  row  col
    0   fastv      0      0    0    0
    1   fastv      0      5    1    1
    2  random      0      3    0    3
    3  random      1      6    1    2
    >>> [ax.get_title(loc="left") for ax in display.ax_][:2]
    ['fastv\nframe 1: 2 of 16', 'frame 2: 0 of 16']
    >>> plt.close(display.figure_)
    """

    def __init__(
        self, data: pd.DataFrame, images: list[np.ndarray], layouts: Sequence[TokenLayout], methods: Sequence[str],
        question: str | None, title: str | None = None, *, provenance: Any,
    ) -> None:  # fmt: skip
        super().__init__(data, provenance)
        self.title = title
        self.images, self.layouts, self.methods, self.question = images, list(layouts), list(methods), question

    @classmethod
    def from_selections(
        cls,
        frames: Sequence[Any],
        layouts: Sequence[TokenLayout],
        selections: Mapping[str, Sequence[Any]],
        *,
        question: str | None = None,
        title: str | None = None,
        model: Any = None,
    ) -> KeptFramesDisplay:
        """Take what the methods chose of each frame.

        Parameters
        ----------
        frames : sequence of PIL images
        layouts : sequence of TokenLayout
            Of their tokens.
        selections : mapping of str
            Method name -> for each frame a Selection, or the indices of the kept tokens.
        question : str, optional
            Shown above the panels.
        title : str, optional
            What else is said there, such as "10 % kept before layer 4".
        model : VLM or str, optional
            The model that was pruned, or its name: the figure of a rehearsal says so.

        Returns
        -------
        KeptFramesDisplay

        Raises
        ------
        InputError
            No selection, not one per frame, or an index outside a layout.
        """
        if not selections or not frames:
            raise InputError("no selections to draw: pass frames and at least one method's kept tokens")
        rows = []
        for name, chosen in selections.items():
            if len(chosen) != len(frames) or len(layouts) != len(frames):
                raise InputError(f"{name}: {len(chosen)} selections and {len(layouts)} layouts of {len(frames)} frames")
            for k, (selection, layout) in enumerate(zip(chosen, layouts, strict=True)):
                kept = selected_tokens(selection, layout, where=f"{name}, frame {k}: ")
                places = {"tile": layout.tile, "row": layout.row, "col": layout.col, "thumbnail": layout.thumbnail}
                at = {column: values[kept] for column, values in places.items()}
                rows.append(pd.DataFrame({"method": name, "frame": k, "token": kept, **at}))
        data = pd.concat([row for row in rows if len(row)] or rows, ignore_index=True)
        images = [image_array(frame) for frame in frames]
        return cls(data, images, layouts, list(selections), question, title, provenance=model)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> KeptFramesDisplay:
        """Draw a panel per method and frame.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per panel, method after method; default a new figure.

        Returns
        -------
        KeptFramesDisplay
            Self.
        """
        count = len(self.images)
        per_row = min(count, _PER_ROW)
        rows = -(-count // per_row)
        shape = self.images[0].shape
        with style():
            axes = self._axes(
                ax, count * len(self.methods) if ax is not None else rows * per_row * len(self.methods), per_row,
                columns=2, ratio=shape[0] / shape[1] + 0.28, extra=0.4, layout="compressed",
            )  # fmt: skip
            if ax is None:  # the last row of each method may be shorter
                panels = [axes[(m * rows * per_row) + k] for m in range(len(self.methods)) for k in range(count)]
                for empty in set(axes) - set(panels):
                    empty.remove()
                axes, self.ax_ = panels, np.array(panels, dtype=object)
            room = figure_width(2) / per_row - 0.06 if ax is None else np.inf
            for i, panel in enumerate(axes):
                self._panel(panel, self.methods[i // count], i % count, room)
            if ax is None:
                said = ": ".join(text for text in (quoted(self.question), self.title) if text)
                if said:
                    title_above(self._drawn_figure(), said)
                snug(self._drawn_figure(), axes)
        return self

    def _panel(self, ax: Axes, method: str, frame: int, room: float) -> None:
        image, layout = self.images[frame], self.layouts[frame]
        part = self.data[(self.data["method"] == method) & (self.data["frame"] == frame)]
        tiles = part[~part["thumbnail"].astype(bool)]
        ax.imshow(faded(image, layout, tiles["token"].to_numpy()))
        for rows, look in ((tiles, KEPT), (part[part["thumbnail"].astype(bool)], THUMBNAIL)):
            outline(ax, cells(layout, rows["token"].to_numpy(), image.shape[:2]), look)
        ax.set(xticks=[], yticks=[], xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
        ax.spines[:].set_visible(False)
        count = f"frame {frame + 1}: {len(part)} of {layout.n}"
        said = [wrapped(count, room, SMALLEST)] if frame else [method, wrapped(count, room, SMALLEST)]
        ax.set_title("\n".join(said), fontsize=SMALLEST, pad=2, loc="left")
