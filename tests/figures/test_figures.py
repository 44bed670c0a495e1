"""Displays: what is drawn is the data, in a style that leaks nowhere, saved as PDF, PNG and CSV."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from biaslab import figures
from biaslab._util.watermark import rehearsal_name
from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, RunFolderError
from biaslab.figures.display import paint, ratio_ticks
from biaslab.figures.kept_display import FADED
from biaslab.figures.styling import VENUES, figure_width, style
from biaslab.maps.base import ImageRecord
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import MeanProfile, TileProfile, debias, variance_table

mpl.use("Agg")

ONE = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
TILED = TokenLayout.tiled(1, 2, (4, 4), size=(128, 64), family="internvl", thumbnail=True)
TARGET = Box(32, 16, 64, 48)


@pytest.fixture(autouse=True)
def _close():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before  # no figure writes a global setting


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    settings = {"model": "org/tiny-1B", "family": "internvl", "heads": "all", "layers": [1, 3, 5], "folds": 5}
    maps = StreamedMaps(settings)
    for layout, n in ((ONE, 20), (TILED, 9)):
        for i in range(n):
            x = rng.gamma(2.0, size=(3, 2, layout.n)) * np.exp(layout.centers[:, 1])
            name = f"{layout.key}-{i}"
            maps.add(ImageRecord(name, layout, name), (0.2 * x / x.sum(-1, keepdims=True)).astype(np.float32))
    return maps


@pytest.fixture(scope="module")
def profile(maps):
    return MeanProfile().fit(maps)


def results_frame(layers=(2, 5), methods=("random", "fastv"), keeps=(0.5, 0.1)):
    base = {
        "dataset": "scenes",
        "split": "test",
        "expression_type": "all",
        "model": "tiny",
        "options_hash": "",
        "profile_hash": "",
        "seed": 0,
    }
    base |= {"n": 300, "errors": 1, "unparsed": 2, "tflops_vision": 0.02, "tflops_projector": 0.01}
    rows = [
        base
        | {
            "method": "none",
            "keep": 1.0,
            "layer": None,
            "acc50": 0.9,
            "acc50_lo": 0.87,
            "acc50_hi": 0.93,
            "tflops_decoder": 1.0,
        }
    ]
    for i, method in enumerate(methods):
        for layer in layers:
            for keep in keeps:
                acc = 0.4 + 0.4 * keep + 0.01 * layer - 0.1 * i
                rows.append(
                    base
                    | {
                        "method": method,
                        "keep": keep,
                        "layer": layer,
                        "acc50": acc,
                        "acc50_lo": acc - 0.03,
                        "acc50_hi": acc + 0.02,
                    }
                    | {"tflops_decoder": 0.2 + keep, "options_hash": f"hash{i}"}
                )
    frame = pd.DataFrame(rows)
    frame["layer"] = frame["layer"].astype("Int64")
    return pd.concat([frame, frame.assign(expression_type="location", acc50=0.1)], ignore_index=True)


def noise(size=(64, 64)):
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def displays(maps, profile):
    attention = torch.rand(2, 1, 16)
    results = results_frame()
    table = variance_table(maps, per_head=True)
    auroc = pd.DataFrame(
        {"layer": [0, 1] * 2, "score": ["raw"] * 2 + ["debiased"] * 2, "auroc": [0.5, 0.6, 0.6, 0.7], "n": 9}
    )
    selections = {"fastv": [0, 1, 5], "random": torch.tensor([3, 4, 15])}
    return {
        "profile": figures.ProfileDisplay.from_profile(profile, layers=1, layout=ONE),
        "tiled": figures.ProfileDisplay.from_profile(profile, layers=5, layout=TILED),
        "attention": figures.AttentionDisplay.from_attention(
            noise(), ONE, attention, profile=profile, layer=1, targets=TARGET, titles="the cat"
        ),
        "kept": figures.KeptTokensDisplay.from_selections(
            noise(), ONE, selections, target=TARGET, answers={"fastv": TARGET}
        ),
        "accuracy": figures.AccuracyDisplay.from_results(results),
        "variance": figures.VarianceDisplay.from_table(table),
        "auroc": figures.AurocDisplay.from_table(auroc),
    }


NAMES = ("profile", "tiled", "attention", "kept", "accuracy", "variance", "auroc")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_display_saves_pdf_png_and_csv(name, maps, profile, tmp_path):
    display = displays(maps, profile)[name]
    files = figures.save(display, tmp_path / "deep" / "fig.v1.pdf", close=True)
    assert [f.name for f in files] == ["fig.v1.pdf", "fig.v1.png", "fig.v1.csv"]
    pdf = files[0].read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf and b"CIDFontType2" in pdf  # TrueType fonts, embedded
    drawn = np.asarray(Image.open(files[1]).convert("L"))
    assert drawn.std() > 5
    assert drawn.shape[1] == pytest.approx(300 * display.figure_.get_figwidth(), abs=1)
    assert files[2].read_text() == display.data.to_csv(index=False)
    again = displays(maps, profile)[name]
    if name == "auroc":  # the same figure is the same file
        assert figures.save(again, tmp_path / "again")[0].read_bytes() == pdf


@pytest.mark.parametrize("name", NAMES)
def test_plot_returns_self_and_draws_into_given_axes(name, maps, profile):
    display = displays(maps, profile)[name]
    assert display.plot() is display
    panels = np.size(display.ax_)
    figure, axes = plt.subplots(1, panels, squeeze=False)
    assert display.plot(axes[0] if panels > 1 else axes[0, 0]).figure_ is figure
    with pytest.raises(InputError, match=f"{panels} panels"):
        display.plot(list(plt.subplots(1, panels + 1)[1]))


@pytest.mark.parametrize("venue", VENUES)
def test_figures_fit_the_columns_of_the_venue(venue, maps, profile):
    with style(venue) as widths:
        assert figure_width(1) == widths.column and figure_width(2) == widths.page
        narrow = figures.AccuracyDisplay.from_results(results_frame(), layer=2).plot()
        wide = figures.AccuracyDisplay.from_results(results_frame()).plot()
    assert narrow.figure_.get_figwidth() == widths.column and wide.figure_.get_figwidth() == widths.page
    with style(venue), pytest.raises(InputError, match="cvpr, eccv"), style("nature"):
        pass


def test_own_settings_survive_inside_the_style():
    with style("icml", **{"font.size": 11}):
        display = figures.AurocDisplay.from_table(pd.DataFrame({"layer": [0], "score": ["raw"], "auroc": [0.5]})).plot()
        assert mpl.rcParams["font.size"] == 11 and mpl.rcParams["pdf.fonttype"] == 42
    assert display.figure_.get_figwidth() == 3.25


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, [1, 3], [1, 3, 5]])
def test_the_title_of_a_profile_stands_clear_of_its_panels(profile, layers):
    display = figures.ProfileDisplay.from_profile(profile, layers=layers, layout=ONE).plot()
    display.figure_.canvas.draw()
    title = display.figure_._suptitle.get_window_extent()
    assert not any(title.overlaps(panel.title.get_window_extent()) for panel in np.ravel(display.ax_))


def test_profile_display_shows_the_profile_relative_to_uniform_attention(profile):
    display = figures.ProfileDisplay.from_profile(profile, layers=[1, 5], layout=TILED).plot()
    for layer in (1, 5):
        part = display.data[display.data["layer"] == layer]
        want = profile.expected(TILED, layer).mean(0).numpy()
        np.testing.assert_allclose(part["relative"], want / want.mean(), rtol=1e-5)
        spread = profile.std(TILED, layer).mean(0).numpy()
        np.testing.assert_allclose(part["standard_error"], spread / want.mean() / 3, rtol=1e-5)  # n = 9
    assert [a.get_title() for a in display.ax_] == [
        "layer 1",
        "layer 1, thumbnail",
        "layer 5",
        "layer 5, thumbnail",
    ]
    assert "tiny-1B" in display.figure_._suptitle.get_text() and "n = 9 images" in display.figure_._suptitle.get_text()
    image = display.ax_[0].images[0].get_array()
    assert image.shape == (4, 8)  # tiles lie side by side
    token = 16 + 4 * 2 + 1  # tile 1, row 2, column 1
    assert image[2, 5] == pytest.approx(np.log2(display.data["relative"][token]))
    marginal = display.ax_[0].child_axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(marginal, np.exp2(image).mean(axis=0), rtol=1e-6)


def test_profile_display_of_one_head_and_of_a_carried_layout(profile, maps):
    display = figures.ProfileDisplay.from_profile(profile, layers=3, layout=ONE.key, head=1)
    want = profile.expected(ONE, 3)[1].numpy()
    np.testing.assert_allclose(display.data["relative"], want / want.mean(), rtol=1e-5)
    carried = figures.ProfileDisplay.from_profile(
        TileProfile().fit(maps), layers=3, layout=TokenLayout.raster(2, 6, size=(9, 9), family="internvl")
    )
    assert "n = 29 images" in carried.title and carried.plot().ax_.images[0].get_array().shape == (2, 6)
    with pytest.raises(InputError, match="head"):
        figures.ProfileDisplay.from_profile(profile, layers=3, head=2)
    with pytest.raises(InputError, match="no layout"):
        figures.ProfileDisplay.from_profile(profile, layers=3, layout="other")


def test_attention_display_debiases_with_the_profile(profile):
    raw = torch.rand(2, 3, 48)
    display = figures.AttentionDisplay.from_attention(
        [noise((128, 64))],
        [TILED],
        [raw],
        profile=profile,
        layer=3,
        targets=[TARGET],
        titles=["the cat"],
        debias="zscore",
    ).plot()
    mean = raw.reshape(-1, 48).mean(0)
    want = debias(mean, profile.expected(TILED, 3).mean(0), profile.std(TILED, 3).mean(0), operation="zscore")
    np.testing.assert_allclose(display.data["attention"], mean, rtol=1e-6)
    np.testing.assert_allclose(display.data["debiased"], want, rtol=1e-5)
    np.testing.assert_allclose(display.data["on_target"], TILED.overlap(TARGET))
    assert [a.get_title() for a in display.ax_] == ["attention, layer 3", "debiased (zscore)"]
    assert len(display.ax_[0].patches) == len(display.ax_[1].patches) == 1
    with pytest.raises(InputError, match="same length"):
        figures.AttentionDisplay.from_attention([noise()], [ONE, ONE], [raw], profile=profile, layer=3)
    with pytest.raises(InputError, match="16"):
        figures.AttentionDisplay.from_attention(noise(), ONE, raw, profile=profile, layer=3)


def test_kept_display_marks_what_each_method_kept():
    picked = SimpleNamespace(indices=torch.tensor([0, 6, 7]), info={"pivots": 1, "pivot_indices": [6]})
    display = figures.KeptTokensDisplay.from_selections(
        noise(),
        ONE,
        {"d2pruner": picked, "random": np.array([1, 2])},
        target=TARGET,
        answers={"d2pruner": TARGET, "random": None},
    ).plot()
    data = display.data[display.data["method"] == "d2pruner"]
    assert list(data["token"]) == [0, 6, 7] and list(data["pivot"]) == [False, True, False]
    assert list(data["on_target"]) == [0, 1, 1] and (data["iou"] == 1).all()
    titles = [a.get_title() for a in display.ax_]
    assert titles == ["d2pruner\n3 of 16, IoU 1.00", "random\n2 of 16, no box"]
    image = np.asarray(noise(), dtype=float) / 255
    shown = display.ax_[0].images[0].get_array()
    np.testing.assert_allclose(shown[:16, :16], image[:16, :16])  # token 0 is kept: untouched
    assert shown[:16, 16:32].min() >= FADED  # token 1 is not: faded
    labels = [t.get_text() for t in display.figure_.legends[0].get_texts()]
    assert labels == ["target", "answer", "pivot"]
    with pytest.raises(InputError, match="between 0 and 15"):
        figures.KeptTokensDisplay.from_selections(noise(), ONE, {"x": [16]})
    with pytest.raises(InputError, match="at least one"):
        figures.KeptTokensDisplay.from_selections(noise(), ONE, {})


def test_thumbnail_tokens_do_not_lift_the_fading():
    display = figures.KeptTokensDisplay.from_selections(noise((128, 64)), TILED, {"m": np.arange(32, 48)}).plot()
    assert display.ax_.images[0].get_array().min() >= FADED
    assert [t.get_text() for t in display.figure_.legends[0].get_texts()] == ["thumbnail token"]


def test_accuracy_display_draws_the_table():
    frame = results_frame()
    display = figures.AccuracyDisplay.from_results(frame, layer=5).plot(x=["keep", "tflops"])
    keep, cost = display.ax_
    line = keep.containers[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [0.1, 0.5])
    np.testing.assert_allclose(line.get_ydata(), [49, 65])
    segments = keep.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(segments[0][:, 1], [46, 51])  # the interval, not symmetric
    np.testing.assert_allclose(cost.containers[0].lines[0].get_xdata(), [0.33, 0.73])
    unpruned = next(x for x in keep.lines if x.get_label() == "no pruning")
    assert set(unpruned.get_ydata()) == {90.0}
    assert [t.get_text() for t in keep.get_xticklabels()] == ["10", "50"]
    assert cost.get_xlabel().startswith("TFLOPs")
    names = [t.get_text() for t in display.figure_.legends[0].get_texts()]
    assert names == ["no pruning", "random", "FastV", "no pruning, at its cost"]


def test_accuracy_display_of_small_models_counts_in_gflops_and_counts_are_counts():
    frame = results_frame(keeps=(16, 64))
    for part in ("vision", "projector", "decoder"):
        frame[f"tflops_{part}"] /= 1e4
    display = figures.AccuracyDisplay.from_results(frame, layer=2).plot(x=["tflops", "keep"])
    assert display.ax_[0].get_xlabel().startswith("GFLOPs")
    assert [t.get_text() for t in display.ax_[1].get_xticklabels()] == ["16", "64"]


def test_accuracy_display_refuses_what_cannot_be_compared(tmp_path):
    frame = results_frame()
    make = figures.AccuracyDisplay.from_results
    with pytest.raises(InputError, match="metric"):
        make(frame, metric="f1")
    with pytest.raises(InputError, match="split"):
        make(pd.concat([frame, frame.assign(split="val")]))
    with pytest.raises(InputError, match="no layer 7"):
        make(frame[frame["method"] != "none"], layer=7)
    with pytest.raises(InputError, match="no expression_type 'colour'"):
        make(frame, expression_type="colour")
    with pytest.raises(InputError, match="no method 'vis'"):
        make(frame, methods=["vis"])
    with pytest.raises(InputError, match="only the unpruned"):
        make(frame[frame["method"] == "none"])
    with pytest.raises(InputError, match="cannot read"):
        make(tmp_path / "results.csv")
    with pytest.raises(InputError, match="evaluate"):
        make(pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="x must be"):
        make(frame).plot(x="time")


def test_results_are_read_from_object_folder_and_file(tmp_path):
    frame = results_frame()
    frame.to_csv(tmp_path / "results.csv", index=False)
    want = figures.results_table(frame)
    for results in (SimpleNamespace(table=frame), tmp_path, str(tmp_path / "results.csv")):
        pd.testing.assert_frame_equal(figures.results_table(results), want, check_dtype=False)
    assert (figures.results_table(frame, expression_type="location")["value"] == 0.1).all()


def test_variants_of_one_method_stay_apart():
    frame = results_frame(methods=("d2pruner", "d2pruner"))
    labels = set(figures.AccuracyDisplay.from_results(frame).data["label"])
    assert labels == {"no pruning", "D2Pruner #hash0", "D2Pruner #hash1"}
    named = figures.AccuracyDisplay.from_results(frame, labels={"hash1": "D2Pruner, blocking", "d2pruner": "D2Pruner"})
    assert set(named.data["label"]) == {"no pruning", "D2Pruner #hash0", "D2Pruner, blocking"}


def test_latex_table_is_booktabs_with_intervals_and_the_best_in_bold(tmp_path):
    tex, csv = figures.save_table(
        results_frame(methods=("random", "my_own_v")), tmp_path / "t" / "main", label="tab:main"
    )
    text = tex.read_text()
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"my\_own\_v", r"50\,\%", "n = 300", r"\label{tab:main}"):
        assert part in text
    assert r"90.0 {\scriptsize [87.0, 93.0]}" in text and "no pruning" in text
    bold = [line for line in text.splitlines() if "textbf" in line]
    assert len(bold) == 2 and all("random" in line and line.count("textbf") == 2 for line in bold)
    table = pd.read_csv(csv)
    assert {"label", "layer", "keep", "n", "errors", "unparsed", "value", "lo", "hi"} <= set(table) and len(table) == 9


def test_a_choice_that_results_do_not_have_is_refused_not_ignored(tmp_path):
    frame = results_frame()
    refused = r"cannot be filtered by 'modle': choose of dataset, split, expression_type, model, .*layer, keep, method"
    for read in (figures.AccuracyDisplay.from_results, figures.results_table):
        for results in (frame, [frame, frame], {"a": frame}):
            with pytest.raises(InputError, match=refused):
                read(results, modle="x")
            with pytest.raises(InputError, match=refused):
                read(results, modle=None)
        with pytest.raises(InputError, match="filtered by 'x'"):
            read(frame, x="flops")  # of plot
        with pytest.raises(InputError, match=r"filtered by 'split': choose of dataset"):
            read(frame.drop(columns="split"), split="test")
    with pytest.raises(InputError, match="filtered by 'captoin'"):
        figures.save_table(frame, tmp_path / "t", captoin="Accuracy")
    assert not list(tmp_path.iterdir())
    assert len(figures.results_table(frame, model=None, split=None)) == len(figures.results_table(frame))


def test_variance_and_auroc_displays_draw_their_tables(maps):
    table = pd.concat([variance_table(maps), variance_table(maps, estimator="tile")])
    ax = figures.VarianceDisplay.from_table(table).plot().ax_
    assert [c.get_label() for c in ax.containers] == ["mean", "tile"]
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), 100 * table["r2"][:3])
    assert "n = 29 images" in ax.get_xlabel()
    direct = figures.VarianceDisplay.from_maps(maps, layers=[1, 5])
    assert list(direct.data["layer"]) == [1, 5]
    with pytest.raises(InputError, match="variance_table"):
        figures.VarianceDisplay.from_table(pd.DataFrame())
    ranking = pd.DataFrame({"layer": [2, 2], "debias": ["raw", "ratio"], "head": "mean", "auroc": [0.6, 0.7]})
    ranking = ranking.assign(auroc_lo=0.5, auroc_hi=0.8, n=9)
    ax = figures.AurocDisplay.from_table(ranking).plot().ax_
    assert [c.get_label() for c in ax.containers] == ["raw attention", "debiased"]
    np.testing.assert_allclose(ax.containers[1].lines[2][0].get_segments()[0][:, 1], [0.5, 0.8])
    per_head = pd.concat([ranking.assign(head=h, auroc=0.5 + h / 10) for h in range(3)])
    ax = figures.AurocDisplay.from_table(per_head).plot().ax_
    assert not ax.containers[:] and [len(c.get_offsets()) for c in ax.collections] == [3, 3]
    with pytest.raises(InputError, match="auroc"):
        figures.AurocDisplay.from_table(pd.DataFrame({"layer": [1]}))


def test_paint_lays_tokens_where_their_boxes_are():
    values = np.arange(48.0)
    laid = paint(values, TILED, (64, 128))
    for i in range(32):
        x, y = TILED.centers_px[i]
        assert laid[int(y), int(x)] == i
    thumb = paint(values, TILED, (64, 128), thumbnail=True)
    assert thumb[0, 0] == 32 and thumb[-1, -1] == 47
    padded = TokenLayout.raster(2, 2, size=(10, 10), family="llava", region=(0.0, -0.5, 1.0, 0.5))
    laid = paint(np.arange(4.0), padded, (10, 10))
    assert laid[0, 0] == 2 and np.isnan(laid[9, 9])  # rows above the image are padding; below nothing lies


@pytest.mark.parametrize("limit", [0.3, 1.0, 2.5, 8.0])
def test_ratio_ticks_are_few_symmetric_and_within_the_limit(limit):
    ticks, labels = ratio_ticks(limit)
    assert 3 <= len(ticks) <= 7 and ticks == [-t for t in reversed(ticks)] and max(ticks) <= limit
    assert labels[len(ticks) // 2] == "1\N{MULTIPLICATION SIGN}"


def test_save_refuses_what_is_no_display_and_unwritable_places(tmp_path):
    with pytest.raises(InputError, match="not a Display"):
        figures.save(plt.figure(), tmp_path / "x")
    (tmp_path / "file").write_text("")
    display = figures.AurocDisplay.from_table(pd.DataFrame({"layer": [0], "score": ["raw"], "auroc": [0.5]}))
    with pytest.raises(RunFolderError, match="cannot write"):
        figures.save(display, tmp_path / "file" / "x")
    with pytest.raises(RunFolderError, match="cannot write"):
        figures.save_table(results_frame(), tmp_path / "file" / "x")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_figure_on_a_full_disk_is_whole_or_not_there(tmp_path, monkeypatch):
    display = figures.AurocDisplay.from_table(pd.DataFrame({"layer": [0], "score": ["raw"], "auroc": [0.5]}))
    write_bytes, written = Path.write_bytes, []

    def full(self, content):
        """The second file finds no room after its first kilobyte."""
        written.append(self)
        if len(written) == 2:
            write_bytes(self, content[:1000])
            raise OSError(28, "No space left on device")
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunFolderError, match=r"auroc.png: disk full; make room and run the same command again"):
        figures.save(display, tmp_path / "auroc", close=True)
    assert [path.name for path in tmp_path.iterdir()] == ["auroc.pdf"]


@pytest.mark.slow
def test_figures_import_no_model_library():
    code = "import sys, biaslab.figures; print(sorted({'transformers', 'torch', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_notebook_shows_a_display_once_drawn_or_not(monkeypatch):
    table = pd.DataFrame({"layer": [0, 1], "score": ["raw"] * 2, "auroc": [0.5, 0.7]})
    display = figures.AurocDisplay.from_table(table)
    shown = display._repr_png_()
    assert display.figure_ is not None and not plt.get_fignums()  # pyplot would show it a second time
    image = Image.open(BytesIO(shown))
    assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 5
    assert display._repr_png_() == shown  # drawn and closed: shown again
    drawn = figures.AurocDisplay.from_table(table).plot()
    assert drawn._repr_png_().startswith(b"\x89PNG") and plt.fignum_exists(drawn.figure_.number)
    monkeypatch.setattr(mpl, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    assert drawn._repr_png_() is None  # the backend shows it at the end of the cell
    plt.close(drawn.figure_)
    assert drawn._repr_png_().startswith(b"\x89PNG")
    rehearsed = figures.AurocDisplay(table.assign(lo=0.4, hi=0.8), provenance=rehearsal_name("m"))
    assert Image.open(BytesIO(rehearsed._repr_png_())).size != image.size  # the note stands above the axes


def test_interactive_mode_that_a_backend_switches_on_stays():
    """A notebook's inline backend does so as it is loaded, by its first figure, and shows no later one without it."""
    with style():
        mpl.interactive(True)
    try:
        assert mpl.is_interactive()
    finally:
        mpl.interactive(False)
