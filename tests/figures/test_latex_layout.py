"""Tables fit their column: measured with the font metrics of Times itself, of which the code has a stand-in."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from figure_gallery import SEVEN, Labelled, results_frame
from made_runs import coins, made_run

from biaslab.evaluation.best import against_best
from biaslab.evaluation.results import Results
from biaslab.figures import results_latex, results_table, save_table, style
from biaslab.figures.latex_forms import latex_widths
from biaslab.figures.styling import VENUES
from biaslab.stats.multiple_testing import holm

pytestmark = pytest.mark.slow

_TIMES = Path(mpl.get_data_path()) / "fonts" / "afm" / "ptmr8a.afm"
_WIDTHS = {
    int(line.split()[1]): float(line.split()[4]) for line in _TIMES.read_text().splitlines() if line.startswith("C ")
}


def times(text: str, size: float) -> float:
    """Width of a line in Times, in points of TeX: 1000 units of the metrics are the size."""
    return sum(_WIDTHS[ord(char)] for char in text) / 1000 * size


def rows(latex: str) -> list[str]:
    return latex.split(r"\midrule", 1)[1].split(r"\bottomrule")[0].strip().splitlines()


@pytest.mark.parametrize("venue", VENUES)
def test_a_table_of_seven_methods_fits_the_column(venue):
    with style(venue) as widths:
        latex = results_latex(results_table(Labelled(results_frame())))
    wide = r"\begin{table*}" in latex
    assert latex_widths(latex, times) <= 72.27 * (widths.page if wide else widths.column)
    assert not wide  # four keep ratios fit into one column everywhere


def test_a_table_goes_over_both_columns_where_it_must():
    frame = results_frame()
    more = [frame.assign(keep=frame["keep"].where(frame["method"] == "none", frame["keep"] * f)) for f in (1, 0.9, 0.8)]
    table = results_table(Labelled(pd.concat(more).drop_duplicates(["method", "options_hash", "keep"])))
    with style("acl") as widths:
        latex = results_latex(table)
    assert latex.startswith(r"\begin{table*}[t]") and latex.rstrip().endswith(r"\end{table*}")
    assert latex_widths(latex, times) <= 72.27 * widths.page
    with style("jmlr"):
        assert latex_widths(results_latex(table), times) <= 72.27 * 6.0


def test_the_first_row_is_the_unpruned_model_over_all_columns():
    with style("jmlr"):
        latex = results_latex(results_table(Labelled(results_frame())))
    assert rows(latex)[0] == r"no pruning & \multicolumn{4}{c}{97.3 {\scriptsize [95.5, 99.0]}} \\"
    assert "D2Pruner (pivots suppress)" in latex and ":" not in latex.split(r"\begin{tabular}")[1]


def test_names_order_and_a_label_of_ones_own():
    labels = {"d2pruner:pivots_suppress=true": "D2Pruner (ours)", "fastv": "FastV, layer 3"}
    table = results_table(Labelled(results_frame()), methods=["d2pruner", "fastv"], labels=labels)
    assert list(dict.fromkeys(table["label"])) == ["no pruning", "D2Pruner", "D2Pruner (ours)", "FastV, layer 3"]
    with style("jmlr"):
        latex = results_latex(table, label="tab:ours")
    assert r"\label{tab:ours}" in latex and latex.index("D2Pruner (ours)") < latex.index("FastV")


def test_in_a_narrow_column_options_and_intervals_have_a_line_of_their_own():
    with style("cvpr"):
        lines = rows(results_latex(results_table(Labelled(results_frame()))))
    (at,) = (i for i, line in enumerate(lines) if "pivots suppress" in line)
    assert lines[at - 1].startswith("D2Pruner & 96.3") and lines[at].startswith(
        r"\quad (pivots suppress) & {\scriptsize ["
    )


def test_several_layers_and_runs_have_headings():
    latex = results_latex(results_table(Labelled(results_frame(layers=(2, 4), methods=SEVEN[:2]))))
    assert r"\emph{before layer 2}" in latex and latex.index("before layer 2") < latex.index("before layer 4")
    runs = {"8B": Labelled(results_frame()), "7B": Labelled(results_frame(model="org/other"))}
    latex = results_latex(results_table(runs))
    assert latex.index(r"\emph{8B}") < latex.index(r"\emph{7B}") and latex.count("no pruning") == 2


def test_a_dagger_marks_what_does_not_differ_from_the_best(tmp_path):
    n = 120
    hits = {
        "none": {1.0: coins(0.97, n, 0)}, "random": {0.1: coins(0.2, n, 1)}, "fastv": {0.1: coins(0.85, n, 2)},
        "divprune": {0.1: coins(0.9, n, 3)},
    }  # fmt: skip
    means = {word: by[0.1].mean() for word, by in hits.items() if word != "none"}
    assert max(means, key=means.get) == "divprune"
    run = made_run(tmp_path / "run", hits)
    for results in (Results.load(run), run):  # a folder is read with its samples
        tex, csv = save_table(results, tmp_path / "acc50")
        text = tex.read_text()
        (random,), (fastv,), (divprune,) = (
            [line for line in text.splitlines() if line.startswith(name)] for name in ("random", "FastV", "DivPrune")
        )
        assert (
            r"\dagger" not in random
            and r"$^{\dagger}$" in fastv
            and r"\textbf" in divprune
            and r"\dagger" not in divprune
        )
        p = pd.read_csv(csv).set_index("method")["p_vs_best"]
        assert p["random"] < 0.001 < 0.05 < p["fastv"] and np.isnan(p["divprune"])
        for said in ("InternVL2\\_5-8B", "scenes (test)", "n = 120 expressions", "layer 4", "paired sign-flip test",
                     "Holm-adjusted", "2 comparisons", r"\label{tab:acc50}"):  # fmt: skip
            assert said in text, said


def hits_at(layer):
    """Hits of three methods on 120 samples: one far off, two alike."""
    random, fastv, divprune = coins(0.2, 120, layer), coins(0.85, 120, 21), coins(0.9, 120, 22)
    none = {"none": {1.0: coins(0.97, 120, 0)}}
    return none | {"random": {0.1: random}, "fastv": {0.1: fastv}, "divprune": {0.1: divprune}}


def test_several_runs_are_tested_each_in_pairs_of_its_own_and_adjusted_together(tmp_path):
    runs = [made_run(tmp_path / f"k{layer}", hits_at(layer), layer=layer) for layer in (2, 4)]
    table = results_table(runs)
    raw = np.concatenate([against_best(Results.load(run))["p"].dropna() for run in runs])
    assert len(raw) == 4 and sorted(table["p_vs_best"].dropna()) == sorted(holm(raw))
    latex = results_latex(table)
    assert latex.count(r"$^{\dagger}$") == 3 and latex.count("FastV") == 2  # two cells and the caption
    assert all("dagger" in line for line in latex.splitlines() if line.startswith("FastV"))
    for said in ("of InternVL2\\_5-8B on scenes (test), n = 120 expressions", "the table's 4 comparisons",
                 "Bold: best of its column and layer", "test over images, two-sided"):  # fmt: skip
        assert said in latex, said
    named = results_latex(results_table({"early": runs[0], "late": Results.load(runs[1])}))
    assert named.count(r"$^{\dagger}$") == 3 and "of InternVL2\\_5-8B on scenes (test)" in named
    assert "best of its column, run and layer" in named and "over images of a run" in named


def test_a_table_of_two_models_names_the_data_set_that_they_share(tmp_path):
    runs = [made_run(tmp_path / name, hits_at(4), model=f"org/{name}") for name in ("a", "b")]
    latex = results_latex(results_table(runs))
    assert "Acc@0.5 (\\%) on scenes (test), n = 120" in latex and "best of its column and run" in latex
    assert r"\emph{a}" in latex and r"\emph{b}" in latex and latex.count(r"$^{\dagger}$") == 3


def test_where_methods_of_one_column_are_of_several_runs_the_caption_says_that_nothing_was_tested(tmp_path):
    hits = hits_at(4)
    one = made_run(tmp_path / "one", {name: hits[name] for name in ("none", "random", "fastv")})
    two = made_run(tmp_path / "two", {name: hits[name] for name in ("none", "divprune")})
    other = made_run(tmp_path / "other", hits_at(2), layer=2)
    assert "p_vs_best" not in results_table([one, two])
    latex = results_latex(results_table([one, two, other]))
    assert latex.count(r"$^{\dagger}$") == 2 and r"Not tested: layer 4 at 10\,\%." in latex
    bare = results_latex(results_table([one, other / "results.csv"]))  # a table without its samples beside it
    assert r"Not tested: layer 2 at 10\,\%." in bare


def test_no_dagger_where_nothing_was_tested():
    latex = results_latex(results_table(results_frame()))
    assert "dagger" not in latex and "Holm" not in latex
