"""What is written as LaTeX is typeset by TeX itself without an error, and no line of it is wider than its place."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
import warnings

import pandas as pd
import pytest
from figure_gallery import Labelled, results_frame

from biaslab._util.latex import escape, not_for_pdflatex
from biaslab.atlas import BiasAtlas
from biaslab.atlas.write import summary_latex
from biaslab.evaluation.configurations import Config, configurations
from biaslab.figures import results_latex, results_table, style
from biaslab.figures.latex_forms import latex_widths
from biaslab.figures.styling import VENUES
from biaslab.workflows.bench_table import bench_latex, bench_table

pytestmark = pytest.mark.slow

HOSTILE = "org_1/a&b_50%#{x}~^\\y$z$"
#: all letters that pdflatex can set: of Latin, of Greek, common signs
LETTERS = "".join(
    char
    for char in map(chr, [*range(0xA1, 0x180), *range(0x370, 0x400), *range(0x1E00, 0x2300)])
    if unicodedata.name(char, "") and not not_for_pdflatex(char)
)
needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")


def bench_tex(layers=(2,), memory=True):
    """A benchmark's table with long names, of times that are planted."""
    configs = [Config(None, None)]
    configs += configurations(["random", "divprune", "mmr:lam=0.7", "scope:by=vision"], [0.1, 64], list(layers))
    runs = [
        {
            "batch": 0, "round": turn, "config": i, "vision_ms": 105.0, "prefill_ms": 4400.0 / (1 + i) + turn,
            "decode_ms": 12345.0 + turn, "attention_ms": 1.0, "select_ms": 3.2,
            **({"below_ms": 150.0, "floor_decode_ms": 4500.0} if i else {}),
        }
        for turn in range(5)
        for i in range(len(configs))
    ]  # fmt: skip
    peaks = [{"extra_mb": 12345.0, "peak_mb": 23456.0} if memory else {} for _ in configs]
    table = bench_table(pd.DataFrame(runs), configs, costs=[[None] * len(configs)], peaks=peaks)
    settings = {"batch_size": 8, "new_tokens": 32, "model": HOSTILE, "dtype": "bfloat16", "device": "NVIDIA_H100 80%"}
    return bench_latex(table, settings)


def results_tex():
    frame = results_frame().assign(model=HOSTILE, dataset="sce_nes & 50%", split="te#st")
    return results_latex(results_table(Labelled(frame), labels={"fastv": HOSTILE}))


@pytest.fixture
def atlas_tex(stored):
    atlas = BiasAtlas.from_maps(stored)
    atlas.provenance["model"] = HOSTILE

    def write():
        more = {"probe_slope": 1.234, "probe_slope_lo": 1.123, "probe_slope_hi": 1.345}
        return summary_latex(atlas, atlas.summary().assign(gain=-0.018, gain_lo=-0.025, gain_hi=-0.010, **more))

    return write


@pytest.fixture
def tables(atlas_tex):
    return {
        "results": results_tex, "bench": bench_tex, "atlas": atlas_tex,
        "bench-layers": lambda: bench_tex((2, 4), memory=False),
    }  # fmt: skip


@pytest.mark.parametrize("venue", VENUES)
def test_every_table_is_no_wider_than_its_place(tables, venue):
    from test_latex_layout import times

    for name, write in tables.items():
        with style(venue) as widths:
            latex = write()
        room = widths.page if r"\begin{table*}" in latex else widths.column
        assert latex_widths(latex, times) <= 72.27 * room, name


def test_a_benchmark_names_methods_as_papers_do_and_says_once_what_is_the_same_in_all_rows():
    with style("cvpr"):
        latex = bench_tex(memory=False)
    body, caption = latex.split(r"\toprule")[1], latex.split(r"\caption")[1].split(r"\label")[0]
    assert "DivPrune & 10" in body and "divprune" not in body and "memory" not in body and "$K$" not in body
    assert "before decoder layer $K = 2$" in caption and "a\\&b\\_50" in caption and "org" not in caption
    shares = [int(share) for share in re.findall(r"(\d+)\\,\\%", caption)]
    assert len(shares) == 3 and sum(shares) == pytest.approx(100, abs=1)
    with style("cvpr"):
        assert "$K$ & method" in bench_tex((2, 4)) and "memory" in bench_tex()


