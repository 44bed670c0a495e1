"""Registries: names taken once, helpful refusals, files and plug-ins discovered on first use."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from biaslab._util.registry import Registry, did_you_mean
from biaslab.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def colours():
    colours = Registry("colour")
    colours.add("red", "#f00")
    colours.add("green", "#0f0")
    return colours


def test_it_reads_like_a_mapping(colours):
    assert list(colours) == list(colours.keys()) == ["red", "green"] and len(colours) == 2
    assert "red" in colours and "blue" not in colours and list(colours.values()) == ["#f00", "#0f0"]
    assert dict(colours) == dict(colours.items()) == {"red": "#f00", "green": "#0f0"}
    assert colours["red"] == colours.get("red") == "#f00" and colours.get("blue", None) is None
    assert repr(colours) == "<registry of colours: red, green>"


def test_unknown_names_are_refused_in_one_line(colours):
    with pytest.raises(InputError) as caught:
        colours["gren"]
    assert str(caught.value) == "unknown colour 'gren' (did you mean green?): choose one of red, green"
    with pytest.raises(InputError, match="unknown colour 'xyz': choose one of red, green$"):
        colours.get("xyz")
    assert did_you_mean("GREEN", colours.keys()) == "did you mean green?" and did_you_mean("xyz", ["a"]) == ""


def test_a_taken_name_is_refused(colours):
    with pytest.raises(InputError, match="a colour named 'red' exists already: choose another name"):
        colours.add("red", "#e00")
    assert colours["red"] == "#f00"


def test_by_name_or_by_attribute_and_again(colours):
    colours.register(SimpleNamespace(name="blue"))
    assert colours["blue"].name == "blue"

    def define():
        @colours.register("black")
        def black():
            return 0

        return black

    first, second = define(), define()  # a cell that is run again
    assert colours["black"] is second and first is not second

    @colours.register
    class White:
        name = "white"

    assert colours["white"] is White
    with pytest.raises(InputError, match="'black' exists already"):
        colours.register("black")(White)


@pytest.fixture
def shades(tmp_path, monkeypatch):
    """A registry over a package of two files, the second imported by the first."""
    files = tmp_path / "shades" / "files"
    files.mkdir(parents=True)
    (tmp_path / "shades" / "__init__.py").write_text(
        "from biaslab._util.registry import Registry\nREGISTRY = Registry('shade', package='shades.files')\n"
    )
    (files / "__init__.py").write_text("")
    for name, imports in (("light", "from shades.files.pale import pale\n"), ("pale", "")):
        text = f"from shades import REGISTRY\n{imports}\n@REGISTRY.register('{name}')\ndef {name}(): return '{name}'\n"
        (files / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("shades").REGISTRY
    for name in [name for name in sys.modules if name.split(".")[0] == "shades"]:
        del sys.modules[name]


def test_files_are_found_on_first_use(shades):
    assert "shades.files.light" not in sys.modules
    assert list(shades) == ["pale", "light"] and "shades.files.light" in sys.modules


def test_our_names_are_taken_before_any_use(shades):
    with pytest.raises(InputError, match="a shade named 'light' exists already"):
        shades.add("light", "mine")
    shades.add("dark", "mine")
    assert list(shades) == ["pale", "light", "dark"]


def test_a_file_that_cannot_be_imported_is_no_empty_registry(shades, tmp_path):
    broken = tmp_path / "shades" / "files" / "broken.py"
    broken.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            list(shades)
    broken.unlink()
    assert set(shades) == {"pale", "light"}


def test_alphabetical_order_is_ours_then_theirs(shades):
    shades._alphabetical = True
    shades.add("dark", "mine")
    assert list(shades) == ["light", "pale", "dark"]


def plug_in(folder, name, group, module, text):
    """What pip leaves of an installed package: its module, and its metadata with an entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
    (folder / f"{module}.py").write_text(textwrap.dedent(text))


