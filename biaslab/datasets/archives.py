"""Images in a .zip or .tar, read without unpacking it."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from biaslab._util.text import printable
from biaslab.core.picture_files import suffixes
from biaslab.errors import InputError

__all__ = ["ArchivePicture", "archive_pictures", "is_archive", "member_names", "read_member"]

_TAR = Lock()  # an open tar has one position, which threads would move under each other; a zip has a lock of its own
_SUFFIXES = (".zip", ".tar")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class ArchivePicture:
    """One image in an archive: a plain object, so that it can go to other processes.

    Attributes
    ----------
    archive : Path
    member : str
        Its path in there.
    """

    archive: Path
    member: str

    @property
    def image_id(self) -> str:
        """The image's file name, as of an image in a folder."""
        return printable(PurePosixPath(self.member).name)

    def image(self) -> bytes:
        """Read the image's file."""
        return read_member(self.archive, self.member)

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


def is_archive(path: Path) -> bool:
    """Whether a path is an archive that images are read from.

    Raises
    ------
    InputError
        A compressed tar archive, in which nothing can be found without unpacking all that stands before it.
    """
    if path.name.lower().endswith(_PACKED) and path.is_file():
        raise InputError(
            f"{path} is compressed as a whole, so that no image in it can be read by itself: unpack it, or pack its "
            "images as .zip or .tar"
        )
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def archive_pictures(path: Path) -> list[ArchivePicture]:
    """List the images of an archive, by name; what Apple's archiver adds is left out."""
    known = suffixes()
    return [
        ArchivePicture(path, name)
        for name in sorted(member_names(path))
        if PurePosixPath(name).suffix.lower() in known and not name.startswith("__MACOSX/")
    ]


def member_names(path: Path) -> Set[str]:
    """List the files in an archive."""
    return _opened(path, os.getpid())[1].keys()


def read_member(path: Path, name: str) -> bytes:
    """Read a file of an archive."""
    archive, members = _opened(path, os.getpid())
    try:
        if isinstance(archive, zipfile.ZipFile):
            return archive.read(name)
        with _TAR:
            file = archive.extractfile(members[name])
            if file is None:
                raise KeyError(name)
            return file.read()
    except Exception as error:  # damaged archives fail in many ways
        raise InputError(f"{path}/{name} cannot be read ({error}): fetch the archive again") from None


@lru_cache(maxsize=8)
def _opened(path: Path, pid: int) -> tuple[Any, dict[str, Any]]:
    """Open an archive once per process (an open file must not be shared by two) and list what is in it."""
    try:
        if path.suffix.lower() == ".zip":
            zipped = zipfile.ZipFile(path)
            return zipped, {info.filename: info for info in zipped.infolist() if not info.is_dir()}
        tar = tarfile.open(path, "r:")  # noqa: SIM115 - kept open as long as the process
        return tar, {member.name.removeprefix("./"): member for member in tar if member.isfile()}
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read as an archive ({reason}): fetch it again") from None
