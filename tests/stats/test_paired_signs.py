"""Many sign-flip tests at once: each has the p-value it has alone, to the digit."""

from __future__ import annotations

import numpy as np
import pytest

from biaslab.errors import InputError
from biaslab.stats import paired_signs
from biaslab.stats.image_codes import ImageCodes
from biaslab.stats.paired_hits import paired_hits
from biaslab.stats.paired_signs import SignFlips, paired_p_values
from biaslab.stats.resampling import ImageBootstrap, paired_p_value


def hits(n=900, images=350, columns=6, seed=0):
    rng = np.random.default_rng(seed)
    made = (rng.random((n, columns)) < np.linspace(0.4, 0.7, columns)).astype(float)
    return made, np.array([f"image{i}" for i in rng.integers(0, images, n)])


@pytest.mark.parametrize("block", [1 << 17, 100])
def test_p_values_are_those_of_single_tests(block, monkeypatch):
    monkeypatch.setattr(paired_signs, "_FLIPPED", block)
    monkeypatch.setattr(paired_signs, "_DRAWN", 8 * 1001)
    made, images = hits()
    differences = made[:, 1:] - made[:, :1]
    differences[:, 1] = 0.0  # agree everywhere
    differences[:, 2] *= np.arange(900) < 12  # few images differ: enumerated
    differences[:, 3] *= 0.3  # no whole numbers
    differences = np.column_stack(
        [differences, np.full(900, np.nan), np.where(np.arange(900) < 600, made[:, 2], np.nan)]
    )
    alone = [paired_p_value(column, np.zeros(900), images, n_resamples=500, seed=3) for column in differences.T]
    flips = SignFlips(500, seed=3)
    np.testing.assert_array_equal(paired_p_values(differences, images, flips=flips), alone)
    np.testing.assert_array_equal(
        paired_p_values(differences[:, ::-1], ImageCodes.of(images), flips=flips), alone[::-1]
    )
    assert 0 < alone[0] < 1 and alone[1] == 1 and np.isnan(alone[5])


def test_a_matrix_of_differences_has_the_intervals_of_its_columns():
    made, images = hits()
    bootstrap = ImageBootstrap(images, n_resamples=200)
    reference = made[:, [0]] * np.ones(6)
    whole = paired_hits(made, reference, ImageCodes.of(images), bootstrap=bootstrap)
    alone = [paired_hits(made[:, i], made[:, 0], images, bootstrap=bootstrap) for i in range(6)]
    np.testing.assert_array_equal(np.array(whole), np.array(alone).T)
    made[:, 4] = np.nan
    some = paired_hits(made, reference, images, bootstrap=bootstrap)
    np.testing.assert_array_equal(np.delete(np.array(some), 4, 1), np.delete(np.array(whole), 4, 1))
    assert np.isnan(some.value[4])
    few = paired_hits(made[:90, :3], reference[:90, :3], images[:90])
    assert few.lo[1] == paired_hits(made[:90, 1], made[:90, 0], images[:90]).lo


def test_codes_are_in_the_order_of_names_and_can_be_taken():
    images = ImageCodes.of(["10", "2", "10", "1"])
    assert images.names.tolist() == ["1", "10", "2"] and images.code.tolist() == [1, 2, 1, 0]
    part = images.take(np.array([True, False, True, False]))
    assert part.names.tolist() == ["10"] and part.sums(np.ones((2, 1))).tolist() == [[2.0]]
    assert ImageCodes.of(images) is images
    with pytest.raises(InputError, match="an image id per sample"):
        paired_p_values(np.ones((3, 2)), images)
