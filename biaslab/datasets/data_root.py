"""Where data lie: where a path says, else below one folder, the data root (``--data-root``, ``BIASLAB_DATA``)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from biaslab.errors import InputError

__all__ = ["VARIABLE", "find_file", "find_folder", "find_path", "not_there", "places", "resolve_data_root"]

VARIABLE = "BIASLAB_DATA"


def resolve_data_root(folder: str | Path | None = None) -> Path | None:
    """Return the data root: ``folder``, else what the environment variable ``BIASLAB_DATA`` holds, else None.

    For functions that open data by name, at the start: below them the root is an argument, never the variable.
    """
    root = folder or os.environ.get(VARIABLE)
    return Path(root).expanduser() if root else None


def places(path: str | Path, root: Path | None) -> list[Path]:
    """List where ``path`` is looked for: as it is, then below ``root``, unless it is absolute or there is no root."""
    path = Path(path).expanduser()
    return [path] if root is None or path.is_absolute() else [path, root / path]


def find_file(path: str | Path, root: Path | None) -> Path | None:
    """Return the first of :func:`places` that is a file, or None."""
    return next((place for place in places(path, root) if place.is_file()), None)


def find_folder(path: str | Path, root: Path | None) -> Path | None:
    """Return the first of :func:`places` that is a folder, or None."""
    return next((place for place in places(path, root) if place.is_dir()), None)


def find_path(path: str | Path, root: Path | None) -> Path | None:
    """Return the first of :func:`places` that is there, file or folder, or None."""
    return next((place for place in places(path, root) if place.exists()), None)


def not_there(problem: str, looked: Iterable[Path], fix: str = "") -> InputError:
    """Word the error for data that are in none of the places ``looked`` at: one line that names all and the fix."""
    fix = fix or f"give a path that exists, or the folder it is relative to as data root (--data-root, {VARIABLE})"
    return InputError(f"{problem} (looked at {', '.join(map(str, dict.fromkeys(looked)))}): {fix}")
