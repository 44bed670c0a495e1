"""The GPU script at toy size on a CPU: every part, what it does with parts that fail or hang, what it writes."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, inputs
from benchmarks.gpu_parts import (
    capture,
    checks,
    device_work,
    fit,
    kernels,
    models,
    phases,
    recompute,
    roofline,
    selection,
    sweep,
    timing,
)
from benchmarks.gpu_parts.plan import Findings, Plan
from biaslab.evaluation.decoding import static_loop
from biaslab.models import families
from biaslab.models.offline import stand_in_tokenizer
from biaslab.models.offline.random_init import build

CPU = torch.device("cpu")
TINY = Plan(CPU, tiny=True)


def run(part):
    found = Findings()
    part.run(TINY, found)
    return found


def rows_of(part, plan, caption):
    found = Findings()
    part.run(plan, found)
    return rows(found, caption)


def rows(found, caption):
    return next(table["rows"] for table in found.tables if caption in table["caption"])


# -- the parts ---------------------------------------------------------------------------------------------------
def test_a_fit_is_timed_by_the_step():
    (row,) = rows(run(fit), "Fit of a conditional profile")
    assert row["width"] == 64 and row["step"] > 0 and row["minutes"] == pytest.approx(row["step"] * 25 * 338 / 60)


@pytest.mark.long
def test_checks_hold_on_a_cpu():
    found = run(checks)
    table = rows(found, "Contracts")
    assert found.failures == [] and {row["verdict"] for row in table} == {"ok"}
    assert len(table) == 2 * (2 * len(checks.CHECKS) + len(checks.SELECTION)) + 2
    assert all(row["control"] > row["tolerance"] for row in table)


@pytest.fixture(scope="module")
def prompts():
    vlm = models.sharp("internvl", CPU, torch.float32)
    sizes = ((112, 56), (60, 60))
    images = [models.pictures(1, size, seed)[0] for seed, size in enumerate(sizes)]
    return vlm, vlm.vision(vlm.encode(images, ["What is it?", "the small green square"], sample_ids=["a", "b"]))


def test_checks_see_what_is_wrong(prompts, monkeypatch):
    vlm, encoded = prompts
    assert checks.recomputed(vlm, encoded, torch.float32).verdict == "ok"
    assert checks.by_steps(vlm, encoded, torch.float32).verdict == "ok"
    monkeypatch.setattr(checks, "dropped", lambda *given: recompute.dropped(*given).roll(1, 1))
    assert checks.recomputed(vlm, encoded, torch.float32).verdict == "FAILED"
    assert checks.by_steps(vlm, encoded, torch.float32).verdict == "FAILED"
    monkeypatch.setattr(checks, "FastV", lambda keep: checks.make("random", keep=min(keep, 0.9)))
    assert checks.keep_all(vlm, encoded, torch.float32).verdict == "FAILED"
    real = checks.capture
    monkeypatch.setattr(checks, "capture", lambda vlm, **kw: real(vlm, **{**kw, "score": "no_rope"}))
    assert checks.rows(vlm, encoded, torch.float32).verdict == "FAILED"


def test_steps_behind_an_answer_are_told(prompts, monkeypatch):
    """As where a device is asked every eighth step alone and the limit of nine tokens does not count."""
    vlm, encoded = prompts
    monkeypatch.setattr(static_loop, "look_every", lambda device: 8)
    assert checks.by_steps(vlm, encoded, torch.float32).verdict == "ok"
    monkeypatch.setattr(static_loop.Generation, "most", None)
    with pytest.raises(RuntimeError, match="16 tokens were chosen for an answer of 9"):
        checks.by_steps(vlm, encoded, torch.float32)


def test_a_check_without_a_control_or_a_number_is_none():
    assert checks.Found(0.0, 1e-4, 1e-5).verdict == "BLIND"
    assert checks.Found(float("nan"), 1e-4, 1.0).verdict == "FAILED"


def test_a_check_that_raises_is_a_row_and_a_failure():
    found = Findings()
    checks._one(found, {"check": "x", "dtype": "y"}, lambda: 1 / 0)
    assert rows(found, "Contracts") == [
        {"check": "x", "dtype": "y", "verdict": "FAILED", "why": "ZeroDivisionError: division by zero"}
    ]
    assert found.failures == ["x, y: ZeroDivisionError: division by zero"]


@pytest.mark.long
def test_capture_compares_every_mode_with_plain_attention():
    table = rows(run(capture), "attention rows")
    assert [row["batch"] for row in table] == [1, 1, 1, 1, 2, 2, 2]  # eager for one prompt alone
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in table)
    assert table[0]["ratio"] == table[4]["ratio"] == 1


@pytest.mark.long
def test_phases_add_up_to_an_answer():
    found = run(phases)
    table = rows(found, "An answer")
    ways = [(m, "dynamic") for m in phases.METHODS] + [(m, "static") for m in phases.ALSO]  # graphs on CUDA
    assert [(row["batch"], row["method"], row["decoded"]) for row in table] == [
        (b, *way) for b in (1, 2) for way in ways
    ]
    for row in table:
        parts = sum(row[part] for part in ("vision", "below", "select", "above", "decode"))
        assert row["answer"] == pytest.approx(parts)
        assert (row["select"] > 0) == (row["method"] != "none")
        assert (row["rows"] > 0) == (row["method"] in ("fastv", "d2pruner"))
    assert table[0]["speedup"] == table[5]["speedup"] == 1
    assert table[9]["speedup"] == table[8]["answer"] / table[9]["answer"]
    assert table[14]["speedup"] == table[13]["answer"] / table[14]["answer"]
    beside = rows(found, "Computed")
    assert len(beside) == 2 * 2 * (5 + 6) and all(row["ratio"] > 0 for row in beside if row["part"] != "selection")
    faster = [(row["batch"], row["decoded"]) for row in rows(found, "times faster")]
    assert faster == [(b, way) for b in (1, 2) for way in ("dynamic", "static")]
    assert found.failures == []


@pytest.mark.slow
def test_selection_is_timed_on_images_that_differ():
    batch = selection.context(TINY, 2)
    assert torch.equal(batch[1].features, batch.stack[256:]) and batch.stack.dtype == torch.bfloat16
    assert not torch.equal(batch[0].features, batch[1].features)
    table = rows(run(selection), "Selection")
    assert len(table) == 12 and all(row["each"] == row["ms"] / row["batch"] > 0 for row in table)


@pytest.mark.long
def test_kernels_tell_what_sdpa_runs():
    found = run(kernels)
    told = {row["what"]: row for row in rows(found, "Attention under SDPA")}
    assert found.failures == [] and len(told) == 9
    assert told["prefill, 1 prompt"]["backends"] == "4 flash (CPU)"
    assert told["prefill and 4 decode steps, 1 prompt"]["backends"] == "20 flash (CPU)"


def test_backends_tell_the_math_kernel_from_others():
    x = torch.randn(1, 2, 8, 16)
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert kernels.backends(lambda: attend(x, x, x), CPU)["backends"] == "1 math"
    assert kernels.backends(lambda: x @ x.mT, CPU)["backends"] == "none"


def test_kernels_of_a_device_are_named_with_their_share(monkeypatch):
    def event(key, on, busy):
        where = getattr(torch.autograd.DeviceType, on)
        return SimpleNamespace(key=key, count=2, device_type=where, self_device_time_total=busy)

    class Profiler:
        def __init__(self, activities):
            assert torch.profiler.ProfilerActivity.CUDA in activities

        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

        def key_averages(self):
            return [
                event("aten::_scaled_dot_product_flash_attention", "CPU", 99.0),
                event("void pytorch_flash::flash_fwd_kernel<Traits<64> >(Params)", "CUDA", 30.0),
                event("void cutlass::gemm<float>(Params)", "CUDA", 70.0),
            ]

    monkeypatch.setattr(kernels, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    found = kernels.backends(lambda: None, torch.device("cuda"))
    assert found == {"backends": "2 flash", "kernels": "pytorch_flash::flash_fwd_kernel 30%"}


def test_the_device_is_timed_without_the_gaps(monkeypatch):
    def event(key, on, count, busy):
        where = getattr(torch.autograd.DeviceType, on)
        return SimpleNamespace(key=key, count=count, device_type=where, self_device_time_total=busy)

    class Profiler:
        def __init__(self, activities):
            assert torch.profiler.ProfilerActivity.CUDA in activities

        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

        def key_averages(self):
            return [event("cudaLaunchKernel", "CPU", 9, 0.0), event("gemm", "CUDA", 2, 900.0),
                    event("Memcpy HtoD", "CUDA", 1, 100.0)]  # fmt: skip

    monkeypatch.setattr(device_work, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    ran = []
    assert device_work.device_work(lambda: ran.append(1), torch.device("cuda")) == {"device_ms": 1.0, "launches": 3}
    assert ran == [1] and device_work.device_work(lambda: pytest.fail("ran"), CPU) == {}


@pytest.mark.long
def test_the_sweep_is_measured_both_ways(monkeypatch, grounder):
    monkeypatch.setattr("biaslab.load", lambda name, device, dtype: grounder)
    found = run(sweep)
    small, large = rows(found, "A sweep")
    assert (small["model"], small["dtype"], small["equal"], small["lines"]) == ("grounder", "float32", 6, 6)
    assert large["dtype"] == "bfloat16" and large["lines"] == 4 and found.failures == []


# -- the model and what is computed for it ------------------------------------------------------------------------
def test_the_large_model_has_its_published_size():
    with torch.device("meta"):
        model, _ = build(families()["internvl"], models.spec(Plan(CPU)), dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.08e9, rel=1e-3)
    assert {p.device.type for p in model.parameters()} == {"meta"}  # made where it stays, never on the CPU


def test_prompts_have_thirteen_tiles_and_the_length_of_real_ones():
    narrow = {"layers": 1, "vision_layers": 1, "hidden": 64, "heads": 2, "kv_heads": 2, "ffn": 64, "vocab": None}
    vlm = models.large(Plan(CPU), **narrow, vision_hidden=32, vision_heads=2, vision_ffn=32)
    encoded = models.prompts(vlm, 2)
    assert [layout.n for layout in encoded.layouts] == [13 * 256] * 2 and 3425 <= encoded.last + 1 <= 3440
    assert bool(encoded.inputs["attention_mask"].all())
    assert not models.prompts(vlm, 2, padded=True).inputs["attention_mask"].all()


def test_the_roofline_is_weights_attention_and_traffic():
    family = families()["internvl"]
    config = family.config(models.spec(Plan(CPU)), stand_in_tokenizer.tokenizer(family.special_tokens))
    layout = inputs.layout_of(3328)
    card = replace(roofline.H100, step=0.0)
    full, cut, wide = (
        roofline.computed(config, layout, 106, kept, 2, 26, batch, card)
        for kept, batch in ((None, 1), (332, 1), (332, 16))
    )
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)  # of the layers
    n = 3328 + 106
    want = 2 * weights * n / card.products + 32 * 4 * n * n * 4096 / 2 / card.attention
    assert full.below + full.above == pytest.approx(1e3 * want)
    assert full.below / full.above == pytest.approx(2 / 30) and cut.below == full.below
    assert cut.above < full.above * 438 / n
    memory = 2 * (weights + 4096 * 92553) + 32 * 4 * 8 * 128 * n
    assert full.decode == pytest.approx(25e3 * memory / card.memory)
    assert wide.decode < cut.decode / 4
    assert roofline.computed(config, layout, 106, None, 2, 26, 1).decode == pytest.approx(25 * 15)


# -- clocks ------------------------------------------------------------------------------------------------------
def test_a_task_that_fails_leaves_the_others_alone():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    calls = []
    found = timing.in_turn({"full": full, "bad": lambda: 1 / 0, "good": lambda: calls.append(1)}, TINY, 3)
    assert (found["full"].why, found["full"].failed, found["full"].median) == ("out of memory", False, None)
    assert found["bad"].failed and "division" in found["bad"].why
    assert len(calls) == 4 and len(found["good"].ms) == 3 and found["good"].why is None


def test_rounds_are_timed_by_the_median():
    found = timing.in_turn({"sleep": lambda: time.sleep(0.02)}, TINY, 3)["sleep"]
    assert found.median >= 20 and found.peak_mb is None


@pytest.mark.long
def test_no_round_begins_when_the_time_is_over(monkeypatch):
    moments = iter(range(100))  # one for each look at the clock
    monkeypatch.setattr("benchmarks.gpu_parts.plan.time", SimpleNamespace(monotonic=lambda: next(moments)))
    found = timing.in_turn({"a": lambda: None, "b": lambda: None}, replace(TINY, until=4.5), 50)
    assert (len(found["a"].ms), len(found["b"].ms)) == (1, 2)  # a b warm up, b a, b: the sixth is too late
    over = timing.in_turn({"a": lambda: pytest.fail("began")}, replace(TINY, until=0.0))["a"]
    assert (over.why, over.failed, over.median) == ("out of time", False, None)
    table = rows_of(capture, replace(TINY, until=0.0), "attention rows")
    assert {row["why"] for row in table} == {"out of time"}


def test_cuda_is_timed_by_events(monkeypatch):
    class Event:
        """As torch's, in a queue that is 5 ms behind per event."""

        made, waited = 0, 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            Event.made += 1
            self.at = 5.0 * Event.made

        def synchronize(self):
            Event.waited += 1

        def elapsed_time(self, later):
            return later.at - self.at

    assert all(hasattr(torch.cuda.Event, name) for name in vars(Event) if not name.startswith("_") and name[0] in "rse")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    answers = {"memory_allocated": 2**20, "max_memory_allocated": 3 * 2**20}
    for name in ("current_stream", "synchronize", "reset_peak_memory_stats", *answers):
        value = answers.get(name)
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    found = timing.in_turn({"x": lambda: None}, Plan(torch.device("cuda")))["x"]
    assert found.ms == [5.0] * 3 and found.peak_mb == 2 and Event.waited == 4


