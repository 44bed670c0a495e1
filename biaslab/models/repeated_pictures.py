"""Images that come several times in a batch, as expressions of one image do: through the vision tower once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded

__all__ = ["DistinctPictures", "distinct_pictures"]


@dataclass(frozen=True, eq=False)
class DistinctPictures:
    """The images of a batch, each once.

    Attributes
    ----------
    inputs : dict of str to Tensor
        What the vision tower is given for them.
    which : list of int
        The distinct image that each image of the batch equals.
    tokens : list of int
        Image tokens in the prompt of each distinct image.
    """

    inputs: dict[str, Tensor]
    which: list[int]
    tokens: list[int]

    def repeated(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Give every image of the batch its distinct image's features, in the form in which the model returned them.

        Parameters
        ----------
        features : mapping of str to Tensor, or list or tuple of Tensor
            Outputs of ``get_image_features`` for the distinct images.

        Returns
        -------
        dict
        """
        return {name: self._repeated(value) for name, value in features.items()}

    def _repeated(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            if self._is_per_picture(value):
                return type(value)(value[i] for i in self.which)
            return type(value)(self._repeated(each) for each in value)  # one for each of several layers of the tower
        if not isinstance(value, Tensor):
            return value
        flat = value.reshape(-1, value.shape[-1])  # image after image, as the prompts' tokens take them
        features = flat.split(self.tokens)
        return torch.cat([features[i] for i in self.which]).reshape(-1, *value.shape[1:])

    def _is_per_picture(self, values: Sequence[Any]) -> bool:
        return all(isinstance(each, Tensor) for each in values) and [len(each) for each in values] == self.tokens


def distinct_pictures(
    encoded: Encoded, given: Mapping[str, Any], pictures: Sequence[Hashable]
) -> DistinctPictures | None:
    """Find the images that come several times.

    Parameters
    ----------
    encoded : Encoded
        One image per prompt.
    given : mapping
        What the vision tower would be given: tensors with an entry per image, or per tile or patch of each.
    pictures : sequence of hashable
        A name of each image; images of one name are compared pixel by pixel.

    Returns
    -------
    DistinctPictures or None
        None where every image comes once, or the form of the tensors is not known.
    """
    n = len(encoded.layouts)
    if len(set(pictures)) == n or len(pictures) != n or encoded.owners != list(range(n)):
        return None
    counts = _entries(encoded, given)
    if counts is None or not all(isinstance(v, Tensor) and len(v) in (n, sum(counts)) for v in given.values()):
        return None
    parts = [{k: v.split(1 if len(v) == n else counts)[i] for k, v in given.items()} for i in range(n)]
    first: dict[Hashable, list[int]] = {}  # name -> distinct images of that name
    kept: list[int] = []  # the image that stands for each distinct image
    which = []
    for i, name in enumerate(pictures):
        of_name = first.setdefault(name, [])
        same = next((d for d in of_name if _equal(parts[i], parts[kept[d]])), None)
        if same is None:
            same = len(kept)
            of_name.append(same)
            kept.append(i)
        which.append(same)
    if len(kept) == n:
        return None
    inputs = {k: torch.cat([parts[i][k] for i in kept]) for k in given}
    return DistinctPictures(inputs, which, [encoded.layouts[i].placeholders for i in kept])


def _entries(encoded: Encoded, given: Mapping[str, Any]) -> list[int] | None:
    """Count what the pixels of each image hold: patches where a grid says so, else tiles."""
    total, n = len(given["pixel_values"]), len(encoded.layouts)
    grid = given.get("image_grid_thw")
    patches = [] if grid is None else grid.prod(-1).tolist()
    tiles = [int(layout.tile.max()) + 1 for layout in encoded.layouts]
    return next((counts for counts in (patches, [1] * n, tiles) if sum(counts) == total), None)


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)