def typeset(folder, main, program="pdflatex"):
    (folder / "main.tex").write_text(main, encoding="utf-8")
    return subprocess.run(
        [program, "-interaction=nonstopmode", "-halt-on-error", "main.tex"], cwd=folder, capture_output=True, text=True,
        errors="replace",
    )  # fmt: skip


@needs_tex
def test_pdflatex_sets_every_letter_that_is_said_to_be_for_it(tmp_path):
    assert len(LETTERS) > 500 and set("éőąđØßαΩώ±×–—“”…µ²½→≤€№") <= set(LETTERS)
    lines = "\n\n".join(f"{escape(char)} \\textbf{{{escape(char)}}}" for char in LETTERS)
    done = typeset(tmp_path, rf"\documentclass{{article}}\usepackage{{times}}\begin{{document}}{lines}\end{{document}}")
    assert done.returncode == 0 and "Missing character" not in done.stdout, done.stdout[-2000:]


@needs_tex
@pytest.mark.parametrize(
    "label", ["Müller’s λ = 0.7 (±0.1 – “ours” …)", "Naïve Łódź, đ, ế, ½ m², 5 °C → 6", "D²Pruner×2"]
)
def test_names_with_accents_greek_and_signs_are_set_in_their_column(label, tmp_path):
    frame = results_frame().assign(model=f"org/{label}", dataset=label)
    with style("cvpr"), warnings.catch_warnings():
        warnings.simplefilter("error")
        tex = results_latex(results_table(Labelled(frame), labels={"fastv": label}))
    assert tex.isascii() and "lualatex" not in tex
    page = r"\usepackage{booktabs,times}\usepackage[textwidth=495pt,columnsep=27pt]{geometry}"
    done = typeset(tmp_path, rf"\documentclass[twocolumn]{{article}}{page}\begin{{document}}{tex}\end{{document}}")
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


@pytest.mark.parametrize("label", ["שלי", "我的方法", "Мой"])
def test_a_table_that_pdflatex_cannot_set_says_so_in_itself_and_in_one_warning(label):
    with pytest.warns(UserWarning) as caught:
        tex = results_latex(results_table(Labelled(results_frame()), labels={"fastv": label}))
    (warned,) = [str(entry.message) for entry in caught]
    assert warned.startswith("tab:acc50: pdflatex cannot set ") and "--label" in warned and "\n" not in warned
    assert tex.startswith(f"% pdflatex cannot set {''.join(dict.fromkeys(label))}: use lualatex or xelatex")
    assert f"\n{label} & " in tex


@needs_tex
@pytest.mark.parametrize("venue", ["cvpr", "acl", "jmlr"])
def test_tex_takes_them(tables, venue, tmp_path):
    for name, write in tables.items():
        with style(venue) as widths:
            (tmp_path / f"{name}.tex").write_text(write())
        page, column = (72.27 * inches for inches in (widths.page, widths.column))
        columns, between = ("twocolumn", page - 2 * column) if column < page else ("onecolumn", 10)
        done = typeset(
            tmp_path,
            rf"""\documentclass[10pt,{columns}]{{article}}
            \usepackage{{booktabs,times}}
            \usepackage[paperwidth=9in,textwidth={page}pt,columnsep={between}pt]{{geometry}}
            \begin{{document}}Text.\input{{{name}}}\end{{document}}""",
        )
        assert done.returncode == 0, f"{name}: " + done.stdout[-2000:]
        assert not re.findall(r"Overfull.*", done.stdout), name
