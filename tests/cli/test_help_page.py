"""The help of every verb, whole on a terminal of 80 columns."""

import pytest
import typer
from commands import run

from biaslab.cli.app import app, import_verbs

import_verbs()
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_no_name_and_no_word_is_cut_on_a_narrow_terminal(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    status, text, _ = run(capsys, verb, "--help")
    said = " ".join(text.split())
    assert status == 0 and "…" not in text and max(map(len, text.splitlines())) <= 80
    for parameter in COMMANDS[verb].params:
        for name in (*parameter.opts, *parameter.secondary_opts) if parameter.param_type_name == "option" else ():
            assert f" {name}" in said
        if parameter.help:  # brackets, as in biaslab[peft], are no markup
            assert " ".join(parameter.help.split()) in said


def test_several_words_without_quotes_are_told_what_is_missing(capsys):
    status, _, err = run(capsys, "prune", "photo.png", "the", "cat")
    assert status == 2 and "(cat): put what has several words in quotes (see `biaslab prune --help`)" in err
