"""`biaslab probe` as a user meets it, and its figures."""

from __future__ import annotations

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from commands import run

import biaslab as bl
from biaslab.diagnostics.probe import ProbeResult
from biaslab.diagnostics.probe.claims import comparison_text
from biaslab.figures import LocationAccuracyDisplay, ProbeDisplay


@pytest.fixture(scope="module")
def profile(grounder, tmp_path_factory):
    scenes = bl.calibration(grounder, "scenes", n=6)
    maps = bl.collect(grounder, scenes.images, layers=[1, 3], prompt=scenes.prompts, ids=scenes.ids, progress=False)
    path = tmp_path_factory.mktemp("profile") / "grounder.safetensors"
    bl.MeanProfile().fit(maps).save(path)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("grounder_at_hand")
@pytest.mark.filterwarnings("default:a probe of")
def test_probe_measures_compares_writes_and_resumes(capsys, profile, tmp_path):
    out = tmp_path / "probe"
    command = ["probe", "--profile", profile, "--pairs", 3, "--grid", "2x3", "--scale", "0.2,0.3", "--out", out]
    status, text, err = run(capsys, *command, "--locate")
    assert status == 0, err
    for name in ("probe.csv", "comparison.csv", "accuracy.csv", "card.md", "figures/probe.pdf", "figures/probe.png",
                 "figures/accuracy-by-place.pdf"):  # fmt: skip
        assert (out / name).is_file() and f"wrote {out / name}" in text
    table, comparison = pd.read_csv(out / "probe.csv"), pd.read_csv(out / "comparison.csv")
    assert sorted(set(table["layer"])) == [1, 3] and len(table) == 2 * 6
    np.testing.assert_allclose(table.groupby("layer")["effect"].mean(), 0, atol=1e-6)
    card = (out / "card.md").read_text()
    for row in comparison.to_dict("records"):
        assert f"- layer {row['layer']}: {comparison_text(row)}." in card
    assert "18 images of 224 x 224" in card and card.strip() in text
    small = "a probe of 3 pairs is so small that its intervals are very wide: show at least 6 pairs"
    assert f"biaslab: warning: {small}\n" in err and f"**A{small[1:]}.**" in card
    assert "The profile rests on 6 images, fewer than 20: take its map for noise" in card
    assert not re.search(r"\bnan\b", text)
    before = (out / "stimuli.jsonl").read_bytes()
    status, text, _ = run(capsys, *command, "--locate", "--json")
    record = json.loads(text)
    assert status == 0 and (out / "stimuli.jsonl").read_bytes() == before
    assert record["images"] == 18 and len(record["comparison"]) == 2 and record["accuracy"][0]["n"] == 18
    status, _, err = run(capsys, *command)  # without --locate it is another probe
    assert status == 1 and "another locate" in err and len(err.strip().splitlines()) == 1

    probe = ProbeResult.load(out)
    display = LocationAccuracyDisplay.from_probe(probe).plot()
    assert display.data["acc50"].mean() == pytest.approx(record["accuracy"][0]["acc50"])
    _, axes = plt.subplots(1, 2)
    drawn = ProbeDisplay.from_probe(probe).plot(axes)  # without a profile: one map per layer
    assert list(drawn.ax_) == list(axes)
    image = drawn.ax_[0].images[0].get_array()
    np.testing.assert_allclose(image, probe.map(1) / np.log(2))
    plt.close("all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "2by3"], "--grid takes"),
        (["--scale", "1"], "--scale takes two"),
        (["--heads", "some"], "--heads is mean or all"),
        (["--grid", "2x2"], "do not fit"),
        (["--expression", "a thing"], "holds no {}"),
        (["--layers", "1,2", "--profile", None], "not [2]"),
        (["--objects", "/nowhere/at/all"], "no such folder"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(capsys, profile, tmp_path, arguments, message):
    arguments = [profile if a is None else a for a in arguments]
    status, _, err = run(capsys, "probe", "--out", tmp_path / "p", *arguments)
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1


def test_help_has_an_example(capsys):
    status, text, _ = run(capsys, "probe", "--help")
    assert status == 0 and "Example: biaslab probe" in text
