"""Escapes against those of pandas' Styler, and against what LaTeX would print."""

from __future__ import annotations

import string

import pandas as pd
import pytest

from biaslab._util.latex import escape


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
