"""The benchmark of frames runs and its shares add up."""

import pytest

from benchmarks import frames

pytestmark = pytest.mark.long


def test_shares_of_frames_add_up():
    drawn, kept = frames.report(6, [1], 0.1).tables
    assert [row["rows"] for row in drawn.rows] == ["last", "null"]
    for row in drawn.rows:
        assert row["layer"] == 0 and {"frame_0", "frame_1", "frame_2", "first", "last", "mean"} <= set(row)
    for each in kept.rows:
        assert abs(sum(each[f"kept_{k}"] for k in range(3)) - 100) < 1e-6 and 1 <= each["segments"] <= 3
