"""The benchmark of pruning methods at toy size: that it measures what it says, and says what it measured."""

import json
import sys
import time
from dataclasses import dataclass

import pandas as pd
import pytest
import tiny
import torch

from biaslab import cost
from biaslab.datasets.base import take
from biaslab.datasets.calibration import Calibration
from biaslab.datasets.scenes import ScenesDataset
from biaslab.errors import InputError
from biaslab.evaluation.run_once import run_once
from biaslab.evaluation.runner import evaluate
from biaslab.evaluation.stopwatch import interleaved
from biaslab.pruning import Method, Random, budget
from biaslab.workflows.bench import bench
from biaslab.workflows.bench_table import bench_latex, verdict

pytestmark = pytest.mark.slow

LAYER, KEEP = 2, 0.5
IMAGES = Calibration("noise", tiny.images(2), tiny.texts(2), ["a", "b"])


@dataclass(frozen=True, eq=False, kw_only=True)
class Sleeper(Method):
    """A rule that takes its time."""

    seconds: float = 0.05
    name = "sleeper"

    def pick(self, ctx, scores):
        time.sleep(self.seconds)
        return Random().pick(ctx, scores)


def _bench(vlm=None, methods=("random",), **options):
    settings = {"repeats": 2, "new_tokens": 3, "memory": False, "progress": False} | options
    return bench(vlm or tiny.vlm("internvl"), IMAGES, methods=list(methods), keep=KEEP, layer=LAYER, **settings)


def test_tasks_take_turns():
    order = [(turn, name) for turn, name in interleaved("ABC", 2, warmup=1)]
    assert "".join(name for _, name in order) == "CAB" + "ABC" + "BCA"
    assert [turn for turn, _ in order] == [-1] * 3 + [0] * 3 + [1] * 3


def test_every_configuration_is_measured_on_every_batch_and_round():
    found = _bench(methods=["random", "uniform"], repeats=3)
    assert found.table["method"].tolist() == ["none", "random", "uniform"]
    assert found.table["runs"].tolist() == [6, 6, 6]
    assert len(found.runs) == 2 * 3 * 3 and (found.runs[["vision_ms", "prefill_ms", "decode_ms"]] > 0).all(axis=None)
    one = found.runs[found.runs["config"] == 1]["prefill_ms"]
    row = found.table.iloc[1]
    assert (row["prefill_min"], row["prefill_ms"], row["prefill_max"]) == (one.min(), one.median(), one.max())
    assert found.settings["n"] == 2 and found.settings["model"] == "tiny-internvl"


def test_scoring_and_selection_are_part_of_the_prefill_and_shown_apart():
    found = _bench(methods=[Sleeper(seconds=0.15)], repeats=3)
    row = found.table.iloc[1]
    assert row["prefill_min"] >= 150 and row["prefill_ms"] > row["select_ms"] >= 150
    assert "no gain" in row["verdict"] and row["speedup_prefill"] < 1


def test_all_answers_have_the_same_length():
    vlm, calls = tiny.vlm("internvl"), []
    hook = vlm.decoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = _bench(vlm, methods=["none"], repeats=1, new_tokens=5, batch_size=2)
    finally:
        hook.remove()
    assert len(calls) == 2 * 5  # warm-up and one round, a batch of two images
    assert len(found.runs) == 1


def test_promised_speed_up_is_the_ratio_of_flops():
    vlm = tiny.vlm("internvl")
    row, full = _bench().table.iloc[1], []
    for size, text in zip(tiny.images(2), tiny.texts(2), strict=True):
        encoded = vlm.encode([size], [text])
        (layout,) = encoded.layouts
        sizes = (vlm.model.config.text_config, layout.n, encoded.last + 1 - layout.n)
        full.append(
            [cost.decoder_flops(*sizes)[0], cost.decoder_flops(*sizes, keep_n=budget(KEEP, layout.n), layer=LAYER)[0]]
        )
    whole, pruned = (sum(part) for part in zip(*full, strict=True))
    assert row["flops_prefill"] == pytest.approx(whole / pruned) and row["flops_prefill"] > 1
    assert row["tflops_prefill"] == pytest.approx(pruned / 2 / 1e12)


def test_several_images_in_a_prompt_count_together():
    """Each image has a budget of its own; the text of the prompt counts once."""
    vlm, pictures = tiny.vlm("internvl"), tiny.images(3)
    images = Calibration("groups", [pictures[:2], [pictures[2]]], "Where?")
    found = bench(
        vlm, images, methods=["uniform"], keep=KEEP, layer=LAYER, repeats=1, new_tokens=2, memory=False, progress=False
    )
    whole = pruned = 0
    for group in images.images:
        enc = vlm.encode([group], ["Where?"])
        counts = [layout.n for layout in enc.layouts]
        sizes = (vlm.model.config.text_config, sum(counts), enc.last + 1 - sum(counts))
        whole += cost.decoder_flops(*sizes)[0]
        pruned += cost.decoder_flops(*sizes, keep_n=sum(budget(KEEP, n) for n in counts), layer=LAYER)[0]
    assert found.table["flops_prefill"][1] == pytest.approx(whole / pruned)


