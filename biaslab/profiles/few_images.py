"""What a profile of few images is worth: its reliability, said wherever such a profile is fitted or described."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["FEW", "few_images", "reliability"]

FEW = 20  # images below which a profile may be noise
_TARGET = 0.9
_FEWEST = 4  # images from which reliability is estimated, as in the diagnostic


def reliability(share: float, n: float) -> float:
    """Correlation expected between the log maps of n images and of n others (Spearman and Brown 1910).

    Parameters
    ----------
    share : float
        Of the variance of log attention that position makes up in the limit of many images (``r2_asymptotic``).
    n : float
        Images of one layout.

    Returns
    -------
    float
        In [0, 1]; 0 where position explains nothing.

    Examples
    --------
    >>> round(reliability(0.3, 1), 2), round(reliability(0.3, 6), 2), round(reliability(0.3, 300), 2)
    (0.3, 0.72, 0.99)
    """
    share = min(max(share, 0.0), 1.0)
    return n * share / (1 + (n - 1) * share)


def few_images(counts: Mapping[str, int], shares: Mapping[int, float]) -> str | None:
    """Say in a sentence what a profile of fewer than 20 images is worth.

    Parameters
    ----------
    counts : mapping
        Layout key -> images, as ``Profile.counts_``.
    shares : mapping
        Layer -> share of the variance of log attention that position makes up in the limit of many images (the column
        ``r2_asymptotic`` of a variance table), over all heads together; NaN where it is not known.

    Returns
    -------
    str or None
        None from 20 images on.

    Examples
    --------
    >>> few_images({"demo/4x4/tiles1x1": 6}, {3: 0.3, 9: 0.7})
    'a profile of 6 images may be noise: its reliability is 0.72 (layer 3) to 0.93 (layer 9), and 0.9 in every layer would take about 21 images; fit it on 20 or more'
    >>> few_images({"demo/4x4/tiles1x1": 2}, {3: 0.99})
    'a profile of 2 images is noise: its reliability cannot be told from fewer than 4; fit it on 20 or more'
    """  # noqa: E501
    shares = {layer: share for layer, share in shares.items() if np.isfinite(share)}
    total, n = sum(counts.values()), max(counts.values(), default=0)
    if total >= FEW:
        return None
    images = f"a profile of {total} image{'s' * (total != 1)}"
    if n < _FEWEST or not shares:
        return f"{images} is noise: its reliability cannot be told from fewer than {_FEWEST}; fit it on {FEW} or more"
    values = {layer: reliability(share, n) for layer, share in shares.items()}
    worst, best = min(values, key=lambda k: values[k]), max(values, key=lambda k: values[k])
    text = f"{images} may be noise: its reliability is {values[worst]:.2f} (layer {worst})"
    if worst != best:
        text += f" to {values[best]:.2f} (layer {best})"
    if (share := shares[worst]) > 0:
        needed = int(np.ceil(_TARGET / (1 - _TARGET) * (1 - share) / share - 1e-9))
        if needed > n:
            text += f", and {_TARGET} {'in every layer ' * (worst != best)}would take about {needed:,} images"
    return f"{text}; fit it on {FEW} or more"
