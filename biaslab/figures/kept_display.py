"""The tokens each method keeps, drawn on the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D

from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import ANSWER, TARGET, Display, draw_box, image_array, model_name, paint
from biaslab.figures.fitting import legend_below, snug, title_above, wrapped
from biaslab.figures.styling import SMALLEST, figure_width, style

__all__ = [
    "FADED", "KEPT", "THUMBNAIL", "KeptTokensDisplay", "cells", "faded", "outline", "quoted", "selected_tokens",
]  # fmt: skip

FADED = 0.5  # how far dropped tokens are taken to white
_TITLE, _NARROW = 7.0, 1.2  # points of the panels' titles, and inches of panels below which they are smaller

_PIVOT: dict[str, Any] = {"edgecolor": "#E69F00", "linewidth": 1.1}
KEPT: dict[str, Any] = {"edgecolor": "#303030", "linewidth": 0.4}
THUMBNAIL: dict[str, Any] = {"edgecolor": "#CC79A7", "linewidth": 0.9, "linestyle": ":"}


class KeptTokensDisplay(Display):
    """A panel per method: kept tokens in full colour, dropped ones faded; pivots, target and answer outlined.

    The unpruned model's panel, where there is one, is the first and shows the image as it is. Tokens of a thumbnail,
    which show the same places as the tiles', are outlined with dots and do not lift the fading.

    ``data`` has a line per method and kept token: method, token, tile, row, col, thumbnail, pivot, on_target
    (share of the cell that the target covers), and the answer's IoU.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from PIL import Image
    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
    >>> display = KeptTokensDisplay.from_selections(
    ...     Image.new("RGB", (64, 64)), layout, {"fastv": [0, 5], "random": [3, 6]}, target=Box(16, 16, 48, 48)
    ... ).plot()
    >>> display.data[["method", "token", "row", "col", "on_target"]].head()
       method  token  row  col  on_target
    0   fastv      0    0    0        0.0
    1   fastv      5    1    1        1.0
    2  random      3    0    3        0.0
    3  random      6    1    2        1.0
    >>> plt.close(display.figure_)
    """

    def __init__(
        self, data: pd.DataFrame, image: np.ndarray, layout: TokenLayout, target: Box | None,
        answers: Mapping[str, Box | None], expression: str | None, title: str | None = None, *,
        unpruned: Sequence[str] = (), provenance: Any,
    ) -> None:  # fmt: skip
        super().__init__(data, provenance)
        self.title, self.unpruned = title, list(unpruned)
        self.image, self.layout = image, layout
        self.target, self.answers, self.expression = target, dict(answers), expression

    @classmethod
    def from_selections(
        cls,
        image: Any,
        layout: TokenLayout,
        selections: Mapping[str, Any],
        *,
        target: Box | None = None,
        answers: Mapping[str, Box | None] | None = None,
        pivots: Mapping[str, Any] | None = None,
        expression: str | None = None,
        title: str | None = None,
        model: Any = None,
    ) -> KeptTokensDisplay:
        """Take what the methods chose for one image.

        Parameters
        ----------
        image : PIL image
            The one that was pruned.
        layout : TokenLayout
            Of its tokens.
        selections : mapping of str
            Method name -> Selection, or the indices of the kept tokens; None for the unpruned model, whose panel comes
            first. One panel each, in this order.
        target : Box, optional
            Of the expression, in pixels of the original image.
        answers : mapping of str to Box, optional
            Method name -> answered box, None for an answer without a box.
        pivots : mapping of str, optional
            Method name -> indices of the pivots; default ``selection.info["pivot_indices"]`` where a method reports
            them.
        expression : str, optional
            Shown above the panels.
        title : str, optional
            What else is said there, such as "10 % kept before layer 4".
        model : VLM or str, optional
            The model that was pruned, or its name, which the title begins with: the figure of a rehearsal says so.

        Returns
        -------
        KeptTokensDisplay

        Raises
        ------
        InputError
            No selection, or an index outside the layout.
        """
        if not selections:
            raise InputError("no selections to draw: pass at least one method's kept tokens")
        answers, pivots = answers or {}, pivots or {}
        tables = []
        unpruned = [name for name, selection in selections.items() if selection is None]
        for name in [*unpruned, *(name for name in selections if name not in unpruned)]:
            selection = range(layout.n) if name in unpruned else selections[name]
            kept = selected_tokens(selection, layout, where=f"{name}: ")
            info = getattr(selection, "info", None) or {}
            marked = _token_numbers(pivots.get(name, info.get("pivot_indices", ())))
            answer = answers.get(name)
            overlap = np.full(layout.n, np.nan) if target is None else layout.overlap(target)
            tables.append(
                pd.DataFrame(
                    {
                        "method": name,
                        "token": kept,
                        "tile": layout.tile[kept],
                        "row": layout.row[kept],
                        "col": layout.col[kept],
                        "thumbnail": layout.thumbnail[kept],
                        "pivot": np.isin(kept, marked),
                        "on_target": overlap[kept],
                        "iou": np.nan if answer is None or target is None else float(answer.iou(target)),
                    }
                )
            )
        data = pd.concat(tables, ignore_index=True)
        return cls(
            data,
            image_array(image),
            layout,
            target,
            {m: answers.get(m) for m in selections} if answers else {},
            expression,
            ", ".join(text for text in (model_name(model), title) if text),
            unpruned=unpruned,
            provenance=model,
        )

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> KeptTokensDisplay:
        """Draw a panel per method.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per panel; default a new figure.

        Returns
        -------
        KeptTokensDisplay
            Self.
        """
        methods = list(dict.fromkeys(self.data["method"]))
        shape = self.image.shape
        with style():
            wide = len(methods) > 4
            per_row = min(
                len(methods),
                5 if len(methods) > 8 else 4 if len(methods) > 6 else 3 if wide or len(methods) == 3 else 2,
            )
            columns = 2 if wide else 1
            axes = self._axes(
                ax, len(methods), per_row, columns=columns, ratio=shape[0] / shape[1] + 0.25, extra=0.6,
                layout="compressed",
            )  # fmt: skip
            room = figure_width(columns) / per_row - 0.08 if ax is None else np.inf
            for panel, method in zip(axes, methods, strict=True):
                self._panel(panel, method, room)
            if ax is None:
                figure, said = self._drawn_figure(), quoted(self.expression)
                if title := ": ".join(text for text in (said, self.title) if text):
                    title_above(figure, title)
                if handles := self._handles():
                    legend_below(figure, handles, [str(handle.get_label()) for handle in handles])
                snug(figure, axes)
        return self

    def _panel(self, ax: Axes, method: str, room: float) -> None:
        part = self.data[self.data["method"] == method]
        shape, size = self.image.shape[:2], self.layout.size
        tiles = part[~part["thumbnail"]]
        whole = method in self.unpruned
        ax.imshow(self.image if whole else faded(self.image, self.layout, tiles["token"].to_numpy()))
        for rows, look in () if whole else (
            (tiles[~tiles["pivot"]], KEPT),
            (part[part["thumbnail"] & ~part["pivot"]], THUMBNAIL),
            (part[part["pivot"]], _PIVOT),
        ):  # fmt: skip
            outline(ax, cells(self.layout, rows["token"].to_numpy(), shape), look)
        if self.target is not None:
            draw_box(ax, self.target, shape, size, TARGET)
        answer = self.answers.get(method)
        if answer is not None:
            draw_box(ax, answer, shape, size, ANSWER)
        ax.set(xticks=[], yticks=[], xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
        ax.spines[:].set_visible(False)
        count = f"all {self.layout.n} tokens" if whole else f"{len(part)} of {self.layout.n}"
        if self.answers and answer is None:
            count += ", no box"
        elif len(part) and np.isfinite(part["iou"].iloc[0]):
            count += f", IoU {part['iou'].iloc[0]:.2f}"
        size_ = _TITLE if room > _NARROW else SMALLEST
        ax.set_title("\n".join(wrapped(line, room, size_) for line in (method, count)), fontsize=size_, pad=3)

    def _handles(self) -> list[Line2D]:
        looks = [(TARGET, "target")] if self.target is not None else []
        looks += [(ANSWER, "answer")] if any(a is not None for a in self.answers.values()) else []
        looks += [(_PIVOT, "pivot")] if self.data["pivot"].any() else []
        looks += [(THUMBNAIL, "thumbnail token")] if self.data["thumbnail"].any() else []
        return [
            Line2D(
                [],
                [],
                color=look["edgecolor"],
                linestyle=look.get("linestyle", "-"),
                linewidth=1.4,
                label=label,
            )
            for look, label in looks
        ]


def quoted(text: str | None) -> str:
    """Put an expression or question into quotation marks; "" where there is none."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}" if text else ""


