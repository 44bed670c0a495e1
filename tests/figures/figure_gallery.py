"""Every display, made of small data that is as awkward as what is met: long names, many methods, boxes at the edge.

    python tests/figures/figure_gallery.py OUT [VENUE ...]

draws all of them for every venue into OUT, to be looked at, and names what is not fit for print.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.text import Text
from PIL import Image

from biaslab import figures
from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe import ProbeResult
from biaslab.figures.styling import SMALLEST, VENUES, style
from biaslab.maps.simulate import simulate
from biaslab.profiles import MeanProfile

SEVEN = ("random", "uniform", "fastv", "relative", "divprune", "d2pruner", "d2pruner:pivots_suppress=true")
_ACCURACIES = {  # at 50, 20, 10 and 5 %: several methods lie on each other
    "random": (94.7, 87.7, 65.0, 50.0), "uniform": (93.7, 93.3, 80.3, 64.3), "fastv": (96.7, 90.0, 84.3, 78.0),
    "relative": (96.7, 92.3, 84.7, 79.7), "divprune": (97.3, 96.7, 89.7, 79.3), "d2pruner": (96.7, 94.7, 87.0, 79.3),
    "d2pruner:pivots_suppress=true": (96.3, 93.7, 91.0, 82.7),
}  # fmt: skip
SQUARE = TokenLayout.raster(8, 8, size=(112, 112), family="internvl")
WIDE = TokenLayout.raster(6, 8, size=(112, 84), family="internvl")
_EXPRESSION = "the big eggplant left of the second smallest horse below the aeroplane"


def results_frame(layers: tuple[int, ...] = (4,), methods: tuple[str, ...] = SEVEN, **fixed: Any) -> pd.DataFrame:
    """Make rows of a run's results with intervals and costs."""
    base = {
        "dataset": "scenes", "split": "test", "expression_type": "all", "model": "org/InternVL2_5-8B",
        "profile_hash": "", "seed": 0, "n": 300, "errors": 0, "unparsed": 2, "tflops_vision": 0.9,
        "tflops_projector": 0.1,
    }  # fmt: skip
    base |= fixed
    rows = [base | {"method": "none", "options_hash": "", "keep": 1.0, "layer": None, "tflops_decoder": 6.0}
            | {"acc50": 0.973, "acc50_lo": 0.955, "acc50_hi": 0.99}]  # fmt: skip
    for i, word in enumerate(methods):
        for layer in layers:
            for keep, value in zip((0.5, 0.2, 0.1, 0.05), _ACCURACIES[word], strict=True):
                acc, half = value / 100, 0.02 + 0.1 * (1 - value / 100)
                own = {"method": word.partition(":")[0], "options_hash": f"{i:012x}", "keep": keep, "layer": layer}
                ends = {"acc50": acc, "acc50_lo": acc - half, "acc50_hi": min(acc + half, 1)}
                rows.append(base | own | ends | {"tflops_decoder": 1.0 + 4.5 * keep + 0.1 * layer})
    frame = pd.DataFrame(rows)
    frame["layer"] = frame["layer"].astype("Int64")
    return frame


class Labelled:
    """A table whose methods' options are known, as `biaslab.evaluation.Results` knows them."""

    def __init__(self, table: pd.DataFrame, methods: tuple[str, ...] = SEVEN) -> None:
        self.table, self.labels = table, {f"{i:012x}": word for i, word in enumerate(methods)}


