"""Files written before the rooms were moved (commit 9c7b6d3) still open, with the numbers they had then.

``earlier_files`` holds profiles of every estimator, a run folder with methods under their old option names, and maps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import biaslab as bl
from biaslab.evaluation import Results
from biaslab.maps.stored import StoredMaps

FILES = Path(__file__).parent / "earlier_files"
# fmt: off
PROFILES = {  # file -> hash, layer, layout, first three expectations
    "exponential": ("d2a43ed621e44e31", 1, "internvl/16x16/tiles1x1", [0.00122698897, 0.001226508641, 0.001226028544]),
    "factorised": ("85fb103da15cfce2", 1, "internvl/16x16/tiles1x1", [0.00163424178, 0.001509708352, 0.001570477616]),
    "geometric": ("fd83aa95b1759b14", 1, "internvl/16x16/tiles1x1", [0.00163424178, 0.001509708352, 0.001570477616]),
    "heads": ("765dd153474905de", 3, "internvl/16x16/tiles1x1", [0.002271097852, 0.003459070344, 0.00714240456]),
    "mean": ("74f274fb7fc505c7", 1, "internvl/16x16/tiles1x1", [0.001799229067, 0.001516181626, 0.001679960522]),
    "onevision": ("93971814fef17f07", 1, "llava_onevision/27x27/tiles1x1+thumb/rows0-27/cols4-23",
        [0.000773078355, 0.000779318681, 0.000782224815]),
    "rope": ("c0fcddcd56fe16d6", 1, "internvl/16x16/tiles1x1", [0.000895705132, 0.000935259799, 0.000969209825]),
    "smooth": ("8628f8d989b5da18", 1, "internvl/16x16/tiles1x1", [0.001753140124, 0.001691055601, 0.001731849974]),
    "tile": ("d8bf818d3c3dfce4", 1, "internvl/16x16/tiles1x1", [0.001799229067, 0.001516181743, 0.001679960638]),
}
# fmt: on


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_open_with_the_same_hash_and_map(name):
    digest, layer, layout, first = PROFILES[name]
    profile = bl.load_profile(FILES / f"{name}.safetensors")
    assert profile.hash == digest
    assert profile.expected(profile.layouts_[layout], layer)[0, :3].tolist() == pytest.approx(first, rel=1e-6)


def test_a_run_folder_opens_with_its_methods_and_draws(tmp_path):
    results = Results.load(FILES / "run")
    assert results.complete
    labels = ["none", "random", "fastv:score=no_rope", "relative:heads=all", "d2pruner:heads=weighted"]
    assert list(results.summary()["method"]) == labels
    assert list(results.summary()["acc50"]) == [1.0] * 5 and len(results.samples) == 15
    bl.AccuracyDisplay.from_results(results).plot()


def test_a_finished_run_is_a_no_op_for_the_same_command(tmp_path, grounder):
    folder = tmp_path / "run"
    shutil.copytree(FILES / "run-defaults", folder)
    before = (folder / "samples-0.jsonl").read_bytes()
    profile = bl.load_profile(FILES / "mean.safetensors")
    methods = ["none", "random", bl.D2Pruner(pivots_suppress=True, profile=profile)]
    scenes = bl.load_dataset("scenes", split="test", n=3)
    results = bl.evaluate(grounder, scenes, methods=methods, keep=[0.2], layer=4, profile=profile, n=3, out=folder)
    assert results.complete and (folder / "samples-0.jsonl").read_bytes() == before


def test_an_unfinished_run_goes_on_under_the_names_of_today(tmp_path, grounder):
    folder = tmp_path / "run"
    shutil.copytree(FILES / "run-defaults", folder)
    log = folder / "samples-0.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-3]))  # without the lines of d2pruner
    profile = bl.load_profile(FILES / "mean.safetensors")
    results = bl.evaluate(
        grounder, bl.load_dataset("scenes", split="test", n=3), keep=0.2, layer=4, profile=profile, n=3, out=folder,
        methods=["none", "random", "d2pruner:pivots_suppress=true"], progress=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert ["kind" in line for line in lines] == [True] * 6 + [False] * 3
    assert results.complete and len(results.samples) == 9
    assert list(results.samples["expression_type"]) == ["relation"] * 3 + ["attribute"] * 6
    assert list(results.samples["object_size"]) == ["large"] * 3 + ["medium"] * 3 + ["large"] * 3
    assert "kind" not in results.samples and "size_class" not in results.samples
    assert list(results.by("object_size")["expression_type"].unique()) == ["all", "large", "medium"]


def test_a_run_recorded_with_the_diagnosis_goes_on_without_it(tmp_path, grounder):
    """Its records say ``diagnose: true``, the default of then; what a method reports is no part of what it is."""
    folder = tmp_path / "run"
    shutil.copytree(FILES / "run-defaults", folder)
    (recorded,) = [c for c in json.loads((folder / "run.json").read_text())["identity"]["configurations"]
                   if c["method"] == "d2pruner"]  # fmt: skip
    profile = bl.load_profile(FILES / "mean.safetensors")
    for diagnose in (True, False):
        method = bl.D2Pruner(pivots_suppress=True, profile=profile, diagnose=diagnose)
        assert method.options_hash == recorded["options_hash"] and "diagnose" not in method.options()
        assert method.label == "d2pruner:pivots_suppress=true"
    log = folder / "samples-0.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))  # without one line of d2pruner
    methods = ["none", "random", "d2pruner:pivots_suppress=true"]
    results = bl.evaluate(
        grounder, bl.load_dataset("scenes", split="test", n=3), methods=methods, keep=0.2, layer=4, profile=profile,
        n=3, out=folder, progress=False,
    )  # fmt: skip
    *earlier, latest = [json.loads(line)["info"] for line in log.read_text().splitlines()]
    assert "edge_density" in earlier[-1] and "edge_density" not in latest
    assert {k: v for k, v in earlier[-1].items() if k in latest}.keys() == latest.keys()
    assert list(results.summary()["method"]) == methods


def test_results_csv_of_earlier_versions_opens(tmp_path):
    table = Results.load(FILES / "run").table
    table.rename(columns={"expression_type": "kind"}).to_csv(tmp_path / "results.csv", index=False)
    pd.testing.assert_frame_equal(
        bl.AccuracyDisplay.from_results(tmp_path).data, bl.AccuracyDisplay.from_results(table).data, check_dtype=False
    )
    one = bl.AccuracyDisplay.from_results(tmp_path, expression_type="relation")
    assert set(one.data["n"]) == {1}


def test_maps_open_and_go_on(tmp_path):
    maps = bl.load_maps(FILES / "maps-heads")
    assert isinstance(maps, StoredMaps) and (maps.n, maps.heads) == (3, 4)
    assert maps.image(0, 3).sum() == pytest.approx(2.714627265930176, rel=1e-6)
    folder = tmp_path / "maps"
    shutil.copytree(FILES / "maps-heads", folder)
    again = StoredMaps.create(folder, maps.settings)  # the settings of today are those of then
    with again.writing():
        again.add(
            maps.record(0).__class__("more", maps.record(0).layout, "digest"), np.full((1, 4, 256), 1e-3, np.float32)
        )
    assert bl.load_maps(folder).n == 4


def test_layouts_with_windows_and_margins_open():
    profile = bl.load_profile(FILES / "onevision.safetensors")
    layout = next(iter(profile.layouts_.values()))
    assert layout.coverage == 0.984375 and layout.placeholders > layout.n
    assert layout.placeholder_index[-1] < layout.placeholders
