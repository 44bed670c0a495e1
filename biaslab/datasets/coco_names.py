"""File names of COCO images, which every data set writes in its own way."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["image_id", "spellings"]

# COCO_train2014_000000581857.jpg, 000000581857.jpg, and with the number of an object behind: ..._57.jpg (REFER)
_NAME = re.compile(r"(?P<set>COCO_(?:train|val|test)\d{4}_)?(?P<number>\d{12})(?P<object>_\d+)?(?P<suffix>\.\w+)?")
_SETS = ("COCO_train2014_", "COCO_val2014_")
_FOLDERS = ("train2014", "train2017", "val2014", "val2017", "images")


def image_id(name: str) -> str:
    """Name the image that a row means: COCO's file without the number of an object; other names as they are.

    Examples
    --------
    >>> image_id("COCO_train2014_000000581857_57.jpg"), image_id("photos/cat_57.jpg")
    ('COCO_train2014_000000581857.jpg', 'photos/cat_57.jpg')
    """
    found = _NAME.fullmatch(PurePosixPath(name).name)
    if found is None or found["object"] is None:
        return name
    return str(PurePosixPath(name).with_name(f"{found['set'] or ''}{found['number']}{found['suffix'] or '.jpg'}"))


def spellings(name: str) -> list[str]:
    """List the paths under which an image may lie below a folder: the likeliest first.

    Parameters
    ----------
    name : str
        As a row has it.

    Returns
    -------
    list of str
        The name itself, without the ``data/`` that some files begin with, the bare file name; of a COCO image also
        with and without its set's name, without the number of an object, and in the folders of COCO.

    Examples
    --------
    >>> spellings("coco/a.jpg")
    ['coco/a.jpg', 'a.jpg']
    >>> spellings("COCO_train2014_000000581857_57.jpg")[:4]
    ['COCO_train2014_000000581857_57.jpg', 'COCO_train2014_000000581857.jpg', '000000581857.jpg', \
'train2014/COCO_train2014_000000581857_57.jpg']
    """
    bare = PurePosixPath(name).name
    names = [name, name.removeprefix("data/"), bare]
    found = _NAME.fullmatch(bare)
    if found is None:
        return list(dict.fromkeys([*names, f"images/{bare}"])) if bare == name else list(dict.fromkeys(names))
    suffix = found["suffix"] or ".jpg"
    sets = (found["set"], "") if found["set"] else ("", *_SETS)
    files = list(dict.fromkeys([bare, *(f"{kind}{found['number']}{suffix}" for kind in sets)]))
    return list(dict.fromkeys([*names, *files, *(f"{folder}/{file}" for folder in _FOLDERS for file in files)]))
