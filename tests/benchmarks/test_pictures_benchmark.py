"""The benchmark of images at toy size: equal pixel values, a quarter of the bytes, equal results with threads."""

from __future__ import annotations

import json

import pytest

from benchmarks import pictures


@pytest.mark.long
@pytest.mark.usefixtures("grounder_at_hand")
def test_the_report_at_toy_size(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "CASES", {"llava-1.5-7b": (80, 60), "qwen2.5-vl-7b": (120, 90)})
    small = ["--n", "3", "--side", "96", "--repeats", "1", "--workers", "0,1", "--models", "llava-1.5-7b,qwen2.5-vl-7b"]
    pictures.main([*small, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "pictures.json").read_text())
    host, several, threads = (table["rows"] for table in found["tables"])
    assert {row["equal"] for row in (*host, *several, *threads)} == {"equal bit by bit"}
    assert all(row["raw_mb"] == pytest.approx(row["plain_mb"] / 4) for row in host)
    assert all(row["once_mb"] == pytest.approx(row["copies_mb"] / pictures.EXPRESSIONS) for row in several)
    assert [(row["run"], row["workers"]) for row in threads] == [
        (run, workers) for run in ("collect", "evaluate", "a free device") for workers in (0, 1)
    ]
    assert all(target["value"] <= target["bound"] for target in found["targets"])
