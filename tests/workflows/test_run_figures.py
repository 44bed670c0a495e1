"""Figures of a run folder: what there is to draw."""

import json
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import tiny
from commands import run as command
from made_runs import coins, made_run
from matplotlib import pyplot as plt
from PIL import Image
from toy_grounding import run

from biaslab._util.command_line import running
from biaslab.errors import InputError
from biaslab.evaluation.results import Results
from biaslab.evaluation.schema import VERDICT_FIELDS
from biaslab.figures import AccuracyDisplay
from biaslab.workflows.run_figures import draw_run


def test_a_run_whose_samples_all_failed_is_said_and_nothing_is_drawn(tmp_path):
    run(tmp_path, tiny.vlm("internvl"), methods="random", keep=0.5, n=2)
    log = tmp_path / "samples-0.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    failed = [{**line, **dict.fromkeys(VERDICT_FIELDS), "error": "InputError: too long"} for line in lines]
    log.write_text("".join(json.dumps(line) + "\n" for line in failed))
    with pytest.raises(InputError, match="no verdict to draw: 2 of 2 .* too long; .*--retry-errors"):
        draw_run(tmp_path)
    assert not (tmp_path / "figures").exists()


N = 40
HITS = {
    "none": {1.0: coins(0.95, N, 0)}, "random": {0.5: coins(0.6, N, 1), 0.1: coins(0.3, N, 2)},
    "fastv": {0.5: coins(0.8, N, 3), 0.1: coins(0.5, N, 4)},
    "d2pruner:pivots_suppress=true": {0.5: coins(0.9, N, 5), 0.1: coins(0.8, N, 6)},
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of one model and data set, and one of another model."""
    root = tmp_path_factory.mktemp("runs")
    more = {"none": HITS["none"], "divprune": {0.5: coins(0.9, N, 7), 0.1: coins(0.7, N, 8)}, "fastv": HITS["fastv"]}
    return (
        made_run(root / "a", HITS), made_run(root / "b", more), made_run(root / "c", HITS, model="org/Qwen2.5-VL-7B"),
    )  # fmt: skip


def metadata(pdf):
    """The PDF's strings of what it says of itself."""
    raw = pdf.read_bytes()
    info = re.search(rb"/Info (\d+) 0 R", raw)[1]
    body = re.search(rb"(?s)\n" + info + rb" 0 obj(.*?)endobj", raw)[1].decode("latin-1")
    return {key: value.replace("\\(", "(").replace("\\)", ")") for key, value in
            re.findall(r"(?s)/(\w+) \((.*?[^\\])\)\n?", body)}  # fmt: skip


@pytest.mark.slow
def test_methods_names_layers_keeps_and_formats_are_chosen(folders, capsys, tmp_path):
    status, out, err = command(
        capsys, "figures", folders[0], "--methods", "d2pruner,fastv", "--label",
        "d2pruner:pivots_suppress=true=D2Pruner (ours)", "--keep", "10%", "--layer", 4, "--venue", "acl",
        "--format", "svg,pdf", "--out", tmp_path / "paper",
    )  # fmt: skip
    assert status == 0, err
    figure = tmp_path / "paper" / "figures" / "acc50-keep"
    assert {p.suffix for p in figure.parent.iterdir()} == {".svg", ".pdf", ".csv"}
    data = pd.read_csv(figure.with_suffix(".csv"))
    assert list(dict.fromkeys(data["label"])) == ["no pruning", "D2Pruner (ours)", "FastV"]
    assert set(data.loc[data["method"] != "none", "keep"]) == {0.1}
    assert (tmp_path / "paper" / "figures" / "acc50-flops.pdf").exists()
    assert "D2Pruner (ours)" in (tmp_path / "paper" / "tables" / "acc50.tex").read_text()
    said = metadata(figure.with_suffix(".pdf"))
    assert said["Title"].startswith("Accuracy: InternVL2_5-8B, scenes test, n = 40, pruned before layer 4")
    assert said["Subject"] == "org/InternVL2_5-8B, scenes, test" and said["Creator"].startswith("biaslab ")
    assert said["Keywords"].startswith("biaslab figures a --methods d2pruner,fastv --label")
    assert str(tmp_path) not in said["Keywords"]  # home folders hold their author's name
    assert "biaslab figures a" in figure.with_suffix(".svg").read_text()


def test_png_says_what_made_it(folders, tmp_path):
    with running(["figures", "x"]):
        draw_run(folders[0], out=tmp_path, formats=["png"])
    with Image.open(tmp_path / "figures" / "acc50-keep.png") as image:
        assert image.info["Title"].startswith("Accuracy") and image.info["Description"] == "biaslab figures x"
        assert image.info["Source"] == "org/InternVL2_5-8B, scenes, test"


def test_runs_of_one_model_are_one_comparison(folders):
    display = AccuracyDisplay.from_results([Results.load(folders[0]), folders[1]])
    assert "run" not in display.data and len(display.data) == 9  # FastV and the unpruned model once
    assert len(np.ravel(display.plot().ax_)) == 1
    plt.close("all")


@pytest.mark.slow
def test_runs_of_several_models_stand_side_by_side(folders, tmp_path):
    display = AccuracyDisplay.from_results([folders[0], folders[2]]).plot()
    titles = [ax.get_title() for ax in display.ax_]
    assert titles == ["InternVL2_5-8B", "Qwen2.5-VL-7B"]
    first, second = display.ax_
    assert first.get_ylim() == second.get_ylim()
    colours = [{line.get_label(): line.lines[0].get_color() for line in ax.containers} for ax in display.ax_]
    assert colours[0] == colours[1] and len(colours[0]) == 3  # a method is one colour in all panels
    named = AccuracyDisplay.from_results({"8B": folders[0], "7B": folders[2]}).plot()
    assert [ax.get_title() for ax in named.ax_] == ["8B", "7B"]
    plt.close("all")
    with pytest.raises(InputError, match="out=FOLDER"):
        draw_run([folders[0], folders[2]])
    files = draw_run([folders[0], folders[2]], out=tmp_path, formats=["pdf"])
    assert {f.name for f in files} >= {"acc50-keep.pdf", "acc50-flops.pdf", "acc50.tex"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "fastvv=X"], "no method 'fastvv' to name"), (["--label", "fastv"], "is not KEY=NAME"),
        (["--methods", "fastvv"], "no method 'fastvv'"), (["--format", "eps"], "unknown format 'eps'"),
        (["--font", "No Such Font"], "font 'No Such Font' is not installed"), (["--venue", "nature"], "unknown venue"),
        (["--layer", "7"], "no layer"), (["--keep", "0.3"], "no keep"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_in_a_line(folders, capsys, options, said, tmp_path):
    status, _, err = command(capsys, "figures", folders[0], *options, "--out", tmp_path / "x")
    assert status == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_markers_at_one_keep_do_not_lie_on_each_other_and_are_not_cut(folders):
    display = AccuracyDisplay.from_results(folders[0]).plot()
    ax = display.ax_
    display.figure_.canvas.draw()
    drawn = [line.lines[0] for line in ax.containers]
    assert [list(line.get_xdata()) for line in drawn] == [[0.1, 0.5]] * 3  # the data stay what they are
    at = np.array([line.get_transform().transform(line.get_xydata())[:, 0] for line in drawn])
    step = np.diff(at, axis=0) / display.figure_.dpi * 72
    np.testing.assert_allclose(step, 3.0, atol=0.01)  # points
    box = ax.get_window_extent()
    assert at.min() > box.x0 and at.max() < box.x1
    bars = display.ax_.containers[0].lines[2][0]
    np.testing.assert_allclose(bars.get_transform().transform(bars.get_segments()[0])[0, 0], at[0, 0])
    plt.close("all")


def test_a_figure_into_axes_of_ones_own_can_be_restyled(folders):
    _, axes = plt.subplots(1, 2)
    display = AccuracyDisplay.from_results(folders[0], methods=["fastv"]).plot(axes[1])
    assert display.ax_ is axes[1] and not axes[0].lines
    axes[1].containers[0].lines[0].set_color("red")
    axes[1].set_ylabel("accuracy")
    assert mpl.colors.same_color(axes[1].containers[0].lines[0].get_color(), "red")
    plt.close("all")