def outline(ax: Axes, corners: np.ndarray, look: Mapping[str, Any]) -> None:
    """Outline cells of tokens, whole also where they lie at the image's edge."""
    ax.add_collection(PolyCollection(list(corners), facecolor="none", zorder=4, clip_on=False, **look))


def faded(image: np.ndarray, layout: TokenLayout, kept: np.ndarray) -> np.ndarray:
    """Fade what no kept token of a tile shows, so far that objects can still be told: (rows, cols, 3)."""
    here = np.zeros(layout.n)
    here[kept] = 1.0
    lifted = np.nan_to_num(paint(here, layout, image.shape[:2]))[..., None] > 0
    return np.where(lifted, image, FADED + (1 - FADED) * image.mean(axis=2, keepdims=True))


def cells(layout: TokenLayout, tokens: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the (n, 4, 2) corners of token cells on an image of (rows, cols)."""
    scale = [shape[1], shape[0], shape[1], shape[0]]
    x0, y0, x1, y1 = (layout.boxes[tokens] * scale - 0.5).T
    return np.stack([np.stack([x, y], -1) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], axis=1)


def selected_tokens(selection: Any, layout: TokenLayout, *, where: str = "") -> np.ndarray:
    """Read the numbers of the kept tokens of a Selection, a sequence, an array or a tensor.

    Raises
    ------
    InputError
        A number outside the layout; the message begins with ``where``.
    """
    chosen = getattr(selection, "info", None) is not None  # tensors too have an attribute "indices"
    tokens = _token_numbers(selection.indices if chosen else selection)
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < layout.n:
        raise InputError(f"{where}token indices must be between 0 and {layout.n - 1}")
    return tokens


def _token_numbers(values: Any) -> np.ndarray:
    """Read the numbers of tokens from a sequence, an array, or a tensor on any device."""
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return values.astype(np.int64).reshape(-1)
