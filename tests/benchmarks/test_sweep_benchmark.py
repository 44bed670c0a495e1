"""The benchmark of a sweep: every moment counts once, both ways give the same lines, the bound lies below the time."""

from __future__ import annotations

import json

import pytest

from benchmarks import expressions, sweep
from benchmarks.parts import BELOW, PARTS, UNPRUNED, Parts


def test_a_moment_counts_for_the_innermost_part():
    now = [0.0]
    parts = Parts(clock=lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    inner = parts.around("inner", lambda: wait(2))
    outer = parts.around("outer", lambda: (wait(1), inner(), wait(4)))
    outer()
    wait(8)  # no part runs
    inner()
    assert dict(parts.seconds) == {"outer": 5.0, "inner": 4.0}

    def fail():
        wait(1)
        raise ValueError

    with pytest.raises(ValueError):
        parts.around("inner", fail)()
    wait(8)
    assert parts.seconds["inner"] == 5.0


@pytest.mark.long
def test_the_report_at_toy_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "METHODS", ("none", "random", "relative"))
    monkeypatch.setattr(sweep, "KEEPS", (0.2, 0.1))
    sweep.main(["--batch-sizes", "1,2", "--n", "2", "--calibration", "4", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "sweep.json").read_text())
    both, split = (table["rows"] for table in found["tables"])
    assert [row["batch"] for row in both] == [1, 2]
    for row in both:
        assert row["lines"] == row["answers"] == row["all"] == 2 * 5
        assert 0 < row["bound_s"] < row["shared_s"] and row["ratio"] == pytest.approx(row["plain_s"] / row["shared_s"])
        parts = {part["part"]: part for part in split}
        assert set(parts) == {*PARTS, "else"}
        for way in ("plain", "shared"):
            assert sum(part[f"{way} {row['batch']}"] for part in parts.values()) == pytest.approx(row[f"{way}_s"])
        below = parts["prefill, layers < K"]
        assert below[f"shared {row['batch']}"] < 0.6 * below[f"plain {row['batch']}"]  # one of five prefills


@pytest.mark.long
def test_expressions_of_a_picture_at_toy_size(tmp_path, capsys):
    options = "--batch-sizes 4 --n 4 --expressions 4 --calibration 4 --repeats 1 --methods none,random,fastv --keep 0.2"
    expressions.main([*options.split(), "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "expressions.json").read_text())["tables"][0]["rows"]
    assert row["lines"] == row["answers"] == row["kept"] == 4 * 3
    for part in (BELOW, UNPRUNED):  # one image: a quarter of the image tokens, and the text
        assert 0 < row[f"images {part}"] < 0.8 * row[f"rows {part}"]
