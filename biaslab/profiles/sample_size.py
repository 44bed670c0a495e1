"""Whether a profile rests on enough images to be more than noise, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from biaslab._util.number_text import count_text, interval_text, is_number, runs_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FEW_IMAGES", "few_images_text", "map_reliability"]

#: images below which a profile is called noise until its reliability says otherwise. A map of n images of which
#: position explains the share s of the variance has the reliability n s / (n s + 1 - s): with 20 images .69 at s = .1,
#: .51 at s = .05; and the five folds of the intervals then hold four images each.
FEW_IMAGES = 20


def map_reliability(share: float, n: int) -> float:
    """Compute the reliability of the mean log map of n images: its correlation with the map of n other images.

    Parameters
    ----------
    share : float
        Share of the variance of log attention that position explains in the limit of many images (``r2_asymptotic`` of
        :func:`~biaslab.profiles.variance_table`); what lies below 0 counts as 0.
    n : int
        Images.

    Returns
    -------
    float
        In [0, 1]; NaN where the share is not known.

    References
    ----------
    Spearman (1910) and Brown (1910), British Journal of Psychology 3, 271-322.

    Examples
    --------
    >>> from biaslab.profiles.sample_size import map_reliability
    >>> round(map_reliability(0.1, 20), 2), round(map_reliability(0.1, 300), 2)
    (0.69, 0.97)
    """
    if not is_number(share):
        return np.nan
    share = min(max(float(share), 0.0), 1.0)
    return n * share / (n * share + 1 - share) if share else 0.0


def few_images_text(
    counts: Mapping[str, int], variance: pd.DataFrame | None = None, *, transports: bool = False
) -> str:
    r"""Say that a profile rests on few images, and how reliable it is where that can be computed.

    Parameters
    ----------
    counts : mapping of str to int
        Layout key -> images of it.
    variance : DataFrame, optional
        Of :func:`~biaslab.profiles.variance_table`, for the reliability.
    transports : bool
        Whether images of one layout also serve the others, so that only their sum counts.

    Returns
    -------
    str
        One line of sentences; "" with :data:`FEW_IMAGES` images or more.

    Examples
    --------
    >>> from biaslab.profiles.sample_size import few_images_text
    >>> print(few_images_text({"llava/24x24": 1}).replace(". ", ".\n"))
    The profile rests on 1 image, fewer than 20: take its map for noise.
    The profile alone does not tell its reliability.
    >>> few_images_text({"llava/24x24": 300})
    ''
    """
    total, few = sum(counts.values()), {key: n for key, n in counts.items() if n < FEW_IMAGES}
    if not counts or (total >= FEW_IMAGES and (transports or not few)):
        return ""
    known, has_interval = _reliability_text(variance, total if transports else max(few.values()))
    unless = " unless its reliability says otherwise" if has_interval else ""
    if total < FEW_IMAGES:
        return (
            f"The profile rests on {count_text(total, 'image')}, fewer than {FEW_IMAGES}: take its map for "
            f"noise{unless}. {known}"
        )
    least, most = min(few.values()), max(few.values())
    each = f"{least}" if least == most else f"{least} to {most}"
    have, maps = ("has", "its map") if len(few) == 1 else ("have", "their maps")
    return (
        f"{len(few)} of {count_text(len(counts), 'layout')} of the profile {have} fewer than {FEW_IMAGES} images "
        f"({each}): take {maps} for noise{unless}. {known}"
    )


def _reliability_text(variance: pd.DataFrame | None, n: int) -> tuple[str, bool]:
    """Write the range of the reliability over layers, and tell whether any of it has an interval."""
    if variance is None:
        return "The profile alone does not tell its reliability.", False
    if "head" in variance:
        heads = variance["head"].astype(str)
        variance = variance[heads == ("mean" if (heads == "mean").any() else "all")]
    rows = [
        (row["layer"], *(map_reliability(row.get(f"r2_asymptotic{end}", np.nan), n) for end in ("", "_lo", "_hi")))
        for row in variance.to_dict("records")
    ]
    known = sorted((row for row in rows if is_number(row[1])), key=lambda row: row[1])
    if not known:
        return "Its reliability is not known.", False
    texts = [interval_text(*row[1:]) for row in known]
    unknown = [row[0] for row in rows if not is_number(row[1])]
    if len(known) == 1:
        size = texts[0] + (f" in layer {known[0][0]}" if unknown else "")
    else:
        size = f"{texts[0]} in layer {known[0][0]} to {texts[-1]} in layer {known[-1][0]}"
    size += f", not known in {runs_text(unknown, 'layer')}" if unknown else ""
    has_interval = any("[" in text for text in texts)
    size += "" if has_interval else ", without an interval"
    return f"Its reliability (correlation with the map of {n} other images) is an estimated {size}.", has_interval
