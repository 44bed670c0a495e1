"""The benchmark of decoding: both ways from the same prefill, the same answers, ratios of what is in the table."""

from __future__ import annotations

import json

import pytest

from benchmarks import decode


@pytest.mark.long
def test_the_report_at_toy_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decode, "SWEEP", ("none", "random"))
    decode.main(["--batch-sizes", "1,2", "--new-tokens", "4", "--n", "2", "--repeats", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "decode.json").read_text())
    steps, (sweep,) = (table["rows"] for table in found["tables"])
    assert [(row["batch"], row["method"]) for row in steps] == [(b, m) for b in (1, 2) for m in ("none", "random")]
    for row in (*steps, sweep):
        assert row["static"] > 0 and row["ratio"] == pytest.approx(row["static"] / row["dynamic"])
    assert all(row["equal"] == row["batch"] for row in steps) and sweep["equal"] == sweep["lines"] == 2 * 3


def test_a_step_is_timed_from_the_decoders_second_call():
    import biaslab as bl
    from biaslab.evaluation.configurations import Config

    vlm, sample = bl.load("grounder"), next(iter(bl.load_dataset("scenes", n=1)))
    ready = vlm.vision(vlm.encode_grounding([sample.image()], [sample.expression]))
    for way, calls in (("dynamic", 3), ("static", 2)):  # the prefill and two steps; the prefill and a look
        seen, ticks = [], iter(range(100))
        handle = vlm.decoder.register_forward_pre_hook(lambda *_, seen=seen: seen.append(0))
        seconds, answers = decode.decoding(vlm, ready, Config(None, None), way, 3, lambda ticks=ticks: next(ticks))
        handle.remove()
        assert seconds == 1 and len(seen) == calls and len(answers) == 1
