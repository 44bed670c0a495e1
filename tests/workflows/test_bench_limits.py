"""Shares of an unpruned answer and the limit of what pruning saves, on times that were planted."""

import re

import pandas as pd
import pytest
import tiny
from transformers import Cache

from biaslab.attention.vision import TowerWatch
from biaslab.datasets.calibration import Calibration
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.stopwatch import GenerationTimer
from biaslab.workflows.bench import bench
from biaslab.workflows.bench_limits import SHARES, limit_texts
from biaslab.workflows.bench_table import bench_latex, bench_table, selection_ms, shown, verdict

pytestmark = pytest.mark.slow

VISION, PREFILL, STEP, ENTRY = 7.0, 3.0, 0.5, 0.01  # seconds, the last three of a layer
NEW = 4


class Clock:
    """A clock that stands still but where a layer or the vision tower runs."""

    def __init__(self, vlm, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(GenerationTimer, "now", lambda timer: self.now)
        seen = type(vlm).vision
        monkeypatch.setattr(
            type(vlm), "vision", lambda model, *given, **kw: (self.pass_by(VISION), seen(model, *given, **kw))[1]
        )
        self.hooks = [
            layer.register_forward_hook(lambda *call, index=index: self._layer(index, *call), with_kwargs=True)
            for index, layer in enumerate(vlm.decoder.layers)
        ]

    def pass_by(self, seconds):
        self.now += seconds

    def _layer(self, index, module, args, options, output):
        if args[0].shape[1] > 1:
            self.pass_by(PREFILL)
        else:
            cache = next(value for value in options.values() if isinstance(value, Cache))
            self.pass_by(STEP + ENTRY * cache.get_seq_length(index))


@pytest.fixture
def planted(monkeypatch):
    """A benchmark at two K of a model in which every layer takes its planted time, and its sizes."""
    vlm = tiny.vlm("internvl")
    clock = Clock(vlm, monkeypatch)
    images = Calibration("noise", tiny.images(1), tiny.texts(1), ["a"])
    found = bench(
        vlm, images, methods=["random"], keep=0.5, layer=[1, 2], repeats=3, warmup=0, new_tokens=NEW, memory=False,
        progress=False,
    )  # fmt: skip
    encoded = vlm.encode(list(images.images), images.prompts)
    yield found, vlm.n_layers, encoded.last + 1, encoded.layouts[0].n
    for hook in clock.hooks:
        hook.remove()


def test_planted_times_give_the_exact_shares_and_limits(planted):
    found, n_layers, length, n = planted
    decode = n_layers * sum(STEP + ENTRY * (length + i) for i in range(1, NEW))
    whole = VISION + n_layers * PREFILL + decode
    assert found.table["total_ms"][0] == pytest.approx(1e3 * whole)
    for k, row in zip([1, 2], found.table.to_dict("records")[1:], strict=True):
        below, above, visual = k * PREFILL, (n_layers - k) * PREFILL, (n_layers - k) * (NEW - 1) * ENTRY * (n - 1)
        assert row["layer"] == k and visual > 0
        assert sum(row[name] for name in SHARES) == pytest.approx(1, abs=1e-12)
        for name, part in zip(SHARES, (VISION, below, above, decode), strict=True):
            assert row[name] == pytest.approx(part / whole), name
        assert row["share_prefill"] == pytest.approx(row["share_below"] + row["share_above"])
        assert row["share_decode_visual"] == pytest.approx(visual / whole)
        assert row["limit_prefill"] == pytest.approx((below + above) / below)
        assert row["limit_decode"] == pytest.approx(decode / (decode - visual))
        assert row["limit_total"] == pytest.approx(whole / (whole - above - visual))
        assert 1 < row["speedup_decode"] < row["limit_decode"]  # half of the visual entries are left, not one
    unpruned = found.table.iloc[0]
    assert unpruned[["share_vision", "share_prefill", "share_decode"]].sum() == pytest.approx(1)
    assert unpruned[["share_below", "share_above", "limit_total"]].isna().all()


def test_the_limits_are_said_in_words_and_written(planted, tmp_path):
    found, *_ = planted
    first, second = limit_texts(found.table)
    assert "K = 1" in first and "K = 2" in second
    assert f"limit {found.table['limit_total'][1]:.2f}x" in first and "layers >= 2" in second
    parts = [float(value) for value in re.findall(r"([\d.]+) %", first)]
    assert sum(parts[:4]) == pytest.approx(100, abs=0.2) and parts[4] == round(
        100 * found.table["share_decode_visual"][1], 1
    )
    for row in found.records()[1:]:
        assert (
            f"limit {row['limit_prefill']:.2f}x" in row["verdict"]
            and f"limit {row['limit_total']:.2f}x" in row["verdict"]
        )
    table, *_ = found.save(tmp_path)
    pd.testing.assert_series_equal(pd.read_csv(table)["limit_total"], found.table["limit_total"])
    tex = bench_latex(found.table, found.settings)
    assert f"& {found.table['limit_total'][2]:.2f} \\\\" in tex and r"$\geq K$" in tex


def _table(selection=0.0, floor=45.0):
    configs = [Config(None, None), *configurations(["random"], 0.5, 2)]
    parts = {"vision_ms": 10.0, "decode_ms": 50.0, "attention_ms": 0.0, "select_ms": selection}
    at_layer = {"below_ms": 15.0, "floor_decode_ms": floor}
    runs = [
        {"batch": 0, "round": turn, "config": i, "prefill_ms": (40.0, 20.0)[i], **parts, **(at_layer if i else {})}
        for turn in range(5)
        for i in range(2)
    ]
    return bench_table(pd.DataFrame(runs), configs, costs=[[None, None]], peaks=[{}, {}])


def test_what_is_recorded_of_the_tower_counts_for_the_methods_that_read_it(monkeypatch):
    """Two seconds for each field of each block: of methods that read the same alike, none where nothing is read."""
    vlm = tiny.vlm("internvl")
    clock, made = Clock(vlm, monkeypatch), TowerWatch.records

    def records(watch, *given):
        clock.pass_by(2.0 * sum(len(blocks) for blocks in vars(watch.request).values()))
        return made(watch, *given)

    monkeypatch.setattr(TowerWatch, "records", records)
    words = ["random", "scope:by=vision", "vispruner", "vispruner:important=1"]
    images = Calibration("noise", tiny.images(1), tiny.texts(1), ["a"])
    found = bench(
        vlm, images, methods=words, keep=0.5, layer=1, repeats=2, warmup=1, new_tokens=2, memory=False, progress=False
    )
    for hook in clock.hooks:
        hook.remove()
    rows = found.table.set_index("method")
    seconds = dict(zip(["none", *words], (0.0, 0.0, 2.0, 4.0, 4.0), strict=True))  # CLS row; and features
    whole, random = rows.loc["none", "total_ms"], rows.loc["random"]
    for word, spent in seconds.items():
        row = rows.loc[next(label for label in rows.index if label.startswith(word))]
        assert row["vision_ms"] == pytest.approx(1e3 * (VISION + spent))
        assert row["record_ms"] == pytest.approx(1e3 * spent)
        assert row["total_ms"] == pytest.approx(row["vision_ms"] + row["prefill_ms"] + row["decode_ms"])
        assert row["share_vision"] == pytest.approx(1e3 * VISION / whole)  # of the unpruned answer
        if word != "none":
            assert row["total_ms"] == pytest.approx(random["total_ms"] + 1e3 * spent)
            assert row["speedup_total"] == pytest.approx(whole / row["total_ms"])
            share = 1e3 * spent / whole  # the choice itself, by a clock that runs, is lost beside it
            assert row["share_selection"] == pytest.approx(share, abs=1e-3)
            assert row["limit_with_selection"] == pytest.approx(1 / (1 / row["limit_total"] + share), rel=1e-2)
    assert "record_ms" in shown(found.table) and "record_ms" not in shown(found.table.iloc[:2])
    assert f"& {selection_ms(found.table.iloc[-1]):.1f} &" in bench_latex(found.table, found.settings)


def test_a_method_pays_for_its_own_selection():
    row = _table(selection=10.0).iloc[1]
    assert row["share_selection"] == pytest.approx(0.1)
    assert (row["limit_total"], row["limit_with_selection"]) == pytest.approx((1 / 0.7, 1 / 0.8))
    assert "(limit 1.43x, with its selection 1.25x)" in row["verdict"]
    assert "selection" not in _table().iloc[1]["verdict"]


def test_decoding_that_is_no_shorter_with_one_token_saves_nothing():
    row = _table(floor=60.0).iloc[1]
    assert row["share_decode_visual"] == 0 and row["limit_decode"] == 1
    assert row["limit_total"] == pytest.approx(1 / 0.75)


def test_a_limit_that_was_not_measured_is_not_known():
    table = _table(floor=float("nan"))
    assert pd.isna(table["limit_total"][1]) and table["share_above"][1] == 0.25
    assert table["verdict"][1] == "prefill 2.00x faster (limit 2.67x), whole answer 1.25x faster"
    assert "is not known" in limit_texts(table)[0]
    assert "limit" not in verdict(pd.Series([2.0]), float("nan"), pd.Series([1.0]))


def test_layers_are_not_marked_while_decoding():
    """The hooks of the split are off the layers before the second token, and after the block."""
    vlm, hooks = tiny.vlm("internvl"), []
    encoded = vlm.encode(tiny.images(1), tiny.texts(1))
    layer = vlm.decoder.layers[1]
    handle = layer.register_forward_hook(lambda *_: hooks.append(len(layer._forward_pre_hooks)))
    try:
        with GenerationTimer(vlm.model, vlm.decoder, layers=[1]) as timer:
            vlm.model.generate(**vlm.vision(encoded).inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
            timer.stop()
    finally:
        handle.remove()
    assert hooks == [1, 0, 0] and 0 < timer.below_ms[1] < timer.prefill_ms and not layer._forward_pre_hooks


def test_a_floor_that_fails_costs_the_limit_alone(monkeypatch):
    from biaslab.pruning import Random

    picked = Random.pick
    monkeypatch.setattr(
        Random, "pick", lambda self, ctx, scores: 1 / 0 if self.keep == 1 else picked(self, ctx, scores)
    )
    images = Calibration("noise", tiny.images(1), tiny.texts(1), ["a"])
    found = bench(
        tiny.vlm("internvl"), images, methods=["random"], keep=0.5, layer=1, repeats=1, new_tokens=2, memory=False,
        progress=False,
    )  # fmt: skip
    assert found.table["speedup_total"].notna().all() and pd.isna(found.table["limit_total"][1])
    assert found.settings["failed"] == {"random keep 1 layer 1": "ZeroDivisionError: division by zero"}
