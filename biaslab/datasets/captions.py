"""What a file says of images: one or more expressions or captions under the name of each."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from biaslab._util.number_text import count_text
from biaslab._util.text import printable, why_unreadable
from biaslab.datasets.annotation_rows import read_rows
from biaslab.datasets.coco_names import spellings
from biaslab.datasets.columns import image_and_expression
from biaslab.datasets.file_kinds import listed
from biaslab.errors import InputError

__all__ = ["captions_of", "read_captions"]

PICTURE = ("image", "file_name", "filename", "file", "picture", "image_path", "img_path", "path", "name")
TEXT = (
    "expressions", "expression", "captions", "caption", "sentences", "sentence", "sents", "sent", "texts", "text",
    "description",
)  # fmt: skip
_MAPPING = '{"a.jpg": "the red cup", "b.jpg": ["a cat", "the door"]}'

Said = tuple[str, Any, str]  # image, text or texts, where it stands


def read_captions(path: str | Path, *, columns: str | None = None) -> dict[str, list[str]]:
    r"""Read what a file says of images.

    Parameters
    ----------
    path : str or Path
        CSV or TSV with a header, JSON lines, a JSON array of objects: a column with the image's file name
        (:data:`PICTURE`) and one with a text or a list of texts (:data:`TEXT`); several rows of one image add up.
        Or one JSON object, from file names to a text or a list of texts, or COCO's captions.
    columns : str, optional
        Which columns these are, where they have other names: ``"image=COLUMN,expression=COLUMN"``.

    Returns
    -------
    dict
        File name -> texts, each once, in the order of the file.

    Raises
    ------
    InputError
        The file cannot be read, has no such columns, or a text that is empty or no text; the message names the row.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "captions.csv"
    ...     _ = file.write_text("image,caption\na.jpg,the red cup\nb.jpg,a cat\na.jpg,the door")
    ...     read_captions(file)
    {'a.jpg': ['the red cup', 'the door'], 'b.jpg': ['a cat']}
    """
    path = Path(path)
    found: dict[str, list[str]] = {}
    for picture, said, where in _said(path, columns):
        if not isinstance(picture, str) or not picture.strip():
            raise InputError(f"{path}, {where} names no image: give its file name")
        texts = said if isinstance(said, list) else [said]
        if not texts:
            raise InputError(f"{path}, {where} says nothing of {picture}: write something, or leave it out")
        for text in texts:
            _check(text, f"{path}, {where}, of {picture},")
            known = found.setdefault(picture.strip(), [])
            if (text := text.strip()) not in known:
                known.append(text)
    return found


def _check(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{printable(where)} holds {type(text).__name__}, not a text: write what is to be asked")
    if not text.strip():
        raise InputError(f"{printable(where)} holds an empty text: write something, or leave it out")
    if why := why_unreadable(text):
        raise InputError(f"{printable(where)} {why}")


def _said(path: Path, columns: str | None) -> Iterator[Said]:
    if columns is None and (whole := _object(path)) is not None:
        if (coco := _coco(path, whole)) is not None:
            yield from coco
            return
        if not _columns(whole):
            yield from ((name, said, "entry " + json.dumps(name)) for name, said in whole.items())
            return
    chosen = None if columns is None else image_and_expression(columns)
    for _, where, row in read_rows(path):
        if chosen is None and (chosen := _columns(row)) is None:
            raise InputError(
                f"{path}, {where} has {listed(row)}: a file of captions has a column with the image ({PICTURE[0]}, "
                f"{PICTURE[1]} ...) and one with the text ({TEXT[1]}, {TEXT[3]} ...), or is an object such as "
                f"{_MAPPING}; for other names write --columns image=COLUMN,expression=COLUMN"
            )
        if missing := [column for column in chosen if column not in row]:
            raise InputError(f"{path}, {where} has no column {', '.join(missing)}: it has {listed(row)}")
        yield row[chosen[0]], row[chosen[1]], where


def _object(path: Path) -> dict[str, Any] | None:
    """Read a file that is one JSON object; None for any other, whose reading says what is wrong with it."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(4096).lstrip()[:1]
            if start != "{":
                return None
            file.seek(0)
            whole = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _coco(path: Path, whole: Mapping[str, Any]) -> list[Said] | None:
    """List COCO's captions (``captions_val2017.json``); None where it is something else."""
    images, annotations = whole.get("images"), whole.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        return None
    try:
        names = {image["id"]: image["file_name"] for image in images}
        return [(names[a["image_id"]], a["caption"], f"annotation {i + 1}") for i, a in enumerate(annotations)]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} looks like COCO's captions and is not ({type(error).__name__}: {error}): images have id and "
            "file_name, annotations image_id and caption"
        ) from None


def _columns(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Choose the columns of image and text."""
    picture = next((name for name in PICTURE if name in row), None)
    text = next((name for name in TEXT if name in row), None)
    return None if picture is None or text is None else (picture, text)


def captions_of(pictures: Sequence[str], captions: Mapping[str, list[str]], *, source: str) -> list[list[str]]:
    """Find what a file says of each image.

    Parameters
    ----------
    pictures : sequence of str
        Their paths below the folder or archive that they are in.
    captions : mapping
        Of :func:`read_captions`: paths or bare file names, in COCO's spellings too.
    source : str
        What is searched, for messages.

    Returns
    -------
    list of list of str
        One per image, empty where the file says nothing of it. What it says of other images is warned of.

    Raises
    ------
    InputError
        None of the images is named, or a bare name that two images have.

    Examples
    --------
    >>> captions_of(["a.jpg", "more/b.jpg", "c.jpg"], {"b.jpg": ["a cat"], "a.jpg": ["the cup"]}, source="photos")
    [['the cup'], ['a cat'], []]
    """
    whole = {name: i for i, name in enumerate(pictures)}
    bare: dict[str, list[int]] = {}
    for i, name in enumerate(pictures):
        bare.setdefault(PurePosixPath(name).name, []).append(i)
    found: list[list[str]] = [[] for _ in pictures]
    unknown = []
    for name, texts in captions.items():
        places = _places(printable(name), whole, bare)
        if len(places) > 1:
            raise InputError(
                f"{name} is the name of {len(places)} images in {source} ({listed((pictures[i] for i in places), 3)}"
                "): name them by their paths below it"
            )
        if not places:
            unknown.append(name)
        for i in places:
            found[i] += [text for text in texts if text not in found[i]]
    if not any(found):
        raise InputError(
            f"none of the {count_text(len(captions), 'image')} named is in {source}: it holds {listed(pictures, 3)}, "
            f"the file names {listed(captions, 3)}"
        )
    if unknown:
        warnings.warn(
            f"{count_text(len(unknown), 'image')} of the captions not in {source} ({listed(unknown, 3)}): left out",
            stacklevel=3,
        )
    return found


def _places(name: str, whole: Mapping[str, int], bare: Mapping[str, list[int]]) -> list[int]:
    """Find the images that a name may mean: by its path, else by its file name, in each spelling."""
    for spelt in spellings(name.removeprefix("./")):
        if spelt in whole:
            return [whole[spelt]]
        if "/" not in spelt and spelt in bare:
            return bare[spelt]
    return []
