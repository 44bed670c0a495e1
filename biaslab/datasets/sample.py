"""One referring expression with its image and its target box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from biaslab._util.notebook import InNotebooks
from biaslab.core.boxes import Box

OBJECT_SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Sample(InNotebooks):
    """A referring expression: find ``box`` in ``image()`` from ``expression``.

    Parameters
    ----------
    id : str
        Unique in its data set and stable between runs (resuming and per-sample seeds rest on it).
    image_id : str
        Samples with the same image id share an image: the unit of the bootstrap.
    expression : str
        The words, without any prompt.
    box : Box
        Target in pixels of the original image.
    expression_type : str
        Type of the expression (``attribute``, ``location``, ``relation``); empty when the data do not say.
    object_size : str
        ``small``, ``medium`` or ``large``, by the target's share of the image.
    width, height : int
        Size of the original image in pixels.
    loader : callable
        Returns the image (RGB); called anew each time, so nothing is held in memory. It may have a method ``check()``
        that raises what opening would raise, as far as that can be told without reading the pixels.

    Examples
    --------
    >>> import biaslab as bl
    >>> sample = next(iter(bl.load_dataset("scenes", n=1)))
    >>> sample.expression, sample.expression_type, sample.object_size
    ('big elephant left of the sheep', 'relation', 'large')
    >>> sample.image().size == (sample.width, sample.height)
    True
    """

    id: str
    image_id: str
    expression: str
    box: Box
    expression_type: str
    object_size: str
    width: int
    height: int
    loader: Callable[[], Image.Image] = field(repr=False, compare=False)

    @property
    def has_target(self) -> bool:
        """Whether it is known where to look."""
        return True

    def image(self) -> Image.Image:
        """Open the image.

        Returns
        -------
        PIL.Image.Image
            RGB.

        Raises
        ------
        InputError
            When it cannot be read.
        """
        return self.loader()

    def check_image(self) -> None:
        """Refuse an image that is missing or does not fit, from the file's header alone, if the loader can tell.

        Raises
        ------
        InputError
            As :meth:`image` would.
        """
        check = getattr(self.loader, "check", None)
        if check is not None:
            check()


def object_size(box: Box, width: float, height: float, edges: tuple[float, float] = (0.05, 0.12)) -> str:
    """Name the size of a box by its share of the image: small below the edges, medium between, large from them on.

    RefCOCO's targets cover about 10 % of their image in the median; COCO's absolute pixel areas would call
    nearly all of them large. The default edges are those of the procedural scenes.

    Parameters
    ----------
    box : Box
        In pixels.
    width, height : float
        Of the image, in pixels.
    edges : (float, float)
        Shares of the image at which medium and large begin.

    Returns
    -------
    str
        ``"small"``, ``"medium"`` or ``"large"``.

    Examples
    --------
    >>> object_size(Box(0, 0, 10, 10), 100, 10)
    'medium'
    """
    share = box.area / (width * height)
    return OBJECT_SIZES[(share >= edges[0]) + (share >= edges[1])]
