"""Where the maps of a fit lie that needs every image's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biaslab.errors import InputError

__all__ = ["maps_on_disk"]


@contextmanager
def maps_on_disk(maps: str | Path | None, target: Path | None, *, why: str) -> Iterator[Path]:
    """Yield the folder of the maps: ``maps``, or one beside the profile's file, which is gone after the block.

    A block that raises leaves its maps, and the same call goes on with them.

    Parameters
    ----------
    maps : str or Path, optional
    target : Path, optional
        Profile file.
    why : str
        What is said where there is neither.

    Raises
    ------
    InputError
        Neither is given.
    """
    if maps is not None:
        yield Path(maps)
        return
    if target is None:
        raise InputError(f"{why}: pass maps=folder, or out=file")
    folder = target.with_suffix(".partial-maps")
    yield folder
    shutil.rmtree(folder)
