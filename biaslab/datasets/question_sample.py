"""One question about an image, with its short answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class QuestionSample:
    """A question: answer ``question`` about ``image()`` with ``answer``.

    Parameters
    ----------
    id : str
        Unique in its data set and stable between runs.
    image_id : str
        Samples with the same image id share an image: the unit of the bootstrap.
    question : str
        The words, without any prompt.
    answer : str
        One short answer, lower case.
    category : str
        Kind of the question, such as ``"counting"``; empty when the data do not say.
    width, height : int
        Size of the original image in pixels.
    loader : callable
        Returns the image (RGB); called anew each time, so nothing is held in memory.

    Examples
    --------
    >>> from biaslab.datasets.gallery import GalleryQuestions
    >>> sample = next(iter(GalleryQuestions("test", n=1)))
    >>> sample.category, sample.answer in ("yes", "no")
    ('existence-random', True)
    >>> sample.image().size == (sample.width, sample.height)
    True
    """

    id: str
    image_id: str
    question: str
    answer: str
    category: str
    width: int
    height: int
    loader: Callable[[], Image.Image] = field(repr=False, compare=False)

    def image(self) -> Image.Image:
        """Open the image.

        Returns
        -------
        PIL.Image.Image
            RGB.
        """
        return self.loader()