def test_a_broken_plug_in_is_named_and_costs_nothing_else(tmp_path, monkeypatch):
    group = "biaslab.test_colours"
    plug_in(tmp_path, "broken", group, "broken_colours", "import a_module_that_is_not_there")
    plug_in(tmp_path, "leaving", group, "leaving_colours", "raise SystemExit(3)")
    plug_in(tmp_path, "rude", group, "rude_colours", "COLOURS.add('red', 'mine')")
    plug_in(tmp_path, "whole", group, "whole_colours", "COLOURS.add('blue', '#00f')")
    monkeypatch.syspath_prepend(tmp_path)
    colours = Registry("colour", group=group)
    colours.add("red", "#f00")
    monkeypatch.setattr("builtins.COLOURS", colours, raising=False)
    with pytest.warns(RuntimeWarning) as caught:
        assert dict(colours) == {"red": "#f00", "blue": "#00f"}
    said = sorted(str(w.message) for w in caught if w.category is RuntimeWarning)
    assert len(said) == 3 and all("\n" not in text for text in said)
    assert "plug-in 'broken' of broken (broken_colours) cannot be loaded, so its colours are missing" in said[0]
    assert "a_module_that_is_not_there" in said[0] and "SystemExit: 3" in said[1] and "exists already" in said[2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(colours) == ["red", "blue"]  # told once


METHOD = """
    from dataclasses import dataclass
    import torch
    from biaslab.pruning import Method, register

    @register
    @dataclass(frozen=True, eq=False, kw_only=True)
    class LastTokens(Method):
        name = "last_tokens"

        def importance(self, ctx):
            return torch.arange(ctx.n, dtype=torch.float32)
"""


def python(script, *paths):
    path = os.pathsep.join(map(str, (*paths, ROOT, ROOT / "tests" / "helpers")))
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path}, timeout=300)  # fmt: skip


@pytest.mark.slow
def test_an_installed_pruning_method_prunes_without_an_import(tmp_path):
    plug_in(tmp_path, "last-tokens", "biaslab.methods", "last_tokens", METHOD)
    plug_in(tmp_path, "broken", "biaslab.methods", "broken_method", "1 / 0")
    done = python(
        """
        import tiny, biaslab as bl
        vlm = tiny.vlm("internvl")
        encoded = vlm.encode(tiny.images(1), ["Where?"])
        with bl.prune(vlm, "last_tokens", 2) as run:
            vlm.forward(encoded)
        print(run.selections[0].indices.tolist(), encoded.layouts[0].n)
        from biaslab.pruning import METHODS, make
        print(make("last_tokens", keep=3).keep, list(METHODS)[-1])
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    kept, n = eval(first.replace("] ", "], "))
    assert kept == list(range(n - len(kept), n)) and second == "3 last_tokens"
    assert "plug-in 'broken' of broken (broken_method) cannot be loaded" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "text", "script"),
    [
        (
            "biaslab.estimators",
            "from biaslab.profiles import MeanProfile, register\n"
            "@register\nclass P(MeanProfile):\n    name = 'plugged'\n",
            "from biaslab.profiles import make; print(make('plugged').name)",
        ),
        (
            "biaslab.families",
            "from biaslab.models.family import register\nfrom biaslab.models.adapters.qwen2_vl import Qwen2VL\n"
            "@register\nclass F(Qwen2VL):\n    name = 'plugged'\n    aliases = {'plug': 'o/n'}\n",
            "from biaslab.models import aliases, families; import sys\n"
            "assert aliases()['plug'] == 'o/n' and 'torch' not in sys.modules; print(families()['plugged'].name)",
        ),
        (
            "biaslab.datasets",
            "from biaslab.datasets import register\n@register('plugged')\ndef p(): return 'plugged'\n",
            "import biaslab as bl; print(bl.load_dataset('plugged'))",
        ),
        (
            "biaslab.diagnostics",
            "from biaslab.diagnostics import register\n@register('plugged', 'A title')\ndef p(maps, **k): ...\n",
            "from biaslab.diagnostics import DIAGNOSTICS; print(DIAGNOSTICS['plugged'].name)",
        ),
    ],
)
def test_every_registry_takes_plug_ins(tmp_path, group, text, script):
    plug_in(tmp_path, "plugged-in", group, "plugged_in", text)
    done = python(script, tmp_path)
    assert (done.returncode, done.stdout) == (0, "plugged\n"), done.stderr
    assert "cannot be loaded" not in done.stderr
