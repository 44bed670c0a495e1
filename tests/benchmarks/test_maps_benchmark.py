"""The benchmark of maps at toy size: equal moments, the bytes of rows, and a peak that counts what lives."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import maps


def test_live_bytes_are_those_of_what_is_alive():
    with maps._LiveBytes() as live:
        first = torch.zeros(1000)
        view = first[:10]
        del first
        second = torch.ones(500)
        view.add_(1)
        del view, second
        torch.zeros(100)
    assert live.peak == 6000


@pytest.mark.long
@pytest.mark.usefixtures("grounder_at_hand")
def test_the_report_at_toy_size(tmp_path, capsys):
    small = ["--n", "3", "--layers", "2", "--heads", "2", "--tokens", "12,16", "--repeats", "1"]
    maps.main([*small, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "maps.json").read_text())
    moments, rows = (table["rows"] for table in found["tables"])
    assert [r["tokens"] for r in moments] == [12, 16] and {r["equal"] for r in moments} == {"equal bit by bit"}
    every, means = rows
    assert every["queries"] == means["queries"] > 1
    assert means["held"] == pytest.approx(3 * 10 * 4 * 256 * 4 / 2**20)  # images, layers, heads, tokens
    assert every["held"] == pytest.approx(every["queries"] * means["held"])
    assert every["peak"] > means["peak"] > 0
