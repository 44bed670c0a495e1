"""Tables fit their column: measured with the font metrics of Times itself, of which the code has a stand-in."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from figure_gallery import SEVEN, Labelled, results_frame
from made_runs import coins, made_run

from biaslab.evaluation.results import Results
from biaslab.figures import results_latex, results_table, save_table, style
from biaslab.figures.latex_forms import latex_widths
from biaslab.figures.styling import VENUES

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


def test_no_dagger_where_nothing_was_tested():
    latex = results_latex(results_table(results_frame()))
    assert "dagger" not in latex and "Holm" not in latex
