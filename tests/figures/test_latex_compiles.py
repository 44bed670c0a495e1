"""What is written as LaTeX is typeset by TeX itself without an error, and no line of it is wider than its place."""

from __future__ import annotations

import re
import shutil
import subprocess

import pandas as pd
import pytest
from figure_gallery import Labelled, results_frame

from biaslab.atlas import BiasAtlas
from biaslab.atlas.write import summary_latex
from biaslab.evaluation.configurations import Config, configurations
from biaslab.figures import results_latex, results_table, style
from biaslab.figures.latex_forms import latex_widths
from biaslab.figures.styling import VENUES
from biaslab.workflows.bench_table import bench_latex, bench_table

HOSTILE = "org_1/a&b_50%#{x}~^\\y$z$"
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


@needs_tex
@pytest.mark.parametrize("venue", ["cvpr", "acl", "jmlr"])
def test_tex_takes_them(tables, venue, tmp_path):
    for name, write in tables.items():
        with style(venue) as widths:
            (tmp_path / f"{name}.tex").write_text(write())
        page, column = (72.27 * inches for inches in (widths.page, widths.column))
        columns, between = ("twocolumn", page - 2 * column) if column < page else ("onecolumn", 10)
        (tmp_path / "main.tex").write_text(
            rf"""\documentclass[10pt,{columns}]{{article}}
            \usepackage{{booktabs,times}}
            \usepackage[paperwidth=9in,textwidth={page}pt,columnsep={between}pt]{{geometry}}
            \begin{{document}}Text.\input{{{name}}}\end{{document}}"""
        )
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"], cwd=tmp_path, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: " + done.stdout[-2000:]
        assert not re.findall(r"Overfull.*", done.stdout), name
