"""Messages of the library, as the command line says them."""

import ast
import re
from pathlib import Path

import pytest
from commands import run

import biaslab
from biaslab.cli import app as application
from biaslab.cli.app import app, import_verbs
from biaslab.cli.wording import in_options, options_of
from biaslab.errors import InputError

ROOT = Path(biaslab.__file__).parent


@pytest.fixture(autouse=True, scope="module")
def verbs():
    import_verbs()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("pass profile=, or leave the method out", "pass --profile, or leave the method out"),
        ("use processes=1, or save it", "use --processes 1, or save it"),
        ("no device 'x' here: use device='cpu'", "no device 'x' here: use --device cpu"),
        ("keep layers=[1, 3].", "keep --layers 1,3."),
        ("as in out='runs/x y'", "as in --out runs/x y"),
        ("bl.collect(..., layers=[3]) or layers=[4]", "bl.collect(..., layers=[3]) or --layers 4"),
        ("(layers=[3])", "(--layers 3)"),
        ("theta=2 is unknown, 1 == 1", "theta=2 is unknown, 1 == 1"),
    ],
)
def test_arguments_become_options(message, said):
    options = {"profile": "--profile", "processes": "--processes", "device": "--device", "layers": "--layers",
               "out": "--out"}  # fmt: skip
    assert in_options(message, options) == said


def test_options_are_those_of_the_verb():
    found = options_of(app, "evaluate")
    assert found["batch_size"] == "--batch-size" and found["device_map"] == "--device-map"
    assert "json" not in found and not {"layers", "image"} & set(options_of(app, "prune"))
    assert options_of(app, "nothing") == {}


@pytest.mark.slow
def test_no_message_of_the_library_speaks_python_to_the_command_line():
    """Every text in a ``raise`` that names an argument which a verb has is said as that option there."""
    options = [options_of(app, verb) for verb in ("bench", "evaluate", "fit-bias", "inspect", "probe", "prune")]
    tried = 0
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            words = [n.value for n in ast.walk(node.exc) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            for text, own in ((text, own) for text in words for own in options):
                said = in_options(text, own)
                tried += said != text
                left = re.sub(r"\w\([^()]*", "", said)  # calls are Python, and stay
                assert not [name for name in own if re.search(rf"\b{name}=", left)], said
    assert tried >= 10


def test_an_error_names_the_option(capsys, monkeypatch):
    status, out, err = run(capsys, "evaluate", "--methods", "relative", "--layer", 4, "--out", "runs/x")
    assert (status, out) == (2, "") and "--profile" in err and "profile=" not in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prun", "x"], "biaslab: No such command 'prun'. Did you mean 'prune'? (see `biaslab --help`)\n"),
        (["prune", "a.png", "b", "--kep", "1"],
         "biaslab: No such option: --kep (Possible options: --help, --keep) (see `biaslab prune --help`)\n"),
        (["prune"], "biaslab: Missing argument 'image' (see `biaslab prune --help`)\n"),
    ],
)  # fmt: skip
def test_errors_of_the_command_line_itself_are_one_line(capsys, words, said):
    assert run(capsys, *words) == (2, "", said)


def test_values_of_a_wrong_kind_are_one_line(capsys):
    for words in (["evaluate", "--n", "0", "--out", "x"], ["prune", "a", "b", "--layer", "two"]):
        status, out, err = run(capsys, *words)
        assert (status, out) == (2, "") and err.count("\n") == 1 and words[-2 if words[0] == "prune" else 1] in err


def test_an_unexpected_error_is_one_line_too(capsys, monkeypatch):
    def fail(*_, **__):
        raise InputError("use\n  n=3 here")

    monkeypatch.setattr(application, "app", fail)
    monkeypatch.setattr(application, "options_of", lambda app, verb: {"n": "--n"} if verb == "evaluate" else {})
    assert run(capsys, "evaluate") == (2, "", "biaslab: use --n 3 here\n")
