"""Coverage of intervals of accuracies and of their paired differences, with few images and with many.

    python -m benchmarks.coverage

Two methods answer 1 to 3 expressions of every image; hits of one image go together, those of one expression more. How
often the interval of nominal 95 % holds the true difference, over 4 settings of (accuracy, reference): (.90, .85),
(.70, .60), (.95, .93), (.80, .80), 4,000 data sets each; lowest of the settings, and mean:

    images   percentile     expanded          BCa  bootstrap-t  paired_hits
        25    .833 .904    .843 .917    .804 .885    .823 .890    .958 .967
        50    .923 .938    .930 .945    .891 .922    .888 .924    .950 .957
       100    .938 .944    .941 .947    .919 .936    .923 .937    .952 .953
       200    .936 .945    .937 .946    .924 .939    .927 .940    .945 .950
       300    .942 .944                                            .946 .948   (3,000 data sets)
       500    .947 .951    .948 .952    .943 .948    .942 .950    .950 .956   (1,500 data sets)

``percentile``, ``BCa`` and ``bootstrap-t`` resample images; ``expanded`` widens the percentiles by Student's quantile
(Hesterberg 2015); ``paired_hits`` is what biaslab reports.

Of single accuracies, .50, .80, .90, .97, in the same data sets; ``wilson`` is what biaslab reports with fewer than 50
images:

    images   percentile       wilson
        10    .413 .764    .974 .978
        25    .736 .875    .955 .962
        49    .915 .931    .952 .960
       100    .919 .937    .948 .950
       200    .935 .945    .950 .952
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from scipy import stats

from biaslab.stats.hit_rate import cluster_wilson
from biaslab.stats.paired_hits import from_sums

__all__ = ["ACCURACIES", "METHODS", "SETTINGS", "accuracy_coverage", "coverage", "draw"]

SETTINGS = ((0.90, 0.85), (0.70, 0.60), (0.95, 0.93), (0.80, 0.80))
IMAGES = (25, 50, 100, 200, 300, 500)
METHODS = ("percentile", "expanded", "BCa", "bootstrap-t", "paired_hits")
ACCURACIES = (0.50, 0.80, 0.90, 0.97)
FEWER_IMAGES = (10, 25, 49, 100, 200)
_IMAGE, _EXPRESSION = (
    0.4,
    0.36,
)  # shares of the variance that an image's, and an expression's, two methods have in common


def draw(n_images: int, accuracies: tuple[float, float], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one data set: sums of the differences, and the number of expressions, of every image."""
    counts = rng.integers(1, 4, n_images)
    of = np.repeat(np.arange(n_images), counts)
    common = np.sqrt(_IMAGE) * rng.normal(size=n_images)[of] + np.sqrt(_EXPRESSION) * rng.normal(size=of.size)
    own = np.sqrt(1 - _IMAGE - _EXPRESSION) * rng.normal(size=(2, of.size))
    hits = common + own < stats.norm.ppf(accuracies)[:, None]
    return np.bincount(of, hits[0].astype(float) - hits[1], n_images), counts.astype(float)


def intervals(sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, n_resamples: int) -> np.ndarray:
    """(methods, 2) ends of the intervals of one data set."""
    n = len(sums)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(float)
    totals = weights @ counts
    replicates, value = weights @ sums / totals, sums.sum() / counts.sum()
    t = stats.t.ppf(0.975, n - 1)
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * t)
    return np.array([
        np.quantile(replicates, (0.025, 0.975)),
        np.quantile(replicates, (tail, 1 - tail)),
        _bca(replicates, value, (sums.sum() - sums) / (counts.sum() - counts)),
        _bootstrap_t(replicates, value, sums, counts, weights, totals),
        from_sums(sums, counts, 0.95)[1:],
    ])  # fmt: skip


