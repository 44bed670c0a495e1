"""K = 0 in a shared sweep: dropped before the decoder, and the same as one run for each to the last selection."""

from __future__ import annotations

import logging

import pytest
import tiny
from devices import spread
from sweeps import check, shared_runs, untouched
from toy_grounding import run, same

from biaslab.errors import UnsupportedError
from biaslab.evaluation import worker as worker_module
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sweep import shared

pytestmark = pytest.mark.slow

BLIND = ["random", "uniform", "divprune"]
TAKES_ZERO = [tiny.quick(family) for family in tiny.FAMILIES if family not in ("paligemma", "qwen3_vl")]


@pytest.mark.parametrize("family", TAKES_ZERO)
def test_every_family(family):
    """Alone, where no layer runs on the whole prompt, and beside deeper K and the unpruned model."""
    vlm = tiny.vlm(family)
    encoded, options = vlm.vision(tiny.encoded(vlm, 3)), GenerationOptions(max_new_tokens=6)
    check(vlm, encoded, configurations(BLIND, [0.5, 7], 0), options)
    mixed = configurations(["none", "random", "divprune"], [0.5, 0.2], [0, 3]) + configurations("fastv", 0.2, [3, 1])
    check(vlm, encoded, mixed, options)


@pytest.mark.parametrize(("n", "width"), [(1, 64), (2, 1), (8, 500)])
def test_however_many_rows_go_together(n, width):
    vlm = tiny.vlm("internvl")
    encoded = vlm.vision(tiny.encoded(vlm, n))
    configs = configurations([*BLIND, "none"], [0.5, 0.2], [0, 2])
    check(vlm, encoded, configs, GenerationOptions(max_new_tokens=4), width=width)


def test_renumbered_positions_and_eager_attention():
    for vlm, positions in ((tiny.vlm("llava"), "renumber"), (tiny.vlm("internvl", attn="eager"), "original")):
        encoded = vlm.vision(tiny.encoded(vlm, 3))
        options = GenerationOptions(max_new_tokens=6, positions=positions)
        check(vlm, encoded, configurations([*BLIND, "none"], [0.5, 0.2], [0, 3]), options)


def test_answers_longer_than_the_room_of_the_cache():
    vlm = tiny.vlm("qwen2_5_vl")  # its later positions are counted from the length of the cache
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    check(vlm, encoded, configurations(BLIND, [0.5, 0.2], 0), GenerationOptions(max_new_tokens=70))


def test_layers_on_several_devices():
    vlm = tiny.vlm("internvl")
    encoded, options = vlm.vision(tiny.encoded(vlm, 3)), GenerationOptions(max_new_tokens=4)
    configs = configurations([*BLIND, "none"], [0.5, 0.2], [0, 2])
    here = shared_runs(vlm, encoded, configs, options)
    with spread(vlm):
        apart = shared_runs(vlm, encoded, configs, options)
    assert all(apart[i].answers == run_here.answers and apart[i].kept == run_here.kept for i, run_here in here.items())
    assert untouched(vlm)


def test_an_evaluation_is_the_plain_one(monkeypatch):
    def refuse(*args, **kw):
        raise AssertionError("a configuration went the plain way")

    options = {"methods": [*BLIND, "none"], "layer": [0, 2]}
    plain = run(plain=True, **options).samples
    monkeypatch.setattr(worker_module, "run_once", refuse)
    ours = run(**options).samples
    same(ours, plain)
    assert ours["error"].isna().all()


@pytest.mark.parametrize("family", ["paligemma", "qwen3_vl"])
def test_what_the_engine_refuses_is_refused_by_it(family, caplog):
    """Image features that are added in the first layers, or a mask that is made before the decoder."""
    configs = configurations("random", [0.5, 0.2], 0) + configurations(["none", "random"], 0.5, 3)
    with caplog.at_level(logging.DEBUG, logger="biaslab"):
        assert shared.shareable(tiny.vlm(family), dict(enumerate(configs)), GenerationOptions()) == [2, 3]
    assert "use K >= 1" in caplog.text
    with pytest.raises(UnsupportedError, match="use K >= 1"):
        run(vlm=family, methods=["random"], layer=0, n=1)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_decoding_by_static_steps(family):
    """Rows of K = 0 alone, and beside others."""
    vlm = tiny.vlm(family)
    encoded, options = vlm.vision(tiny.encoded(vlm, 3)), GenerationOptions(max_new_tokens=6, decode="static")
    for configs in (configurations(BLIND, [0.5, 0.2], 0), configurations([*BLIND, "none"], [0.5, 0.2], [0, 2])):
        check(vlm, encoded, configs, options)