# -- the script --------------------------------------------------------------------------------------------------
def test_what_cannot_be_measured_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given, fix in (
        ([], "--device cpu --tiny"), (["--device", "cpu"], "--tiny"), (["--device", "meta", "--tiny"], "cuda and cpu"),
        (["--device", "gpu"], "device"), (["--parts", "checks,kernel"], "no part kernel: choose"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            gpu.main(given)
        assert stop.value.code == 2 and fix in capsys.readouterr().err


def test_all_parts_fit_in_eight_minutes():
    assert sum(gpu.PARTS.values()) <= gpu.TOTAL <= 480


def test_parts_end_as_they_may_and_what_was_found_is_written(tmp_path, monkeypatch):
    written = []

    def ended(name, plan, found, limit):
        written.append(sorted(p.name for p in tmp_path.iterdir()))
        partial = Findings(found)
        partial.add("Times", {"ms": ("ms", ".1f")}, {"ms": 1.25})
        if name == "phases":
            partial.fail("phases ended early: RuntimeError: no")
        return "out of time" if name == "capture" else "done"

    monkeypatch.setattr(gpu, "_in_own_process", ended)
    failures = gpu.measure(TINY, ["checks", "capture", "phases"], tmp_path, {"checks": 9, "capture": 9, "phases": 9})
    assert failures == 2 and written[1] == ["gpu.json", "gpu.md"]  # after the first part already
    text, data = (tmp_path / "gpu.md").read_text(), json.loads((tmp_path / "gpu.json").read_text())
    assert [row["state"] for row in data["tables"][0]["rows"]] == ["done", "out of time", "done, 1 failed"]
    assert text.count("1.2 |") == 3 and "FAILED: phases ended early" in text
    assert text.startswith("# A rehearsal at toy size: its figures mean nothing") and data["settings"]["card"] == "none"


def test_no_part_begins_without_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_in_own_process", lambda *_: pytest.fail("was started"))
    assert gpu.measure(TINY, ["checks"], tmp_path, total=0) == 1
    assert "no time was left" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_raises_keeps_its_rows(monkeypatch, tmp_path):
    def broken(plan, findings):
        findings.add("Times", {"ms": ("ms", ".1f")}, {"ms": 2.0})
        raise RuntimeError("CUDA error:\n an illegal access")

    monkeypatch.setattr(selection, "run", broken)
    assert gpu.run_part("selection", TINY, Findings(tmp_path / "found.json")) == 1
    found = Findings.read(tmp_path / "found.json")
    assert found.failures == ["selection ended early: RuntimeError: CUDA error: an illegal access"]
    assert rows(found, "Times") == [{"ms": 2.0}]


@pytest.mark.long
def test_a_part_that_hangs_is_ended(tmp_path):
    start = time.monotonic()
    assert gpu._in_own_process("checks", TINY, tmp_path / "found.json", 0.5).startswith("out of time")
    assert time.monotonic() - start < 10 and Findings.read(tmp_path / "found.json").tables == []


@pytest.mark.long
def test_a_part_runs_in_a_process_of_its_own(tmp_path, capfd):
    assert gpu.main(["--tiny", "--device", "cpu", "--parts", "selection", "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert [table["caption"] for table in data["tables"]] == ["Parts", "Selection alone"]
    assert data["tables"][0]["rows"][0]["state"] == "done"
    assert "divprune" in capfd.readouterr().out
