"""How much attention a page holds: every head where there is room, else the mean and the heads that look most."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab.figures.report.packing import PICTURE_BYTES, packed_map, picture_uri

if TYPE_CHECKING:
    from biaslab.figures.report.viewer_data import Shown

__all__ = ["SAMPLE_BYTES", "VIEW_BYTES", "AttentionPlan", "attention_plan", "put_images_and_attention"]

#: bytes of a sample in a report: its image, what each configuration did, attention, its share of what profiles expect
SAMPLE_BYTES = 25_000
#: the same where a page shows a single sample, with the words of its answer
VIEW_BYTES = 1_500_000
_LEAST_PICTURE = 4_000  # bytes, before base64: below, one does not see what is in the image
_FEW = 2  # heads for which an image gives way
_OF_LAYER = 100  # bytes of names and brackets about the maps of a layer
_OF_MAP = 16  # bytes of a map's largest value and of its head's number


@dataclass(frozen=True)
class AttentionPlan:
    """What is packed of samples of one layout.

    Attributes
    ----------
    heads : mapping of int
        Layer -> the heads that are packed beside the mean; of a layer that is not in it, all heads.
    picture : int
        Bytes that an image may have, before base64.
    words : int
        Words of the answer that have a map.
    """

    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    picture: int = PICTURE_BYTES
    words: int = 0

    def packed(self, layer: int, values: np.ndarray) -> dict[str, Any]:
        """Pack the maps of a layer.

        Parameters
        ----------
        layer : int
        values : (heads, N) array
            Of one map, the mean over heads.

        Returns
        -------
        dict
            Of `packed_map`: every head; or with ``heads`` the mean over heads, then those heads, and ``of``, their
            number in the model.

        Examples
        --------
        >>> plan = AttentionPlan({3: [1]})
        >>> plan.packed(3, [[0.0, 0.1], [0.2, 0.3]])
        {'max': [0.2, 0.3], 'data': 'gP+q/w==', 'heads': [1], 'of': 2}
        >>> plan.packed(4, [[0.0, 0.1], [0.2, 0.3]])
        {'max': [0.1, 0.3], 'data': 'AP+q/w=='}
        """
        values = np.asarray(values, np.float64)
        if layer not in self.heads:
            return packed_map(values)
        heads = [int(head) for head in self.heads[layer]]
        chosen = np.concatenate([values.mean(0, keepdims=True), values[heads]])
        return packed_map(chosen) | {"heads": heads, "of": len(values)}

    def packed_expected(self, layer: int, values: np.ndarray) -> dict[str, Any]:
        """Pack what a profile expects of a layer: for the heads that are packed, or as a mean alone (``heads`` empty).

        Parameters
        ----------
        layer : int
        values : (heads or 1, N) or (N,) array

        Returns
        -------
        dict
            As of `packed`.
        """
        values = np.atleast_2d(np.asarray(values, np.float64))
        return AttentionPlan({layer: []}).packed(layer, values) if len(values) == 1 else self.packed(layer, values)


def attention_plan(
    shown: Sequence[Shown],
    rest: Sequence[int],
    pictures: Sequence[float],
    expected: Mapping[int, np.ndarray],
    budget: int = SAMPLE_BYTES,
) -> AttentionPlan:
    """Find out what of the attention of samples of one layout fits into their bytes.

    The mean over heads of every layer that was asked for is always packed. Where not all heads fit, those that attend
    to the images most, over these samples, have what is left; for the first two of them, images take fewer bytes.
    Words of an answer have half of the bytes at most.

    Parameters
    ----------
    shown : sequence of Shown
        Samples of one layout, with attention of the same layers.
    rest : sequence of int
        Bytes of each sample without attention and image.
    pictures : sequence of float
        Bytes of each sample's image as text, or of its share of one that several samples have.
    expected : mapping of int
        Layer -> (heads or 1, N) that a profile expects.
    budget : int
        Bytes of a sample.

    Returns
    -------
    AttentionPlan

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.figures.report.viewer_data import Shown
    >>> maps = {15: np.linspace(1, 2, 32)[:, None] * np.ones(1024)}
    >>> attention_plan([Shown(id="a", attention=maps)], [2000], [9000.0], {})
    AttentionPlan(heads={15: [31, 30, 29, 28, 27, 26, 25, 24, 23]}, picture=11000, words=0)
    """
    maps = [one.attention for one in shown]
    most_words = max(len(one.words) for one in shown)
    layers = list(maps[0])
    total, n = np.shape(maps[0][layers[0]])
    each = _bytes_of(1, n)
    words = min(most_words, max(int((budget // 2 - _OF_LAYER * len(layers)) // (len(layers) * each)), 0))
    kept_words = len(layers) * (_OF_LAYER + words * each) if words else 0

    def cost(heads: int) -> float:
        """Bytes of a sample's attention, and of its share of what is expected, with that many heads."""
        own = heads if heads == total else 1 + heads
        of_profile = [own if len(np.atleast_2d(expected[layer])) > 1 else 1 for layer in layers if layer in expected]
        shared = sum(_OF_LAYER + of * each for of in of_profile) / len(shown)
        return len(layers) * (_OF_LAYER + own * each) + shared + kept_words

    room = min(budget - own for own in rest)
    with_picture = min(budget - own - image for own, image in zip(rest, pictures, strict=True))
    if cost(total) <= with_picture:
        return AttentionPlan({}, words=words)
    fits = max((k for k in range(total) if cost(k) <= with_picture), default=-1)
    picture = PICTURE_BYTES
    if fits < _FEW:
        least = math.ceil(_LEAST_PICTURE * 4 / 3)
        fits = max((k for k in range(min(_FEW, total - 1) + 1) if cost(k) <= room - least), default=0)
        picture = int(np.clip(3 * (room - cost(fits) - 40) // 4, _LEAST_PICTURE, PICTURE_BYTES))
    ranked = {layer: np.argsort(-np.mean([own[layer].sum(1) for own in maps], 0), kind="stable") for layer in layers}
    return AttentionPlan({layer: [int(h) for h in order[:fits]] for layer, order in ranked.items()}, picture, words)


def put_images_and_attention(
    samples: Sequence[dict[str, Any]],
    shown: Sequence[Shown],
    expected: Mapping[str, Mapping[int, np.ndarray]],
    budget: int = SAMPLE_BYTES,
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Put the number of its image and its attention into each sample, as far as there is room.

    Parameters
    ----------
    samples : sequence of dict
        As the viewer reads them; ``image``, ``attention`` and ``wordAttention`` are set.
    shown : sequence of Shown
        The same samples.
    expected : mapping
        Key of a layout -> layer -> (heads or 1, N) that a profile expects.
    budget : int
        Bytes of a sample.

    Returns
    -------
    images : list of str
        ``data:`` addresses, each once.
    expected : dict
        Packed, of the layouts that a sample with attention has.
    """
    names = [None if one.image is None else one.image_id or i for i, one in enumerate(shown)]
    users = Counter(names)
    opened = {name: one.image for name, one in zip(names, shown, strict=True) if one.image is not None}
    written = {name: picture_uri(image) for name, image in opened.items()}
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(shown):
        if one.attention and one.layouts and one.layouts[0] is not None:
            groups.setdefault(one.layouts[0].key, []).append(i)
    packed: dict[str, dict[str, Any]] = {}
    for key, group in groups.items():
        rest = [len(json.dumps(samples[i], separators=(",", ":"))) for i in group]
        pictures = [len(written.get(names[i], "")) / users[names[i]] for i in group]
        of_profile = expected.get(key, {})
        plan = attention_plan([shown[i] for i in group], rest, pictures, of_profile, budget)
        packed[key] = {str(layer): plan.packed_expected(layer, values) for layer, values in of_profile.items()}
        for i in group:
            one, name = shown[i], names[i]
            if len(written.get(name, "")) > 4 * plan.picture // 3 + 40:
                written[name] = picture_uri(opened[name], limit=plan.picture)
            samples[i]["attention"] = {str(layer): plan.packed(layer, of) for layer, of in one.attention.items()}
            words = one.word_attention if plan.words else {}
            samples[i]["wordAttention"] = {str(layer): packed_map(of[: plan.words]) for layer, of in words.items()}
    places = {name: place for place, name in enumerate(written)}
    for sample, name in zip(samples, names, strict=True):
        sample["image"] = places.get(name)
    return list(written.values()), {key: maps for key, maps in packed.items() if maps}


def _bytes_of(maps: int, n: int) -> int:
    return math.ceil(maps * n * 4 / 3) + maps * _OF_MAP