def photograph(size: tuple[int, int] = (112, 112)) -> Image.Image:
    """Draw something with edges and colours."""
    y, x = np.mgrid[: size[1], : size[0]] / max(size)
    waves = [0.5 + 0.5 * np.sin(9 * x + 7 * y * y), 0.4 + 0.4 * np.cos(11 * y), 0.3 + 0.5 * (x > 0.5)]
    return Image.fromarray((255 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def profile() -> MeanProfile:
    """Fit a profile of ten layers and three heads to simulated maps."""
    return MeanProfile().fit(simulate("bottom-heavy", {SQUARE: 12}, layers=10, heads=3).maps)


def probe() -> ProbeResult:
    """Make a probe of ten layers on a grid of 8 x 8."""
    rng = np.random.default_rng(0)
    place = np.linspace(-1, 1, 8)[:, None] + np.zeros((8, 8))
    effects = place[None, :, :, None, None, None] * np.linspace(0.2, 2.0, 10)[:, None]
    effects = effects + 0.2 * rng.normal(size=(6, 8, 8, 1, 10, 1))
    overlaps = rng.uniform(0.2, 1, (6, 8, 8, 1))
    settings = {
        "model": "org/InternVL2_5-8B", "queries": "last", "score": "attention", "heads": "mean", "family": "internvl",
    }  # fmt: skip
    return ProbeResult(
        effects, overlaps, np.zeros((6, 8, 8, 1, 4)), [f"object {i}" for i in range(6)], list(range(10)), ["mean"],
        ["tiles"], SQUARE, settings,
    )  # fmt: skip


def _by_layer(value: str, n: int = 10, **columns: Any) -> pd.DataFrame:
    at = np.arange(n)
    y = 0.35 + 0.3 * np.sin(at / 2)
    table = pd.DataFrame({"layer": at, value: y, f"{value}_lo": y - 0.06, f"{value}_hi": y + 0.05, "n": 300})
    return table.assign(**columns)


def results_displays() -> dict[str, figures.Display]:
    """Make what is drawn of runs."""
    seven, model = Labelled(results_frame()), "org/InternVL2_5-8B"
    layers = Labelled(results_frame(layers=(2, 4, 5)))
    runs = [Labelled(results_frame()), Labelled(results_frame(model="org/Qwen2.5-VL-7B-Instruct"))]
    kept = {"no pruning": None, "D2Pruner (pivots suppress)": [0, 7, 56, 63], "FastV": [1, 2, 3], "DivPrune": [9, 60]}
    many = {**kept, "relative attention": [5], "uniform": [0, 2], "random": [8], "HiPrune": [12], "VisionZip": [40]}
    corner = Box(0, 0, 50, 40)
    answers = dict.fromkeys(many, Box(60, 70, 112, 112)) | {"random": None}
    picked = {"target": corner, "expression": _EXPRESSION, "model": model, "title": "10 % kept before layer 4"}
    frames = [photograph((112, 84))] * 3
    return {
        "accuracy": figures.AccuracyDisplay.from_results(seven),
        "accuracy-layers": figures.AccuracyDisplay.from_results(layers),
        "accuracy-runs": figures.AccuracyDisplay.from_results(runs),
        "kept": figures.KeptTokensDisplay.from_selections(
            photograph(), SQUARE, kept, answers={name: answers[name] for name in kept}, **picked
        ),
        "kept-two": figures.KeptTokensDisplay.from_selections(
            photograph(), SQUARE, {"no pruning": None, "DivPrune": [9, 60]}, **picked
        ),
        "kept-many": figures.KeptTokensDisplay.from_selections(photograph(), SQUARE, many, answers=answers, **picked),
        "frames": figures.KeptFramesDisplay.from_selections(
            frames, [WIDE] * 3, {"AdaTP": [[0, 9], [], [3]], "D2Pruner (pivots suppress)": [[1], [2], [3]]},
            question="What moves from the left to the right of the street while the light is red?",
        ),
        "relevance": figures.RelevanceDisplay.from_relevance(
            photograph(), SQUARE, np.arange(64.0), attention=np.arange(64.0) ** 2, kept=[50, 60, 63], target=corner,
            expression=_EXPRESSION, heads="18 heads of layers 5 to 9", model=model,
        ),
    }  # fmt: skip


def bias_displays() -> dict[str, figures.Display]:
    """Make what is drawn of maps, profiles and probes."""
    fitted, rng, model = profile(), np.random.default_rng(1), "org/InternVL2_5-8B"
    attention = rng.gamma(0.6, size=(3, 64))
    three = {
        "profile": fitted, "layer": 3, "targets": [Box(0, 0, 60, 50), None, Box(20, 60, 112, 112)],
        "titles": [_EXPRESSION, "left cupcake", "the sheep"],
    }  # fmt: skip
    images = [photograph()] * 3
    sizes = pd.concat(
        [
            pd.DataFrame({"n": [10, 25, 50, 100, 200, 300]}).assign(
                layer=layer, reliability=lambda t, k=layer: t["n"] / (t["n"] + 3 + 4 * k)
            )
            for layer in range(10)
        ]
    ).reset_index(drop=True)
    sizes = sizes.assign(
        predicted=sizes["reliability"], draw_lo=sizes["reliability"] - 0.05, draw_hi=sizes["reliability"] + 0.04
    )
    eta = pd.concat([_by_layer("eta2", axis="row", q=0.01), _by_layer("eta2", axis="col", q=0.3)])
    auroc = pd.concat([_by_layer("auroc", debias="raw"), _by_layer("auroc", debias="ratio", p_adjusted=0.01)])
    frame = pd.DataFrame({"frame": np.tile(np.arange(8), 9), "layer": np.repeat(np.arange(9), 8), "frames": 8, "n": 40})
    frame = frame.assign(ratio=1 + 0.05 * frame["frame"], ratio_lo=0.9, ratio_hi=1.5)
    heads = pd.DataFrame({"layer": np.repeat(np.arange(6), 4), "head": np.tile(np.arange(4), 6)})
    heads = heads.assign(value=rng.random(24)).assign(lo=lambda t: t["value"] - 0.1, hi=lambda t: t["value"] + 0.1)
    places = pd.DataFrame({"thumbnail": False, "teacher": np.linspace(-1, 1, 64), "student": 0.1, "se": 0.1})
    curve = pd.DataFrame({"epoch": range(5), "train": [4.0, 3.6, 3.4, 3.2, 3.1], "held_out": [3.9, 3.6, 3.5, 3.4, 3.5]})
    tokens = [f"word{i}" for i in range(18)] + ["", "<|end_of_sentence|>"]
    words = pd.DataFrame({"token": tokens, "n": range(3, 23), "weight": 0.3, "share": 0.1})
    return {
        "profile": figures.ProfileDisplay.from_profile(fitted),
        "profile-one": figures.ProfileDisplay.from_profile(fitted, layers=3),
        "heads": figures.HeadsDisplay.from_profile(fitted),
        "attention": figures.AttentionDisplay.from_attention(images, [SQUARE] * 3, attention, **three),
        "attention-one": figures.AttentionDisplay.from_attention(
            photograph(), SQUARE, attention[0], profile=fitted, layer=3, targets=Box(0, 0, 60, 50), titles=_EXPRESSION
        ),
        "variance": figures.VarianceDisplay.from_table(_by_layer("r2"), model=model),
        "auroc": figures.AurocDisplay.from_table(auroc, model=model),
        "dependence": figures.DependenceDisplay.from_table(eta.assign(null_hi=0.004), model=model),
        "reliability": figures.ReliabilityDisplay.from_table(sizes, model=model),
        "frame-mass": figures.FrameMassDisplay.from_table(frame),
        "head-rating": figures.HeadRatingDisplay.from_table(heads),
        "probe": figures.ProbeDisplay.from_probe(probe()),
        "probe-profile": _compared(),
        "location": figures.LocationAccuracyDisplay.from_probe(probe()),
        "places": figures.LearnedPlacesDisplay.from_places(places.assign(pictures=30), SQUARE),
        "curve": figures.LearningCurveDisplay.from_curve(curve.assign(floor=3.0)),
        "words": figures.WordWeightsDisplay.from_words(words.assign(se=0.01, even=0.1)),
    }


def _compared() -> figures.ProbeDisplay:
    """Put a second map beside the probe's without fitting one: slopes and intervals as `compare` gives them."""
    alone = figures.ProbeDisplay.from_probe(probe(), layers=range(6))
    data = alone.data.assign(profile=1.1 * alone.data["probe"])
    row = {"slope": 0.91, "slope_lo": 0.78, "slope_hi": 1.07, "r": 0.88}
    compared = pd.DataFrame([row] * 6, index=pd.RangeIndex(6, name="layer"))
    return figures.ProbeDisplay(data, alone.title, compared, provenance="org/InternVL2_5-8B")


def gallery() -> dict[str, figures.Display]:
    """Make all of them."""
    return results_displays() | bias_displays()


#: one venue of each pair of widths and font
DISTINCT = {(venue.column, venue.page, venue.serif): name for name, venue in reversed(VENUES.items())}.values()


def faults(display: figures.Display, venue: str, folder: Path, *, formats: tuple[str, ...] = ("pdf",)) -> list[str]:
    """Save a display for a venue; say what a paper could not take as it is."""
    with style(venue) as widths:
        pdf = figures.save(display, folder / type(display).__name__, formats=formats)[0]
        figure = display.figure_
        found = [] if media_width(pdf) in printed_widths(widths) else [f"{media_width(pdf):.2f} in wide"]
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        found += [f"{t.get_text()!r} in {t.get_fontsize():.1f} pt" for t in texts if t.get_fontsize() < SMALLEST]
        figure.draw_without_rendering()
        for ax in figure.axes:
            for axis in (ax.xaxis, ax.yaxis):
                shown = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_visible() and t.get_text()]
                apart = axis is ax.yaxis and len({round(box.y0) for box in shown}) > 1 or axis is ax.xaxis
                pairs = zip(shown, shown[1:], strict=False)
                if apart and any(_overlap(a, b) for a, b in pairs):
                    found.append(f"tick labels of {axis.axis_name} touch")
        for ax in figure.axes:
            for patch in ax.patches:
                over = [t.get_text() for t in texts if _overlap(t.get_window_extent(), patch.get_window_extent())]
                if patch.get_label() == "target" and over:
                    found.append(f"{over[0]!r} over the target")
    return found


def media_width(pdf: Path) -> float:
    """Read how wide a PDF's page is, in inches to two digits."""
    box = re.search(rb"/MediaBox \[\s*([^\]]*?)\s*\]", pdf.read_bytes())[1].split()
    return round((float(box[2]) - float(box[0])) / 72, 2)


def printed_widths(widths: Any) -> set[float]:
    """List how wide a figure may be: as a column, or as the page."""
    return {round(widths.column, 2), round(widths.page, 2)}


def _overlap(a: Any, b: Any) -> bool:
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5


def main(out: str, *venues: str) -> int:
    """Draw the gallery and count the faults."""
    mpl.use("Agg")
    count = 0
    for venue in venues or DISTINCT:
        for name, display in gallery().items():
            found = faults(display, venue, Path(out) / venue / name, formats=("pdf", "png"))
            count += len(found)
            sys.stdout.write(f"{venue} {name} {'; '.join(found) or 'good'}\n")
            plt.close("all")
    return count


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) > 0)
