"""The benchmarks at toy size: that they measure what they say and report it, not how fast anything is."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from benchmarks import capture, common, inputs, launches, prefill, selection
from benchmarks.greedy import WAYS, lazy_d2pruner
from benchmarks.report import Report, Table, Target
from biaslab.cost import decoder_flops
from biaslab.pruning import D2Pruner, TokenContext, budget
from biaslab.pruning.algorithms import mis

TOY = {"hidden": 64, "layers": 3}


@pytest.fixture(scope="module")
def vlm():
    return inputs.model(**TOY)


# -- common ----------------------------------------------------------------------------------------------------
def test_tasks_take_turns_and_slow_ones_few():
    calls = []
    tasks = {name: lambda name=name: calls.append(name) for name in "ABC"}
    times = common.side_by_side(tasks, 3, fewer_repeats={"C": 1})
    assert "".join(calls) == "AB" + "ABC" + "BA" + "AB"  # the warm-up round first
    assert [len(times[name].wall) for name in "ABC"] == [3, 3, 1]


def test_sleeping_costs_wall_time_and_no_cpu_time():
    times = common.side_by_side({"sleep": lambda: time.sleep(0.02), "none": lambda: None}, 2)
    assert times["sleep"].min("wall") >= 0.02 > times["sleep"].median("cpu")
    assert times["sleep"].ratio_to(times["none"], "wall") > 10
    assert (common.measured_clock(1), common.measured_clock(2)) == ("cpu", "wall")


def test_peak_memory_is_what_the_task_takes_at_most():
    def task(mib):
        torch.ones(mib, 2**18)  # gone before the task ends, and counted
        return torch.ones(4, 2**18)

    peak = common.extra_peak(lambda: task(64), warm=lambda: task(1))
    if peak is None:
        pytest.skip("this kernel does not reset the peak")
    assert 62 <= peak <= 80  # the kernel counts a little loosely


def test_a_failing_probe_is_not_silent():
    with pytest.raises(RuntimeError, match="failed"):
        common.in_fresh_process("benchmarks.no_such_module", threads=1)


def test_a_report_is_printed_and_written(tmp_path, capsys):
    table = Table("Things", {"a": ("name", ""), "b": ("ms", ".1f")}, [{"a": "x", "b": 1.26}, {"a": "y"}])
    targets = [Target("good", 1.0, 1.1), Target("bad", 0.5, 0.85, least=True)]
    Report("things", "Some things", {"n": [1, 2]}, [table], targets).publish(tmp_path)
    text, data = (tmp_path / "things.md").read_text(), json.loads((tmp_path / "things.json").read_text())
    assert text in capsys.readouterr().out
    assert "| x    | 1.3 |" in text and "| y    |   - |" in text
    assert "- met: good" in text and "- MISSED: bad" in text
    assert data["tables"][0]["rows"][0]["b"] == 1.26
    assert [t["met"] for t in data["targets"]] == [True, False]
    assert data["command"].startswith("python -m benchmarks.things") and data["machine"]["cores"] >= 1


# -- inputs ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [*selection.SIZES, *(n - 256 for n in capture.SIZES), 192])
def test_layouts_hold_the_tokens_asked_for(n):
    layout = inputs.layout_of(n)
    assert layout.n == n
    assert layout.thumbnail.any() == (n not in (256, 576))


def test_features_resemble_their_neighbours():
    layout = inputs.layout_of(256)
    unit = torch.nn.functional.normalize(inputs.features(layout, 512, length=0.1), dim=1)
    cosine = unit @ unit.T
    assert 0.6 < cosine[0, 1] < 0.9  # next cell
    assert 0.2 < cosine[0, -1] < 0.4  # opposite corner: the common direction alone


# -- the three ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", sorted(selection.GRAPHS))
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suppress", [False, True])
def test_the_lazy_greedy_keeps_what_d2pruner_keeps(kind, keep, suppress):
    case = selection.Case.of(576, kind, 64)
    context = TokenContext(case.layout, budget(keep, 576), layer=2, attention=case.attention, features=case.features)
    method = D2Pruner(keep=keep, profile=case.profile, theta=case.theta, pivots_suppress=suppress, diagnose=True)
    want = method.select(context)
    assert 0 < want.info["edge_density"] < 1 and want.info["degenerate"] is None
    if keep == 0.5:
        assert want.info["overlap_topk"] < 1  # the graph matters
    for way in WAYS:
        assert torch.equal(lazy_d2pruner(method, context, way), want.indices)


@pytest.mark.long
def test_selection_reports_both_and_where_time_goes(monkeypatch):
    found = selection.report([256], [0.5], dim=32, repeats=1, threads=1)
    assert [(row["graph"], row["suppress"]) for row in found.tables[0].rows] == [
        (graph, suppress) for graph in selection.GRAPHS for suppress in ("no", "yes")
    ]
    for row in found.tables[0].rows:
        assert row["mis_size"] + row["filled"] == 39
        assert all(row[f"{who}_ms"] > 0 for who in ("ours", "greedy", "diagnosed"))
        assert all(row[f"{who}_{part}_ms"] > 0 for who in ("ours", "greedy") for part in ("products", "mis"))
    assert "N = 256" in found.markdown()
    monkeypatch.setattr(selection, "lazy_d2pruner", lambda *_: torch.arange(128))
    with pytest.raises(RuntimeError, match="differ"):
        selection.report([256], [0.5], dim=32, repeats=1, threads=1)


def test_capture_modes_do_what_they_are_called(vlm):
    encoded = capture._prompt(vlm, 256)
    plain = capture.prefill(vlm, encoded, "plain").logits
    maps = capture.prefill(vlm, encoded, "eager").attentions
    assert len(maps) == 3 and maps[0].shape == (1, 8, 256, 256)
    for mode, n in (("row1", 1), ("row64", 64)):
        out, rows = capture.prefill(vlm, encoded, mode)
        assert torch.equal(out.logits, plain)
        assert sorted(rows) == [0, 1, 2] and rows[2].values.shape == (1, 8, n, 192)
        want = maps[2][:, :, -n:][..., encoded.visual[0]]
        assert (rows[2].values - want).abs().max() < 1e-4
    assert vlm.decoder.config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_capture_reports_every_mode(monkeypatch, capsys):
    flags = {"--hidden": 64, "--layers": 3, "--sizes": 256, "--probe": "row64"}
    capture.main([str(word) for pair in flags.items() for word in pair])
    probed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert probed is None or 0 < probed < 200
    asked = []

    def fresh(module, *options, threads):
        asked.append(options)
        return 10.0 * len(asked)

    monkeypatch.setattr(capture, "in_fresh_process", fresh)
    found = capture.report([256], TOY, repeats=1, threads=1)
    rows = found.tables[0].rows
    assert [row["mode"] for row in rows] == list(capture.MODES)
    assert [row["memory_ratio"] for row in rows] == [1.0, 2.0, 3.0, 4.0]
    assert asked[3] == ("--probe", "eager", "--sizes", "256", "--hidden", "64", "--layers", "3")
    assert rows[2]["rows_mb"] == pytest.approx(3 * 8 * 64 * 192 * 4 / 2**20)
    assert len(found.targets) == 4 and all(row["time_ratio"] > 0 for row in rows)


def test_prefill_reports_speed_against_the_limit():
    found = prefill.report(256, [3], hidden=64, keep=0.25, layer=2, repeats=1, threads=1)
    rows = {row["name"]: row for row in found.tables[0].rows}
    assert {"unpruned", "short", "random", "fastv", "d2pruner"} < set(rows)
    config = inputs.model(**TOY).decoder.config
    limit = decoder_flops(config, 192, 64)[0] / decoder_flops(config, 192, 64, keep_n=48, layer=2)[0]
    for name in prefill.JUDGED:
        row = rows[name]
        assert row["limit"] == pytest.approx(limit)
        assert row["share"] == pytest.approx(row["speedup"] / limit)
        assert 1 < row["causal_limit"] < row["limit"]
        parts = ("limit", "causal", "rate", "hooks", "attention", "select", "other")
        assert sum(row[f"{part}_ms"] for part in parts) == pytest.approx(row["ms"])
        assert row["attention_ms"] > 0 and row["select_ms"] > 0
    assert "hooks_ms" not in rows["short"] and rows["random"]["attention_ms"] == 0
    assert [target.what.split(",")[0] for target in found.targets] == list(prefill.JUDGED)


def test_launches_count_what_a_device_would_be_asked(tmp_path):
    with launches.Counts() as counts:
        x = torch.arange(6.0).view(2, 3)  # one launch and a view
        x.add_(1)
        x[0][x[0] > 1]  # the comparison, and a look-up by a mask that waits
        x.sum().item()
        torch.from_numpy(np.ones(2))
    assert (counts.found["launches"], counts.found["waits"], counts.found["uploads"]) == (5, 2, 1)


def test_launches_of_a_batch_are_shared():
    settings = {"size": 256, "keep": [0.25], "batch": [1, 4], "dim": 16, "repeats": 1, "threads": 1}
    rows = {(row["method"], row["batch"]): row for row in launches.probe(settings)}
    assert {name for name, _ in rows} == set(launches.METHODS)
    for name in launches.METHODS:
        alone, together = rows[name, 1], rows[name, 4]
        assert together["launches"] < alone["launches"] and together["kept"][0] == alone["kept"][0]
    assert rows["divprune", 1]["waits"] == 0 and rows["divprune", 4]["launches"] < 64  # of 64 steps
    for name in ("d2pruner", "d2pruner, pivots suppress"):
        assert 0 < rows[name, 4]["waits"] < rows[name, 1]["waits"]
    assert mis.block_for(torch.device("cpu")) == 64  # as it was
    table = launches.report(settings, [{**row, "launches_before": 9.0, "ratio": 0.5} for row in rows.values()])
    assert "launches before" in table.markdown() and "ms / before" in table.markdown()
