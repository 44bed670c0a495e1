"""Image files: which formats are opened, under which suffixes, and how an image is turned upright.

One list serves the opening and every reader of folders: the formats of Pillow (and of plug-ins that registered
themselves with it) that have a suffix and a decoder of their own.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageFile, UnidentifiedImageError

from biaslab.errors import InputError

__all__ = ["as_stored", "open_file", "orientation", "suffixes", "upright", "video_text"]

_HEIC = frozenset({".heic", ".heif", ".hif"})
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEIC_FIX = "a HEIC image needs a plug-in: pip install pillow-heif, or save it as JPEG"
# video; and PostScript, which Pillow hands to an external interpreter
_REFUSED = frozenset({"MPEG", "EPS"})
_VIDEO = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv"})
# several images in these files are views or layers of the first one, no animation
_FIRST_IS_ALL = frozenset({"MPO", "PSD", "ICO", "ICNS", "CUR"})
_ORIENTATION = 0x0112
#: EXIF orientation -> how the stored pixels are turned upright
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = _TURN | {6: _TURN[8], 8: _TURN[6]}  # the others are their own inverse
_GREY_LEVELS = {"L;2": 85, "L;4": 17}  # grey levels of 8 bits per level of 2 and 4 bits


def suffixes() -> frozenset[str]:
    """List the suffixes of image files, in lower case; those of HEIC too, so that such files are never passed over.

    Examples
    --------
    >>> {".jpg", ".png", ".webp", ".tiff", ".heic"} <= suffixes(), ".pdf" in suffixes(), ".h5" in suffixes()
    (True, False, False)
    """
    formats = _formats()
    known = Image.registered_extensions().items()
    return _HEIC | {suffix for suffix, name in known if name in formats or name == "MPO"}


def video_text(path: Any) -> str:
    """Say how a video file becomes images; nothing of other files.

    Examples
    --------
    >>> video_text(Path("runs/clip.mp4"))
    'runs/clip.mp4 is a video file: cut it into images, `mkdir runs/clip && ffmpeg -i runs/clip.mp4 -vf fps=1 \
runs/clip/%06d.png`, and name that folder'
    >>> video_text("photo.png")
    ''
    """
    path = Path(path)
    if path.suffix.lower() not in _VIDEO:
        return ""
    into = path.with_suffix("").as_posix()
    return (
        f"{path} is a video file: cut it into images, `mkdir {into} && ffmpeg -i {path} -vf fps=1 {into}/%06d.png`, "
        "and name that folder"
    )


def open_file(file: Any, name: str) -> Image.Image:
    """Open an image file without reading its pixels.

    Parameters
    ----------
    file : path or binary file
    name : str
        For messages.

    Returns
    -------
    PIL.Image.Image
        Of the first frame.

    Raises
    ------
    InputError
        No image, or one that needs a plug-in.
    OSError and others
        What Pillow raises for a damaged header.
    """
    try:
        image: Image.Image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        if isinstance(file, Path) and (said := video_text(file)):
            raise InputError(said) from None
        if not _is_heic(file):
            raise InputError(f"not an image that can be read: {name} (no known format)") from None
        image = _open_heic(file, name)
    rawmode = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    if rawmode in _GREY_LEVELS and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= _GREY_LEVELS[rawmode]  # Pillow scales the pixels and leaves the colour as it is
    return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (1 to 8) of an opened image; 1 where it has none or says nonsense."""
    try:
        tag = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata, which Pillow meets with errors of every class, is no damaged image
        return 1
    return tag if isinstance(tag, int) and tag in _TURN else 1


def upright(image: Image.Image, name: str) -> Image.Image:
    """Read the pixels of the first frame and turn them as the EXIF orientation says.

    Parameters
    ----------
    image : PIL.Image.Image
        It is read, and otherwise left as it is.
    name : str
        For the warning that an animation has more than this frame.

    Returns
    -------
    PIL.Image.Image
        In its own mode.
    """
    # before the pixels: counting the pages of a TIFF moves it off the page that is read
    frames = getattr(image, "n_frames", 1) if image.format not in _FIRST_IS_ALL and image.tell() == 0 else 1
    image.load()  # Pillow reads lazily: only this finds a truncated file (and turns a TIFF upright)
    if frames > 1:
        warnings.warn(f"{name} has {frames} frames: only the first is used", stacklevel=4)
    tag = orientation(image)
    return image.transpose(_TURN[tag]) if tag in _TURN else image


def as_stored(image: Image.Image, tag: int) -> Image.Image:
    """Turn an upright image back to how a file with EXIF orientation ``tag`` stores it.

    Examples
    --------
    >>> as_stored(Image.new("RGB", (3, 4)), 6).size, as_stored(Image.new("RGB", (3, 4)), 3).size
    ((4, 3), (3, 4))
    """
    return image.transpose(_BACK[tag]) if tag in _BACK else image


def _formats() -> list[str]:
    """List the formats that are opened: those with a suffix, and a decoder that is Pillow's or a plug-in's own."""
    with_suffix = set(Image.registered_extensions().values())  # this loads all plug-ins of Pillow
    return [name for name in Image.ID if name in with_suffix - _REFUSED and not _is_stub(Image.OPEN[name][0])]


def _is_stub(opener: Any) -> bool:
    """Whether a format is only recognised: HDF5, GRIB, ... have no decoder in Pillow."""
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)


def _is_heic(file: Any) -> bool:
    if hasattr(file, "read"):
        return _heic_head(file)
    with open(file, "rb") as opened:
        return _heic_head(opened)


def _heic_head(file: IO[bytes]) -> bool:
    file.seek(0)
    head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS


def _open_heic(file: Any, name: str) -> Image.Image:
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise InputError(f"{name} cannot be read: {_HEIC_FIX}") from None
    return Image.open(file, formats=_formats())
