"""Escapes against those of pandas' Styler, and against what LaTeX would print."""

from __future__ import annotations

import string

import pandas as pd
import pytest

from biaslab._util.latex import escape, not_for_pdflatex


@pytest.mark.parametrize("char", string.punctuation)
def test_every_character_is_escaped_as_pandas_does(char):
    cell = pd.DataFrame([f"a{char}b"]).style.format(escape="latex").to_latex()
    (line,) = [line for line in cell.splitlines() if line.startswith("0")]
    theirs = line.removeprefix("0 & ").removesuffix(" \\\\")
    # their command swallows a space that follows it; ours ends in {}
    assert escape(f"a{char}b") == theirs.replace("tilde ", "tilde{}").replace("circum ", "circum{}").replace(
        "backslash ", "backslash{}"
    )


def test_nothing_is_escaped_twice_and_spaces_stay():
    assert escape("a_b\\%~ ^2{x}") == ("a\\_b\\textbackslash{}\\%\\textasciitilde{} \\textasciicircum{}2\\{x\\}")
    assert escape("plain 10 [1, 2]") == "plain 10 [1, 2]"


def test_escaped_text_goes_through_tables_as_it_is():
    from biaslab.figures.latex_table import latex_table

    name = "d2pruner:theta=0.7 ~^\\&%$#_{}"
    latex = latex_table(["", escape("10 %")], [[escape(name), "1.0"]], "model", caption=escape(name), label="tab:t")
    assert latex.count(escape(name)) == 2 and f" & {escape('10 %')} \\\\" in latex


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("Müller", r'M\"{u}ller'), ("Mu\u0308ller", r'M\"{u}ller'), ("Łódź", r"\L{}\'{o}d\'{z}"),
        ("ą", r"{\fontencoding{T1}\selectfont\k{a}}"), ("ế", r"$\acute{\hat{\mathrm{e}}}$"), ("ß", r"\ss{}"),
        ("λ = ½", r"$\lambda$ = 1/2"), ("Δ Λ Α ώ", r"$\Delta$ $\Lambda$ $\mathrm{A}$ $\acute{\omega}$"),
        ("±×–—…", r"$\pm$$\times$-----\ldots{}"), ("“a” ‘b’", "``a'' `b'"), ("m²", "m$^{2}$"), ("H₂", "H$_{2}$"),
        ("5\N{NO-BREAK SPACE}%", r"5~\%"), ("％", r"\%"), ("a\u200bb", "ab"),
    ],
)  # fmt: skip
def test_letters_that_pdflatex_can_set_become_commands(text, latex):
    assert escape(text) == latex and latex.isascii() and not_for_pdflatex(text) == not_for_pdflatex(latex) == ""


def test_letters_that_it_cannot_set_stay_and_are_named():
    text = "שלי, 我的方法, Я, ✓, ả"
    assert escape(text) == text and not_for_pdflatex(text) == "שלי我的方法Я✓ả"
