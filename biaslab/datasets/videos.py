"""Videos as folders of their frames, in the natural order of the names; some of the frames, evenly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from biaslab._util.arguments import as_path
from biaslab._util.number_text import count_text
from biaslab.core.picture_files import suffixes, video_text
from biaslab.datasets.archives import is_archive
from biaslab.datasets.data_root import VARIABLE, not_there, places, resolve_data_root
from biaslab.datasets.image_sources import find_images
from biaslab.datasets.picture_sources import PictureSource
from biaslab.errors import InputError

__all__ = ["ALL", "Video", "check_count", "evenly", "find_videos", "frames_of", "natural"]

#: every frame there is
ALL = "all"


class Video(NamedTuple):
    """Name (the path of its folder below the source) and frames, in order and unread."""

    name: str
    frames: list[Any]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Make a key that sorts names as people do: numbers in them by their value.

    Examples
    --------
    >>> sorted(["10.jpg", "9.jpg", "a2", "a10"], key=natural)
    ['9.jpg', '10.jpg', 'a2', 'a10']
    """
    parts = [part for part in re.split(r"([0-9]+)", name.casefold()) if part]
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def check_count(frames: Any) -> int | None:
    """Read how many frames of each video are wanted: None for all.

    Raises
    ------
    InputError
        Neither "all" nor a whole number above 0.
    """
    if frames == ALL:
        return None
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise InputError(f"frames is a whole number of frames of each video, or {ALL!r}; got {frames!r}")
    return frames


def evenly(frames: Sequence[Any], n: int | None) -> list[Any]:
    """Take n frames evenly: those at the middles of n equal stretches, all where there are no more.

    Parameters
    ----------
    frames : sequence of F
    n : int, optional
        Default all.

    Examples
    --------
    >>> evenly(range(10), 2), evenly(range(10), 4), evenly(range(2), 4)
    ([2, 7], [1, 3, 6, 8], [0, 1])
    """
    if n is None or len(frames) <= n:
        return list(frames)
    return [frames[(2 * k + 1) * len(frames) // (2 * n)] for k in range(n)]


def find_videos(source: str | Path, *, n: int | None = None, data_root: str | Path | None = None) -> list[Video]:
    """List the videos of a folder or archive: every folder in it that holds images is one.

    Parameters
    ----------
    source : str or Path
        Folder, .zip or .tar. Its own name is no video's: images lie in folders below it.
    n : int, optional
        The first videos only.
    data_root : str or Path, optional
        Folder below which a relative source is looked up too; default: the environment variable ``BIASLAB_DATA``.

    Returns
    -------
    list of Video
        In the natural order of their names.

    Raises
    ------
    InputError
        No such folder, no image in it, or images that lie in no folder of their own.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("cat/10.png", "cat/9.png", "dog/1.png"):
    ...         file = Path(folder) / name
    ...         file.parent.mkdir(exist_ok=True)
    ...         Image.new("RGB", (4, 4)).save(file)
    ...     [(video.name, [frame.name for frame in video.frames]) for video in find_videos(folder)]
    [('cat', ['9.png', '10.png']), ('dog', ['1.png'])]
    """
    root = resolve_data_root(data_root)
    found = PictureSource(as_path("source", source), root)
    path = found.path
    if path is None:
        if found.is_dataset or str(source) in ("scenes", "blank", "noise"):
            raise InputError(f"{source} holds no videos: {_FOLDERS}")
        fix = f"{_FOLDERS}, itself or below the data root (--data-root, {VARIABLE})"
        raise not_there(f"no videos {str(source)!r}", places(source, root), fix)
    _refuse_file(path)
    if not path.is_dir() and not is_archive(path):
        raise InputError(f"{source} holds no videos: {_FOLDERS}")
    if path.is_dir() and not _has_picture(path):
        _refuse_videos_in(path)
    groups: dict[str, list[tuple[str, Any]]] = {}
    for picture in find_images(path) if path.is_dir() else found.pictures():
        at = PurePosixPath(found.below(picture))
        if len(at.parts) == 1:
            raise InputError(f"{path} itself holds images ({at.name}): {_FOLDERS}")
        groups.setdefault(str(at.parent), []).append((at.name, picture))
    videos = [
        Video(name, [picture for _, picture in sorted(own, key=lambda frame: natural(frame[0]))])
        for name, own in sorted(groups.items(), key=lambda item: natural(item[0]))
    ]
    return videos[:n]


def frames_of(sources: Sequence[str | Path], n: int | None = None) -> list[Any]:
    """List the frames of one video: those of its folder, in natural order, or images one by one, as given.

    Parameters
    ----------
    sources : sequence of str or Path
        One folder or archive that holds the frames, or one image after the other.
    n : int, optional
        So many of them, evenly (`evenly`); default all.

    Raises
    ------
    InputError
        No image, a folder among several sources, a folder of several videos, or a video file.
    """
    paths = [as_path("image", source).expanduser() for source in sources]
    for path in paths:
        _refuse_file(path)
    if len(paths) > 1:
        if folder := next((path for path in paths if path.is_dir()), None):
            raise InputError(f"{folder} is a folder: give one folder of frames, or images alone")
        return evenly(paths, n)
    (path,) = paths
    if not path.is_dir() and not is_archive(path):
        if path.suffix.lower() in suffixes() and path.is_file():
            raise InputError(f"{path} is one image: give the folder of the frames, or further ones as --image")
        raise InputError(f"no folder of frames: {path}")
    if path.is_dir() and not _has_picture(path):
        _refuse_videos_in(path)
    found = PictureSource(path)
    frames = {found.below(p): p for p in (find_images(path) if path.is_dir() else found.pictures())}
    folders = sorted({str(PurePosixPath(name).parent) for name in frames}, key=natural)
    if len(folders) > 1:
        named = ", ".join(folders[:3])
        raise InputError(
            f"{path} holds {count_text(len(folders), 'folder')} of images ({named} ...): name the folder of the video"
        )
    return evenly([frames[name] for name in sorted(frames, key=natural)], n)


_FOLDERS = "give a folder (or .zip, .tar) that holds one folder of images, the frames, per video"


def _has_picture(folder: Path) -> bool:
    known = suffixes()
    return any(path.suffix.lower() in known for path in folder.rglob("*"))


def _refuse_file(path: Path) -> None:
    if said := video_text(path):
        raise InputError(said)


def _refuse_videos_in(folder: Path) -> None:
    """Refuse a folder of video files, which hold no image that could be listed."""
    for path in sorted(folder.rglob("*")):
        _refuse_file(path)
