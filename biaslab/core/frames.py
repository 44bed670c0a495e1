"""Where each visual token of several frames lies: frames of a video, or other images that one prompt shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

__all__ = ["FramesLayout", "frames_layout", "parts_of_frames"]

_EACH = ("tile", "row", "col", "thumbnail", "boxes", "in_image")
_DERIVED: Any = None


@dataclass(frozen=True, eq=False, repr=False)
class FramesLayout(TokenLayout):
    """Layout of the tokens of all frames of a prompt, frame after frame; made by `frames_layout`.

    Every token has the tile, row, column and cell that it has in its own frame, so that one place has as many tokens
    as there are frames. ``grid``, ``tiles`` and ``size`` are those of the first frame.

    Attributes
    ----------
    parts : tuple of TokenLayout
        Of each frame, in order.
    frame : (N,) int
        Frame of each token, from 0.
    """

    parts: tuple[TokenLayout, ...] = ()
    frame: np.ndarray = _DERIVED

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = [part.n for part in self.parts]
        frame = np.repeat(np.arange(len(counts)), counts) if self.frame is None else np.asarray(self.frame, np.int64)
        if len(frame) != self.n:
            raise InputError(f"a layout of frames needs the frame of each of its {self.n} tokens, got {len(frame)}")
        frame.flags.writeable = False
        object.__setattr__(self, "frame", frame)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.parts)

    @property
    def centers_px(self) -> np.ndarray:
        """(N, 2) x, y of the cell centres in pixels of each token's own frame."""
        return self.centers * np.array([part.size for part in self.parts], dtype=np.float64)[self.frame]

    @cached_property
    def key(self) -> str:
        """Name of the arrangement: that of the frames and their number."""
        keys = [part.key for part in self.parts]
        name = f"{keys[0]}/frames{self.n_frames}"
        if len(set(keys)) > 1:
            name += "#" + hashlib.sha256("|".join(keys).encode()).hexdigest()[:8]
        if self.n != sum(part.n for part in self.parts):  # of some of the tokens
            places = np.stack([self.frame, self.tile, self.row, self.col])
            name += "/some#" + hashlib.sha256(places.astype("<i8").tobytes()).hexdigest()[:8]
        return name

    def split(self, indices: ArrayLike) -> list[np.ndarray]:
        """Tell frame by frame which tokens are meant by positions among those of all frames.

        Parameters
        ----------
        indices : (K,) array of int
            Such as a selection's.

        Returns
        -------
        list of int arrays
            Positions among the tokens of each frame.
        """
        wanted = np.asarray(indices)
        first = np.searchsorted(self.frame, np.arange(self.n_frames))
        return [wanted[self.frame[wanted] == k] - start for k, start in enumerate(first)]

    def to_dict(self) -> dict:
        """JSON-ready form: the family, the frames that differ, and which of them each frame is."""
        keys = [str(part.to_dict()) for part in self.parts]
        distinct = list(dict.fromkeys(keys))
        layouts = [self.parts[keys.index(key)].to_dict() for key in distinct]
        return {"family": self.family, "frames": [distinct.index(key) for key in keys], "layouts": layouts}


def frames_layout(parts: Sequence[TokenLayout]) -> TokenLayout:
    """Lay out the frames of one prompt, in order.

    Parameters
    ----------
    parts : sequence of TokenLayout
        Of the frames, of one family.

    Returns
    -------
    TokenLayout
        A `FramesLayout`; of a single frame that frame's own layout.

    Raises
    ------
    InputError
        No frame, or frames of several families.

    Examples
    --------
    >>> frame = TokenLayout.raster(2, 2, size=(64, 64), family="internvl")
    >>> layout = frames_layout([frame] * 3)
    >>> layout.key, layout.frame.tolist()
    ('internvl/2x2/tiles1x1/frames3', [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    >>> [own.tolist() for own in layout.split([0, 3, 9])]
    [[0, 3], [], [1]]
    """
    parts = tuple(parts)
    if not parts or len({part.family for part in parts}) > 1:
        raise InputError("frames of one prompt must be at least one, all of one family")
    first = parts[0]
    if len(parts) == 1:
        return first
    starts = np.cumsum([0, *(part.placeholders for part in parts)])
    index = [part.placeholder_index + start for part, start in zip(parts, starts, strict=False)]
    return FramesLayout(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _EACH},
        grid=first.grid, tiles=first.tiles, size=first.size, family=first.family, region=first.region,
        placeholder_index=np.concatenate(index), placeholders=int(starts[-1]), thumbnail_grid=first.thumbnail_grid,
        coverage=first.coverage, parts=parts,
    )  # fmt: skip


def frames_from_dict(data: dict) -> TokenLayout:
    """Rebuild the layout that `FramesLayout.to_dict` wrote."""
    layouts = [TokenLayout.from_dict(each) for each in data["layouts"]]
    return frames_layout([layouts[i] for i in data["frames"]])


def parts_of_frames(layout: TokenLayout) -> list[tuple[TokenLayout, np.ndarray]]:
    """List each frame's layout and where its tokens lie among those of all frames.

    Parameters
    ----------
    layout : TokenLayout
        Of frames, or of one image, which counts as one frame.

    Returns
    -------
    list of (TokenLayout, int array)

    Examples
    --------
    >>> frame = TokenLayout.raster(1, 2, size=(64, 32), family="internvl")
    >>> [(part.n, at.tolist()) for part, at in parts_of_frames(frames_layout([frame, frame]))]
    [(2, [0, 1]), (2, [2, 3])]
    """
    if not isinstance(layout, FramesLayout):
        return [(layout, np.arange(layout.n))]
    return [(part, np.flatnonzero(layout.frame == k)) for k, part in enumerate(layout.parts)]
