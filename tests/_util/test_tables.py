"""The writers that stamp rehearsals: one way into a table, a figure and a card, each asking where numbers come from."""

import ast
import re
from pathlib import Path

import pandas as pd
import pytest

import biaslab
from biaslab._util.cards import card_text
from biaslab._util.latex import escape
from biaslab._util.tables import csv_text, write_table
from biaslab._util.watermark import NOTE, is_rehearsal, note_of, rehearsal_name, stamp_table, with_note
from biaslab.figures.display import Display
from biaslab.figures.latex_table import latex_table
from biaslab.figures.tables import results_latex, results_table

REAL, REHEARSED = {"model": "a/b"}, {"model": rehearsal_name("a/b")}
ROOT = Path(biaslab.__file__).parent


def frame():
    return pd.DataFrame({"layer": [1, 2], "r2": [0.25, 0.5]})


def latex_of(table, provenance):
    rows = [[str(value) for value in row] for row in table.itertuples(index=False)]
    return latex_table(list(table), rows, provenance, caption="", label="tab:t")


@pytest.mark.parametrize("provenance", [REAL, "a/b", None, frame()], ids=["settings", "name", "none", "table"])
def test_real_tables_are_written_as_pandas_would(provenance, tmp_path):
    files = write_table(frame(), tmp_path / "new" / "t", provenance, latex=latex_of(frame(), provenance))
    assert [f.name for f in files] == ["t.csv", "t.tex"]
    frame().to_csv(tmp_path / "want.csv", index=False)
    assert files[0].read_bytes() == (tmp_path / "want.csv").read_bytes()
    assert files[1].read_text().startswith(r"\begin{table}[t]")


@pytest.mark.parametrize(
    "provenance",
    [REHEARSED, {"rehearsal": True}, REHEARSED["model"], stamp_table(frame(), REHEARSED)],
    ids=["settings", "flag", "name", "table"],
)
def test_tables_of_a_rehearsal_say_so_in_both_files(provenance, tmp_path):
    table = frame()
    csv, tex = write_table(table, tmp_path / "t.csv", provenance, latex=latex_of(table, provenance))
    assert (pd.read_csv(csv)["note"] == NOTE).all() and tex.read_text().startswith(f"% {NOTE}")
    assert list(table) == ["layer", "r2"] and not table.attrs  # the caller's own is left as it was


def test_a_stamp_stays_with_its_table(tmp_path):
    table = stamp_table(frame(), REHEARSED)
    assert is_rehearsal(table) and note_of(table) == NOTE and list(with_note(table)) == ["layer", "r2", "note"]
    assert NOTE in csv_text(table, REAL) and NOTE in csv_text(table.assign(name="x"), None)
    assert not is_rehearsal(frame().assign(name="x")) and not stamp_table(frame(), REAL).attrs


def test_cards_of_a_rehearsal_say_so_below_the_title():
    assert card_text("A title", REAL, ["one", ""]) == "# A title\n\none\n"
    assert card_text("A title", REHEARSED, ["one", ""]).splitlines()[2].lower().startswith(f"**{NOTE}")


def test_a_display_needs_a_provenance():
    with pytest.raises(TypeError, match="provenance"):
        Display(frame())
    assert note_of(Display(frame(), REHEARSED).data) == NOTE and note_of(Display(frame(), REAL).data) is None


# -- no other way -----------------------------------------------------------------------------------------------
WRITERS = {"to_csv": "_util/tables.py", "savefig": "figures/saving.py"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_tables_and_figures_are_written_by_the_writers_alone():
    calls = {
        (node.attr, name) for name, tree in modules() for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    assert {(call, name) for call, name in calls if call in {*WRITERS, "to_latex"}} == set(WRITERS.items())


@pytest.mark.slow
def test_cards_are_headed_by_their_writer_alone():
    headed = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"# \S*", node.value)
    }
    assert headed == {"_util/cards.py"}


@pytest.mark.slow
def test_every_display_hands_its_data_to_the_base():
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Display" for base in node.bases):
                assert "self.data =" not in ast.unparse(node), (name, node.name)


# -- LaTeX ------------------------------------------------------------------------------------------------------
SPECIAL = "& % $ # _ { } ~ ^ \\".split()


def typeset(latex):
    """What TeX prints: control words and escaped characters read back; no special character is left bare."""
    words = {"textasciitilde": "~", "textasciicircum": "^", "textbackslash": "\\"}
    pattern = r"\\(?:(?P<word>[a-z]+)(?:\{\}|\s+)|(?P<char>[&%$#_{}]))|(?P<plain>[^\\&%$#_{}~^])"
    text, at = "", 0
    for token in re.finditer(pattern, latex):
        assert token.start() == at, f"TeX would not print {latex[at]!r} in {latex!r}"
        at = token.end()
        text += words[token["word"]] if token["word"] else token["char"] or token["plain"]
    assert at == len(latex), latex
    return text


@pytest.mark.parametrize("label", [*(f"a{c}b" for c in SPECIAL), "".join(SPECIAL), *(f"{c} b" for c in SPECIAL)])
def test_escaped_text_is_typeset_as_it_was(label):
    assert typeset(escape(label)) == label


def test_method_labels_reach_a_results_table_as_they_are():
    rows = [{"method": f"m{i}", "keep": 0.5, "layer": 2, "n": 9, "acc50": 0.5} for i in range(len(SPECIAL))]
    labels = {f"m{i}": f"a{char} b" for i, char in enumerate(SPECIAL)}
    latex = results_latex(results_table(pd.DataFrame(rows), labels=labels))
    cells = re.findall(r"^(a.*?) & \\textbf", latex, flags=re.MULTILINE)
    assert sorted(map(typeset, cells)) == sorted(labels.values()) and cells


@pytest.mark.parametrize("char", SPECIAL)
def test_characters_are_escaped_as_pandas_escapes_cells(char):
    latex = pd.DataFrame([[f"a{char}b"]]).style.format(escape="latex").hide(axis=0).hide(axis=1).to_latex()
    (cell,) = re.findall(r"(a.*b) \\\\", latex)
    assert typeset(cell) == typeset(escape(f"a{char}b")) == f"a{char}b"
