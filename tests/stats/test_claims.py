"""What an interval allows to say."""

import pandas as pd
import pytest

from biaslab.stats.claims import is_within, side_of

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("lo", "hi", "side", "within"),
    [
        (1.1, 1.5, 1, False),
        (0.2, 0.9, -1, False),
        (0.9, 1.5, 0, False),
        (0.9, 1.1, 0, True),
        (1.01, 1.2, 1, True),
        (0.8, 1.25, 0, True),
        (0.79, 1.0, 0, False),
        (1.0, 1.2, 0, True),  # an interval that touches the null holds it
        (NAN, 1.5, None, False),
        (0.9, NAN, None, False),
        (NAN, NAN, None, False),
        (1.1, INF, None, False),
        (None, None, None, False),
        (pd.NA, 1.1, None, False),
    ],
)
def test_sides_and_margins(lo, hi, side, within):
    assert side_of(lo, hi, 1.0) == side and is_within(lo, hi, (0.8, 1.25)) is within
