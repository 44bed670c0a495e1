"""What a data set is, and the registry of the ones known by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

from biaslab._util.notebook import InNotebooks
from biaslab._util.number_text import count_text
from biaslab._util.registry import Registry
from biaslab._util.text import printable, why_unreadable
from biaslab.datasets.box_forms import check_boxes
from biaslab.datasets.question import Question, are_questions
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError

_LOOKED_FOR = 100  # images that are looked for before a data set is refused


@runtime_checkable
class Dataset(Protocol):
    """A named split of referring expressions, or of questions.

    Anything with these members can be evaluated. To be spread over processes its samples must be picklable.
    ``recipe``, if there is one, is a JSON-ready dict of how to open it again, noted in ``run.json``.

    Attributes
    ----------
    name : str
        In result tables.
    split : str
    hash : str
        Depends on the content alone (`content_hash`), so that a run can refuse to be continued on other data.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = bl.load_dataset("scenes", split="test", n=2)
    >>> isinstance(scenes, bl.datasets.Dataset), len(scenes), scenes.split
    (True, 2, 'test')
    """

    name: str
    split: str

    @property
    def hash(self) -> str:
        """Hash of the content."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...


class ShownDataset(InNotebooks):
    """What data sets of the house have in common: their line, and their first images in a notebook."""

    name: str
    split: str
    unit = "expression"

    def __len__(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{self.name}, split {self.split}: {count_text(len(self), self.unit)}>"


#: name -> class, or function that returns a data set
DATASETS: Registry[Callable[..., Dataset]] = Registry(
    "data set", package="biaslab.datasets", group="biaslab.datasets", alphabetical=True
)


def register(name: str) -> Callable[[Callable[..., Dataset]], Callable[..., Dataset]]:
    """Make a data set known as ``name``: decorates the class, or a function that returns one.

    One that reads files takes ``data_root``, a folder or None: relative paths are looked up there too. Its attribute
    ``box_form`` states what the numbers of a box are in its files (a name in `biaslab.datasets.box_forms.FORMS`); it
    holds them against that form (`check_boxes`), so that a file of another one is refused and never scored.

    Parameters
    ----------
    name : str
        Can be taken only once.

    Returns
    -------
    callable
        The decorator.

    Examples
    --------
    >>> from biaslab.datasets import DATASETS, register
    >>> "scenes" in DATASETS
    True
    >>> register("scenes")(lambda **options: None)
    Traceback (most recent call last):
    ...
    biaslab.errors.InputError: a data set named 'scenes' exists already: choose another name
    """
    return DATASETS.register(name)


def content_hash(samples: Iterable[Sample]) -> str:
    """Hash the ids, image ids, expressions and boxes (or questions and answers) of samples, in order.

    Images are not read.

    Parameters
    ----------
    samples : iterable of Sample

    Returns
    -------
    str
        16 hex digits.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = bl.load_dataset("scenes", n=3)
    >>> content_hash(scenes) == scenes.hash
    True
    >>> content_hash(list(scenes)[:2]) == scenes.hash
    False
    """
    digest = hashlib.sha256()
    for sample in samples:
        row: list[object] = [
            sample.id, sample.image_id, sample.expression, [round(v, 3) for v in sample.box.as_tuple()],
        ]  # fmt: skip
        if isinstance(sample, Question):
            row += [list(sample.answers), sample.instruction]
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def take(dataset: Dataset, n: int | None) -> list[Sample]:
    """List the first samples of a data set.

    Parameters
    ----------
    dataset : Dataset
    n : int, optional
        Number of samples; None for all.

    Raises
    ------
    InputError
        ``n`` below 1, no samples, two with one id (resuming rests on the ids), an expression that no tokenizer can
        read, a box that has no area or lies outside its image, or questions among expressions.
    """
    if n is not None and (isinstance(n, bool) or n < 1):
        raise InputError(f"n must be a whole number >= 1, got {n!r}")
    samples = list(islice(dataset, n))
    if not samples:
        raise InputError("the data set is empty: there is nothing to evaluate")
    if len({sample.id for sample in samples}) < len(samples):
        raise InputError(f"data set {dataset.name!r} has samples with the same id: give every expression its own")
    are_questions(samples)
    for sample in samples:
        if why := why_unreadable(sample.expression):
            raise InputError(f"sample {printable(sample.id)}: its expression {why}")
    check_boxes(
        [sample.box.as_tuple() for sample in samples],
        [(sample.width, sample.height) for sample in samples],
        [f"sample {sample.id}" for sample in samples],
        source=f"data set {dataset.name}",
        field="box",
    )
    return samples


def check_pictures(samples: Iterable[Sample]) -> None:
    """Refuse a data set none of whose first images is there and fits its box, before a model is loaded.

    Single ones that are missing are no error here: a run counts them.

    Parameters
    ----------
    samples : iterable of Sample
        At most 100 images are looked for; the first that can be used ends the search.

    Raises
    ------
    InputError
        None of them can be used; the message says why, and where the first was looked for.
    """
    problems: dict[str, InputError] = {}
    for sample in samples:
        if sample.image_id in problems:
            continue
        try:
            sample.check_image()
            return
        except InputError as problem:
            problems[sample.image_id] = problem
        if len(problems) == _LOOKED_FOR:
            break
    if problems:
        n = len(problems)
        which = "the only image" if n == 1 else f"none of the first {n} images"
        raise InputError(f"{which} can{'not' * (n == 1)} be used: {next(iter(problems.values()))}")
