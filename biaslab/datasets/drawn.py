"""The images that biaslab draws itself: what is asked of image i of a split, by name of the data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from biaslab.datasets.gallery import cached_picture, expressions_of, questions_of
from biaslab.datasets.sample import Sample
from biaslab.datasets.scenes import cached_scene, samples_of
from biaslab.scenes import EXPRESSION_TYPES, SPLITS
from biaslab.scenes.gallery import CATEGORIES, DOMAINS

__all__ = ["DRAWN", "DrawnSource", "embedded_data"]


@dataclass(frozen=True)
class DrawnSource:
    """Images that are drawn when they are read, so that a thousand are not held in memory.

    Attributes
    ----------
    name : str
        As of the data set.
    kinds : tuple of str
        Types of expressions, or categories of questions.
    asks : bool
        Whether its texts are questions, asked as they stand, and not expressions to be located.
    named : Pattern
        Of an image's id: groups split, domain (if it has one) and index.
    """

    name: str
    kinds: tuple[str, ...]
    asks: bool
    named: re.Pattern[str]
    _drawn: Callable[..., list[Sample]]

    def samples(self, split: str, index: int, **domain: str) -> list[Sample]:
        """List what is asked of an image: the kinds take turns in which of them comes first.

        Parameters
        ----------
        split : str
        index : int
        **domain
            ``domain=``, where there is a choice.

        Returns
        -------
        list of Sample
            Empty where nothing can be asked.

        Examples
        --------
        >>> from biaslab.datasets.drawn import DRAWN
        >>> [sample.expression for sample in DRAWN["scenes"].samples("calibration", 0)]
        ['the big banana', 'the pig above the big banana', 'pig at the bottom right']
        """
        first = self.kinds[index % len(self.kinds)]
        return sorted(self._drawn(split, index, **domain), key=lambda sample: sample.expression_type != first)

    def behind(self, image_id: str) -> list[Sample] | None:
        """List what can be asked of the image with an id, or of a further question on it; None for another's id.

        Examples
        --------
        >>> from biaslab.datasets.drawn import DRAWN
        >>> len(DRAWN["gallery"].behind("calibration-both-000007#2")), DRAWN["gallery"].behind("calibration-000007")
        (2, None)
        """
        found = self.named.fullmatch(image_id)
        if found is None:
            return None
        groups = found.groupdict()
        return self.samples(groups.pop("split"), int(groups.pop("index")), **groups)


def _scene(split: str, index: int) -> list[Sample]:
    return samples_of(cached_scene(split, index))


def _expressions(split: str, index: int, domain: str = "familiar") -> list[Sample]:
    return expressions_of(cached_picture(split, index, domain=domain))


def _questions(split: str, index: int, domain: str = "familiar") -> list[Sample]:
    return [*questions_of(cached_picture(split, index, domain=domain))]


def _id(*parts: str) -> re.Pattern[str]:
    return re.compile("-".join([rf"(?P<split>{'|'.join(SPLITS)})", *parts, r"(?P<index>\d{6,})"]) + r"(?:#\d+)?")


_DOMAIN = rf"(?P<domain>{'|'.join(DOMAINS)})"
#: name -> what is drawn
DRAWN: dict[str, DrawnSource] = {
    source.name: source
    for source in (
        DrawnSource("scenes", EXPRESSION_TYPES, False, _id(), _scene),
        DrawnSource("gallery", EXPRESSION_TYPES, False, _id(_DOMAIN), _expressions),
        DrawnSource("gallery-vqa", CATEGORIES, True, _id(_DOMAIN), _questions),
    )
}


def embedded_data(model: str) -> str:
    """Name the data set that a model is tried on where none is named: the embedded models know their own only.

    Parameters
    ----------
    model : str
        Alias, hub id or folder.

    Returns
    -------
    str

    Examples
    --------
    >>> from biaslab.datasets.drawn import embedded_data
    >>> embedded_data("grounder"), embedded_data("observer"), embedded_data("internvl2.5")
    ('scenes', 'gallery', 'scenes')
    """
    return "gallery" if model.strip().lower() == "observer" else "scenes"
