"""Which image every sample belongs to, as numbers that are made once and used by every statistic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["ImageCodes"]


class ImageCodes:
    """The image of every sample as a code, in the order of the images' names.

    Statistics over images take a sequence of image ids or one of these; naming 57,457 images as text anew for each of a
    hundred tests takes longer than the tests.

    Attributes
    ----------
    names : (n_images,) str array
        Sorted.
    code : (n,) int array
        Index into ``names`` of every sample.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.stats.image_codes import ImageCodes
    >>> images = ImageCodes.of(["b", "a", "b"])
    >>> images.names.tolist(), images.code.tolist(), len(images)
    (['a', 'b'], [1, 0, 1], 3)
    >>> images.sums(np.array([[1.0], [2.0], [3.0]])).tolist()
    [[2.0], [4.0]]
    """

    def __init__(self, names: np.ndarray, code: np.ndarray) -> None:
        self.names, self.code = names, code
        self._order = np.argsort(code, kind="stable")
        self._first = np.searchsorted(code[self._order], np.arange(len(names)))

    @classmethod
    def of(cls, images: Sequence | np.ndarray | ImageCodes) -> ImageCodes:
        """Give image ids codes; those that are made already pass through."""
        if isinstance(images, ImageCodes):
            return images
        return cls(*np.unique(np.asarray(images, dtype=str), return_inverse=True))

    def __len__(self) -> int:
        return len(self.code)

    def take(self, samples: np.ndarray) -> ImageCodes:
        """Codes of some of the samples (a mask); images that none of them belongs to are left out."""
        used, code = np.unique(self.code[samples], return_inverse=True)
        return ImageCodes(self.names[used], code)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over the samples of each image: (n_images, columns) from (n, columns)."""
        if not len(self.names):
            return np.zeros((0, values.shape[1]))
        return np.add.reduceat(values[self._order], self._first, axis=0)
