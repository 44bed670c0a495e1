"""The benchmark of schedules: the limit is that of the FLOPs of every layer at its length."""

from __future__ import annotations

import pytest

from benchmarks import inputs, schedules
from biaslab.cost import decoder_flops


def test_limits_are_of_every_layer_at_its_length():
    found = schedules.report(128, [4], hidden=64, repeats=1, threads=1)
    rows = {row["name"]: row for row in found.tables[0].rows}
    assert set(schedules.JUDGED) < set(rows) and "unpruned" in rows
    config = inputs.model(64, 4).decoder.config
    whole = decoder_flops(config, 96, 32)[0]
    three = decoder_flops(config, 96, 32, keep_n=[48, 24, 9], layer=[1, 2, 3])[0]
    row = rows["fastv, fastv, fastv"]
    assert row["cuts"] == "48 from 1; 24 from 2; 9 from 3"
    assert row["limit"] == pytest.approx(whole / three) and row["share"] == pytest.approx(row["speedup"] / row["limit"])
    assert row["attention_ms"] > 0 and row["select_ms"] > 0 and rows["random, random"]["attention_ms"] == 0
    assert [target.what.rsplit(", ", 1)[0] for target in found.targets] == list(schedules.JUDGED)