def _bca(replicates: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """Efron and Tibshirani (1993), ch. 14."""
    below = ((replicates < value).mean() + (replicates <= value).mean()) / 2
    bias, spread = stats.norm.ppf(np.clip(below, 1e-6, 1 - 1e-6)), left_out.mean() - left_out
    scale = (spread**2).sum() ** 1.5
    acceleration = (spread**3).sum() / (6 * scale) if scale > 0 else 0.0
    z = bias + stats.norm.ppf((0.025, 0.975))
    return np.quantile(replicates, stats.norm.cdf(bias + z / (1 - acceleration * z)))


def _bootstrap_t(
    replicates: np.ndarray, value: float, sums: np.ndarray, counts: np.ndarray, weights: np.ndarray, totals: np.ndarray
) -> tuple[float, float]:
    """Efron and Tibshirani (1993), ch. 12; resamples without variance are left out."""
    error = np.sqrt(((sums - value * counts) ** 2).sum()) / counts.sum()
    squares = weights @ sums**2 - 2 * replicates * (weights @ (sums * counts)) + replicates**2 * (weights @ counts**2)
    errors = np.sqrt(np.clip(squares, 0, None)) / totals
    usable = errors > 1e-9
    if not usable.any():
        return value, value
    low, high = np.quantile((replicates[usable] - value) / errors[usable], (0.025, 0.975))
    return value - high * error, value - low * error


def coverage(
    n_images: int, accuracies: tuple[float, float], *, n_sets: int, n_resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """(methods,) share of data sets whose interval holds the true difference."""
    rng, true = np.random.default_rng(seed), accuracies[0] - accuracies[1]
    held = np.zeros(len(METHODS))
    for _ in range(n_sets):
        low, high = intervals(*draw(n_images, accuracies, rng), rng, n_resamples).T
        held += (low - 1e-12 <= true) & (true <= high + 1e-12)
    return held / n_sets


def accuracy_coverage(
    n_images: int, accuracy: float, *, n_sets: int, n_resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """(2,) share of data sets whose percentile, and Wilson's, interval holds the true accuracy."""
    rng, held = np.random.default_rng(seed), np.zeros(2)
    for _ in range(n_sets):
        sums, counts = draw_hits(n_images, accuracy, rng)
        weights = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n_resamples).astype(float)
        percentile = np.quantile(weights @ sums / (weights @ counts), (0.025, 0.975))
        for i, (low, high) in enumerate((percentile, cluster_wilson(sums, counts, 0.95))):
            held[i] += low - 1e-12 <= accuracy <= high + 1e-12
    return held / n_sets


def draw_hits(n_images: int, accuracy: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one data set of one method: hits, and the number of expressions, of every image."""
    counts = rng.integers(1, 4, n_images)
    of = np.repeat(np.arange(n_images), counts)
    score = np.sqrt(_IMAGE) * rng.normal(size=n_images)[of] + np.sqrt(1 - _IMAGE) * rng.normal(size=of.size)
    return np.bincount(of, (score < stats.norm.ppf(accuracy)).astype(float), n_images), counts.astype(float)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=4000, help="data sets of each setting")
    n_sets = parser.parse_args(arguments).sets
    print(f"{'images':>6}", *(f"{name:>12}" for name in METHODS))
    for n_images in IMAGES:
        found = np.array([coverage(n_images, pair, n_sets=n_sets) for pair in SETTINGS])
        cells = (f"{low:.3f} {mean:.3f}" for low, mean in zip(found.min(0), found.mean(0), strict=True))
        print(f"{n_images:>6}", *(f"{cell:>12}" for cell in cells), flush=True)
    print(f"{'images':>6}", *(f"{name:>12}" for name in ("percentile", "wilson")))
    for n_images in FEWER_IMAGES:
        found = np.array([accuracy_coverage(n_images, accuracy, n_sets=n_sets) for accuracy in ACCURACIES])
        cells = (f"{low:.3f} {mean:.3f}" for low, mean in zip(found.min(0), found.mean(0), strict=True))
        print(f"{n_images:>6}", *(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
