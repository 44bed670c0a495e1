"""What calibration images are asked: the expressions they come with, a file's, generic ones, names of objects."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.arguments import as_path, at_least_one
from biaslab._util.number_text import count_text
from biaslab.datasets.captions import captions_of, read_captions
from biaslab.datasets.naming import check_names_objects, name_objects
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.models.offline.geometry import Geometry
    from biaslab.models.vlm import VLM

__all__ = [
    "CHOICES",
    "GENERIC",
    "INSTEAD",
    "Picture",
    "PLACES",
    "Questions",
    "again",
    "ask_of",
    "check_questions",
    "with_places",
]

#: what may be asked, beside the expressions of a file
CHOICES = ("expressions", "generic", "named")
#: expressions that say something of nearly every image; images take turns in which come first
GENERIC = (
    "the largest object",
    "the object on the left",
    "the object in the middle",
    "the smallest object",
    "the object on the right",
    "the object at the top",
    "the most noticeable object",
    "the object at the bottom",
)
#: what is said of every other name that the model gives, true or not: a student that has never been asked for a place
#: takes the second noun of "the cup left of the plate" for another target (docs/look-ahead.md, "What is asked")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")
INSTEAD = "say what is asked by prompts (--prompts): generic, named or a file of captions"


@dataclass(frozen=True)
class Picture:
    """A calibration image.

    Attributes
    ----------
    name : str
        Unique among the images: its path below their folder, or its id.
    image : Any
        As `biaslab.collect` takes it; unread.
    expressions : sequence of str
        Those that it comes with.
    """

    name: str
    image: Any
    expressions: Sequence[str] = ()


@dataclass(frozen=True)
class Questions:
    """What is asked of images.

    Attributes
    ----------
    prompts : str or Path
        One of :data:`CHOICES`, or a file of captions.
    each : int
        Questions per image, at most.
    columns : str, optional
        Of the file (:func:`biaslab.datasets.captions.read_captions`).
    log : Path, optional
        Where names are kept (:func:`biaslab.datasets.naming.name_objects`).
    batch_size : int
        Images that are asked for names at a time.
    progress : bool
        Whether that is shown.
    """

    prompts: str | Path
    each: int = 1
    columns: str | None = None
    log: str | Path | None = None
    batch_size: int = 8
    progress: bool = False

    @property
    def is_file(self) -> bool:
        """Whether a file says what is asked."""
        return self.prompts not in CHOICES

    @property
    def path(self) -> Path:
        """The file of captions."""
        return as_path("prompts", self.prompts).expanduser()

    def about(self) -> str:
        """Say what is asked, for provenance: a file by its name and a hash of its content."""
        if not self.is_file:
            return str(self.prompts)
        return f"{self.path.name} ({hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]})"


def again(name: str, k: int) -> str:
    """Name the question k on an image as `biaslab.collect` names what comes again.

    Examples
    --------
    >>> again("a.jpg", 0), again("a.jpg", 1)
    ('a.jpg', 'a.jpg#2')
    """
    return name if k == 0 else f"{name}#{k + 1}"


def check_questions(prompts: Any, questions: Any, prompt: Any) -> None:
    """Refuse what cannot be asked, whatever the images.

    Parameters
    ----------
    prompts : str, Path or None
        As of `biaslab.calibration`.
    questions : int
    prompt : str or None
        One text for every image, which leaves no choice.

    Raises
    ------
    InputError
        A number below 1, no such choice or file, more generic questions than there are, or ``prompt`` beside them.

    Examples
    --------
    >>> check_questions("genric", 1, None)
    Traceback (most recent call last):
    biaslab.errors.InputError: prompts 'genric': no such file, and none of expressions, generic, named (one text ...
    """
    at_least_one("questions", questions)
    if prompt is not None and (prompts is not None or questions > 1):
        raise InputError(
            "prompt (--prompt) is one text for every image: leave it out, or prompts and questions (--prompts, "
            "--questions)"
        )
    if prompts is None:
        return
    asked = Questions(prompts, questions)
    if asked.is_file and not asked.path.is_file():
        raise InputError(
            f"prompts {str(prompts)!r}: no such file, and none of {', '.join(CHOICES)} (one text is --prompt)"
        )
    if prompts == "generic" and questions > len(GENERIC):
        raise InputError(f"there are {len(GENERIC)} generic questions, not {questions}: ask for fewer (--questions)")


def ask_of(
    pictures: Sequence[Picture], asked: Questions, vlm: VLM | Geometry, *, source: str, n: int | None = None
) -> list[tuple[Picture, list[str]]]:
    """Choose the expressions that each image is asked for.

    Parameters
    ----------
    pictures : sequence of Picture
    asked : Questions
    vlm : VLM or Geometry
        Names objects. Of a geometry, which cannot, generic expressions stand for names.
    source : str
        What the images are of, for messages.
    n : int, optional
        The first n images; of a file of captions those that it speaks of.

    Returns
    -------
    list of (Picture, list of str)
        Images that are asked nothing are left out.

    Raises
    ------
    InputError
        A file that names none of the images, or a model that names nothing.

    Examples
    --------
    >>> import biaslab as bl
    >>> pictures = [Picture("a.jpg", None, ["the cup", "a cat"]), Picture("b.jpg", None, ["the door"])]
    >>> for prompts, each in (("expressions", 2), ("generic", 1)):
    ...     chosen = ask_of(pictures, Questions(prompts, each), bl.load("grounder"), source="photos")
    ...     [expressions for _, expressions in chosen]
    [['the cup', 'a cat'], ['the door']]
    [['the largest object'], ['the object on the left']]
    """
    if asked.is_file:
        captions = read_captions(asked.path, columns=asked.columns)
        expressions: Sequence[Sequence[str]] = captions_of([p.name for p in pictures], captions, source=source)
        silent = sum(not said for said in expressions)
        if silent and n is None:
            warnings.warn(f"{count_text(silent, 'image')} in {source} without a caption: left out", stacklevel=3)
    elif asked.prompts == "expressions":
        expressions = [picture.expressions for picture in pictures]
    elif asked.prompts == "named":
        expressions = _named(pictures[:n], asked, vlm)
    else:
        expressions = [_generic(i, asked.each) for i in range(len(pictures))]
    chosen = [(p, list(e[: asked.each])) for p, e in zip(pictures, expressions, strict=False) if e]
    return chosen[:n]


def _generic(index: int, each: int) -> list[str]:
    """Take turns: image i begins where image i - 1 ended, so that every expression is asked as often."""
    return [GENERIC[(index * each + k) % len(GENERIC)] for k in range(each)]


def with_places(names: Sequence[str], index: int) -> list[str]:
    """Make expressions of the names of objects in one image: every other one has a place of :data:`PLACES` behind it.

    Parameters
    ----------
    names : sequence of str
    index : int
        Number of the image: images take turns in what their first name gets.

    Returns
    -------
    list of str
        One per name.

    Examples
    --------
    >>> with_places(["cup", "cat", "door"], 0), with_places(["cup", "cat", "door"], 3)
    (['cup', 'cat on the right', 'door'], ['cup on the right', 'cat', 'door at the bottom'])
    """
    turns = [(index + k) % 2 for k in range(len(names))]
    places = [PLACES[(index // 2 + k) % len(PLACES)] for k in range(len(names))]
    return [f"{name} {place}" if turn else name for name, turn, place in zip(names, turns, places, strict=True)]


def _named(pictures: Sequence[Picture], asked: Questions, vlm: VLM | Geometry) -> list[list[str]]:
    check_names_objects(vlm.name)
    if not hasattr(vlm, "model"):  # a geometry: a plan needs the number and the length of questions alone
        return [_generic(i, min(asked.each, len(GENERIC))) for i in range(len(pictures))]
    given: Mapping[str, Any] = {picture.name: picture.image for picture in pictures}
    named = name_objects(vlm, given, batch_size=asked.batch_size, log=asked.log, progress=asked.progress)  # type: ignore[arg-type]
    return [with_places(named.get(picture.name, []), i) for i, picture in enumerate(pictures)]
