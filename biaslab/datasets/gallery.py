"""The images of the gallery as data sets: one of referring expressions, one of questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache, partial
from itertools import count
from typing import ClassVar

from PIL import Image

from biaslab.datasets.base import ShownDataset, content_hash, register
from biaslab.datasets.question import Question
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError
from biaslab.scenes.gallery import Picture, picture
from biaslab.scenes.gallery.forms import held_out_expression

#: the last 64 images are at hand: whoever asks about one shows it next
cached_picture = lru_cache(maxsize=64)(picture)

FORMS: tuple[str, ...] = ("trained", "held-out")


def _image(split: str, index: int, domain: str) -> Image.Image:
    return cached_picture(split, index, domain=domain).image


class _OfGallery(ShownDataset):
    """What both data sets have in common: a split, a domain, forms, and the first n samples."""

    name: str

    def __init__(self, split: str = "test", *, domain: str = "familiar", forms: str = "trained", n: int = 300) -> None:
        if n < 1:
            raise InputError(f"{self.name}: n is {n}, give at least 1 sample")
        if forms not in FORMS:
            raise InputError(f"{self.name}: unknown forms {forms!r}: choose one of {', '.join(FORMS)}")
        cached_picture(split, 0, domain=domain)  # refuses an unknown split or domain before any work
        self.split, self.domain, self.forms, self.n = split, domain, forms, n

    @property
    def recipe(self) -> dict[str, str | int]:
        """What makes the same data."""
        return {"split": self.split, "domain": self.domain, "forms": self.forms, "n": self.n}

    def _of(self, shown: Picture) -> Sequence[Sample]:
        """List what is asked about one image."""
        raise NotImplementedError

    @cached_property
    def _samples(self) -> list[Sample]:
        samples: list[Sample] = []
        numbers = count()
        while len(samples) < self.n:
            samples += self._of(cached_picture(self.split, next(numbers), domain=self.domain))
        return samples[: self.n]

    @cached_property
    def hash(self) -> str:
        """Hash of the content."""
        return content_hash(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __len__(self) -> int:
        return self.n


@register("gallery")
class GalleryDataset(_OfGallery):
    """Referring expressions of one split of the gallery.

    Parameters
    ----------
    split : {"test", "validation", "calibration", "train", "monitor"}
    domain : {"familiar", "style", "background", "both"}
        What of the images is of the kind that training never shows.
    forms : {"trained", "held-out"}
        Whether expressions have the forms of training, or "the cat that is left of the bus".
    n : int
        Number of expressions; images are taken from the first on, up to three expressions each (one per type), so
        the first n of a longer data set are the same samples.

    Raises
    ------
    InputError
        For an unknown split, domain or form, or n below 1.

    Examples
    --------
    >>> from biaslab.datasets.gallery import GalleryDataset
    >>> [sample.expression for sample in GalleryDataset("test", n=2)]
    ['panda', 'the panda left of the broccoli']
    """

    name = "gallery"
    box_form: ClassVar[str] = "xyxy"

    def _of(self, shown: Picture) -> Sequence[Sample]:
        return expressions_of(shown, forms=self.forms)


@register("gallery-vqa")
class GalleryQuestions(_OfGallery):
    """Questions of one split of the gallery; parameters as of `GalleryDataset`.

    Up to nine questions an image, one per category (`biaslab.scenes.gallery.CATEGORIES`).

    Examples
    --------
    >>> from biaslab.datasets.gallery import GalleryQuestions
    >>> [(sample.expression, sample.answers) for sample in GalleryQuestions("test", n=2)]
    [('is there a panda in the image?', ('yes',)), ('is there a strawberry in the image?', ('no',))]
    """

    name = "gallery-vqa"
    unit = "question"

    def _of(self, shown: Picture) -> Sequence[Sample]:
        return questions_of(shown, forms=self.forms)


def expressions_of(shown: Picture, *, forms: str = "trained") -> list[Sample]:
    """List the referring expressions of one image, at most one of each type."""
    out = []
    for e in shown.expressions:
        text = e.text if forms == "trained" else held_out_expression(e)
        if text is None:
            continue
        thing = shown.things[e.target]
        out.append(
            Sample(
                id=f"{shown.id}-{e.expression_type}",
                image_id=shown.id,
                expression=text,
                box=thing.box,
                expression_type=e.expression_type,
                object_size=thing.object_size,
                width=shown.image.width,
                height=shown.image.height,
                loader=partial(_image, shown.split, shown.index, shown.domain),
            )
        )
    return out


def questions_of(shown: Picture, *, forms: str = "trained") -> list[Question]:
    """List the questions of one image, at most one of each category; they are asked without an instruction."""
    return [
        Question.about(
            partial(_image, shown.split, shown.index, shown.domain),
            question.text,
            question.answer,
            id=f"{shown.id}-{question.category}",
            image_id=shown.id,
            size=shown.image.size,
            category=question.category,
            instruction="",
        )
        for question in shown.questions(held_out=forms == "held-out")
    ]
