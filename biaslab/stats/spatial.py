"""Test whether two maps of one grid are more alike than two smooth maps are by chance."""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn

from biaslab.errors import InputError

__all__ = ["spectral_test"]


def spectral_test(a: np.ndarray, b: np.ndarray, *, n_resamples: int = 9999, seed: int = 0) -> tuple[float, float]:
    """Correlate two maps (Pearson), with a two-sided p-value by spectral sign randomisation.

    Neighbouring cells of a map are alike, so its cells are no independent observations: on fields as smooth as
    attention maps an ordinary test of the correlation calls half and more of unrelated pairs significant. Here a map
    is written in the eigenvectors of the grid's neighbour graph, and each coefficient gets a random sign. That keeps
    the power at every spatial frequency, along rows and along columns, hence the autocorrelation, and breaks only
    the agreement of the two maps: Moran spectral randomisation (Wagner and Dray, 2015, singleton variant). The
    graph ends at the border, with no neighbours beyond, for which the eigenvectors are those of the cosine
    transform (DCT-II). For independent coefficients of symmetric distribution the test is exact.

    Toroidal shifts, the usual alternative, are wrong on an image: they join the left border to the right
    and put what lies at a border in the middle. On unrelated 16 x 16 fields that are correlated over 2, 4 and 8 cells
    (Gaussian kernels; 1,500 pairs each) 5 % tests reject in 8, 21 and 41 % with shifts, 65, 82 and 88 % with the
    ordinary test, and 5.6, 6.3 and 8.9 % with this one. So it is somewhat liberal only for maps of hardly more than a
    single slope over the whole image. Such maps also hold few independent coefficients: two that share no
    more than one slope cannot become significant, and should not.

    Parameters
    ----------
    a, b : (rows, cols) array
        Two maps of one grid, in any units.
    n_resamples : int
        Random sign patterns; the smallest p-value is 1 / (n_resamples + 1).
    seed : int
        Of the signs.

    Returns
    -------
    r, p : float
        NaN both where a map is constant.

    Raises
    ------
    InputError
        The maps differ in shape, are no maps, or hold NaN.

    References
    ----------
    Wagner and Dray (2015), Generating spatially constrained null models for irregularly spaced data using Moran
    spectral randomization methods, Methods Ecol. Evol. 6.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.ndimage import gaussian_filter
    >>> from biaslab.stats.spatial import spectral_test
    >>> rng = np.random.default_rng(0)
    >>> a, b = (gaussian_filter(rng.standard_normal((16, 16)), 2) for _ in range(2))
    >>> [tuple(round(v, 2) for v in spectral_test(a, other)) for other in (b, a + 0.5 * b)]
    [(0.35, 0.17), (0.95, 0.0)]
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(f"need two complete maps of one grid (rows, cols), got {a.shape} and {b.shape}")
    products = np.ones(a.size - 1)
    for values in (a, b):
        coefficients = dctn(values, norm="ortho").ravel()[1:]  # without the mean
        length = np.linalg.norm(coefficients)
        if length <= 1e-12 * max(1.0, np.abs(values).max()) * np.sqrt(a.size):
            return np.nan, np.nan
        products *= coefficients / length
    r, rng, reached = products.sum(), np.random.default_rng(seed), 0
    for start in range(0, n_resamples, 1000):  # memory does not grow with n_resamples
        signs = rng.integers(0, 2, (min(1000, n_resamples - start), len(products)), dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ products) >= abs(r) - 1e-12).sum())
    return float(r), (1 + reached) / (1 + n_resamples)