def test_bench_and_evaluate_run_the_same(grounder, monkeypatch):
    """The same prompts: what every configuration keeps and costs agrees to the last token and FLOP."""
    (sample,) = take(ScenesDataset(), 1)
    methods, new, runs = ["none", "random", "fastv", "divprune"], 2, {"evaluate": [], "bench": []}

    def recorded(name):
        def run(vlm, encoded, config, *args, **kw):
            runs[name].append((config.key, run_once(vlm, encoded, config, *args, **kw)))
            return runs[name][-1][1]

        return run

    monkeypatch.setattr("biaslab.evaluation.worker.run_once", recorded("evaluate"))
    monkeypatch.setattr(sys.modules["biaslab.workflows.bench"], "run_once", recorded("bench"))
    sizes = {"seed": 3, "batch_size": 1, "progress": False}
    lines = evaluate(
        grounder, ScenesDataset(), methods=methods, keep=KEEP, layer=LAYER, n=1, max_new_tokens=new, plain=True, **sizes
    ).samples
    images = Calibration("one", [sample], grounder.family.grounding_prompt(sample.expression), [sample.id])
    table = bench(
        grounder, images, methods=methods, keep=KEEP, layer=LAYER, new_tokens=new, repeats=1, memory=False, **sizes
    ).table
    assert lines["method"].tolist() == methods and lines["error"].isna().all() and len(table) == len(methods)
    for (_, line), (_, row) in zip(lines.iterrows(), table.iterrows(), strict=True):
        assert row["tflops_vision"] == line["tflops_vision"] and row["tflops_projector"] == line["tflops_projector"]
        assert round(1e12 * row["tflops_prefill"]) + round(1e12 * row["tflops_decode"]) == round(
            1e12 * line["tflops_decoder"]
        )
    assert [run.kept for _, run in runs["evaluate"]] == [[n] for n in lines["tokens_kept"]]
    once = dict(runs["evaluate"])
    often = [run for run in runs["bench"] if run[0] in once]  # without the runs that keep one token, for the limits
    assert len(often) == 2 * len(once)  # a round of warm-up and one that counts
    for key, run in often:
        assert run.kept == once[key].kept and run.flops == once[key].flops
        for a, b in zip(run.selections, once[key].selections, strict=True):
            assert (a is None and b is None) or torch.equal(a.indices, b.indices)


def test_words():
    flat = pd.Series([1.0] * 5)
    assert "2.00x faster (FLOPs: 2.50x)" in verdict(pd.Series([1.9, 2.0, 2.1, 1.8, 2.2]), 2.5, flat)
    assert "prefill no gain, 1.25x the time" in verdict(pd.Series([0.8, 0.7, 0.9, 0.8, 0.8]), 2.5, flat)
    assert "no clear gain, faster in 3 of 5 runs" in verdict(pd.Series([0.9, 1.1, 1.2, 0.8, 1.1]), 2.5, flat)
    assert "FLOPs" not in verdict(flat, float("nan"), flat) and "faster in 0 of 5" in verdict(flat, 2.0, flat)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([2.0], "2.00x in 1 run, too few to tell"),
        ([2.0, 2.1, 2.2, 2.0], "2.05x in 4 runs, too few to tell"),
        ([0.5, 0.5], "0.50x in 2 runs, too few to tell"),
        ([2.0] * 4 + [0.9], "no clear gain, faster in 4 of 5 runs"),  # four fifths of so few is what a coin does
        ([2.0] * 15 + [0.9] * 5, "2.00x faster"),
        ([0.5] * 15 + [1.1] * 5, "no gain, 2.00x the time"),
        ([float("nan")] * 6, "not known"),
        ([float("inf"), 0.0, float("nan")], "not known"),
        ([float("nan")] + [2.0] * 5, "2.00x faster"),
    ],
)
def test_a_speed_up_is_claimed_from_enough_runs_only(ratios, said):
    text = verdict(pd.Series(ratios), float("nan"), pd.Series([1.0]))
    assert text == f"prefill {said}, whole answer 1.00x in 1 run, too few to tell"


def test_memory_is_measured_or_has_no_column(monkeypatch):
    extra = _bench(memory=True).table["extra_mb"]
    assert ((extra > 0) | extra.isna()).all()
    monkeypatch.setattr(sys.modules["biaslab.workflows.bench"], "extra_peak", lambda task, warm: None)
    found = _bench(memory=True)
    assert found.records()[0]["extra_mb"] is None
    assert "memory" not in bench_latex(found.table, found.settings).split(r"\toprule")[1]


def test_files(tmp_path):
    found = _bench()
    files = found.save(tmp_path / "bench")
    assert [f.name for f in files] == ["bench.csv", "bench-runs.csv", "bench.tex", "bench.json"]
    pd.testing.assert_frame_equal(pd.read_csv(files[0])[["prefill_ms"]], found.table[["prefill_ms"]])
    tex = files[2].read_text()
    assert tex.count(r"\toprule") == 1 and "rehearsal" not in tex
    assert json.loads(files[3].read_text())["new_tokens"] == 3


def test_bad_arguments_are_refused_before_any_work(monkeypatch):
    vlm = tiny.vlm("internvl")
    monkeypatch.setattr(type(vlm), "prepare", lambda *_, **__: pytest.fail("worked"))
    for name, value in (("repeats", 0), ("new_tokens", 1), ("batch_size", 0)):
        with pytest.raises(InputError, match=name):
            _bench(vlm, **{name: value})
    with pytest.raises(InputError, match="profile"):
        _bench(vlm, methods=["d2pruner"])
    with pytest.raises(InputError, match="layer"):
        bench(vlm, IMAGES, methods=["random"], keep=0.5, layer=99)


def test_a_configuration_that_fails_costs_only_itself(monkeypatch):
    from biaslab.pruning import FastV

    monkeypatch.setattr(FastV, "importance", lambda self, ctx: 1 / 0)
    result = _bench(methods=["fastv", "random"])
    assert result.table["method"].tolist() == ["none", "random"] and set(result.runs["config"]) == {0, 1}
    assert result.settings["failed"] == {"fastv keep 0.5 layer 2": "ZeroDivisionError: division by zero"}
    assert not _bench(methods=["random"]).settings["failed"]
