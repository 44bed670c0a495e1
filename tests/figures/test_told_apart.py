"""Seven methods are told apart: by colour under three colour blindnesses, in grey print by shape and line."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from biaslab.figures.styling import COLORS, LINES, MARKERS

#: Machado, Oliveira and Fernandes (2009), A Physiologically-based Model for Simulation of Color Vision Deficiency: at
#: severity 1, on linear RGB
SIGHT = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_FAR = 15.0  # difference in CIELAB (1976) above which nobody takes one line for the other
_SAME_GREY = 10.0  # difference in lightness below which two are one grey in print
SEVEN = range(7)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIELAB of a colour as it is seen."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    x = _XYZ @ np.clip(np.asarray(SIGHT[sight]) @ linear, 0, 1) / _WHITE
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_cielab_is_computed_as_published():
    np.testing.assert_allclose(lab("#FFFFFF", "full"), [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab("#FF0000", "full"), [53.24, 80.09, 67.20], atol=0.02)  # sRGB red


@pytest.mark.parametrize("sight", SIGHT)
def test_all_colours_differ_for_every_sight(sight):
    for a, b in combinations(COLORS, 2):
        assert np.linalg.norm(lab(a, sight) - lab(b, sight)) >= _FAR, (a, b)


@pytest.mark.parametrize("sight", SIGHT)
def test_every_colour_stands_off_white_paper_and_black_reference_lines(sight):
    for colour in COLORS:
        assert 20 < lab(colour, sight)[0] < 80


def test_in_grey_print_shape_and_line_carry_what_colour_cannot():
    """Lightness alone does not tell seven apart: what is one grey differs in shape, and neighbours in the line too."""
    light = [lab(colour, "full")[0] for colour in COLORS]
    alike = [(i, j) for i, j in combinations(SEVEN, 2) if abs(light[i] - light[j]) < _SAME_GREY]
    assert alike  # or nothing would have to carry it
    assert len({MARKERS[i] for i in SEVEN}) == 7
    for i, j in alike:
        assert (MARKERS[i], LINES[i % len(LINES)]) != (MARKERS[j], LINES[j % len(LINES)])
    assert all(LINES[i % len(LINES)] != LINES[(i + 1) % len(LINES)] for i in SEVEN)
