"""The script of all numbers and images is true: each command line parses, and every image has one."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from biaslab.cli.app import app, import_verbs

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "readme_numbers.sh"
#: an estimate with its interval, or an amount of time or storage: what nobody knows without having measured it
MEASURED = re.compile(r"\d(?: %)? \[[-+]?[.\d]+(?: %)?, |\b\d[\d.,]* (?:ms|CPU seconds|kB|MB|GB)\b")
#: pages with such numbers that no command of the script makes, and why
NOT_MADE = {
    "docs/methods/divprune.md": "47 MB are N x N numbers of 4 bytes: computed, not measured",
}


@pytest.fixture(scope="module")
def listed():
    done = subprocess.run(["bash", SCRIPT, "list"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_command_line_parses(listed):
    import_verbs()
    group, kinds = typer.main.get_command(app), set()
    for line in (line for line in listed if line and not line.startswith("#")):
        words = shlex.split(line.removeprefix("time "))
        kinds.add(words[0])
        if words[0] == "biaslab":
            verb = group.commands[words[1]]
            with verb.make_context(words[1], words[2:]):  # reads every option; runs nothing
                pass
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif words[:2] == ["python", "-m"]:
            source = (ROOT / (words[2].replace(".", "/") + ".py")).read_text()
            assert "__main__" in source and all(f'"{w}"' in source for w in words[3:] if w.startswith("--")), line
            assert all(f'"{word}"' in source for word in words[3:4] if not word.startswith("--")), line
        elif words[:2] == ["python", "-c"]:
            compile(words[2], line, "exec")
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), line
        else:
            assert words[0] == "cp" and len(words) == 3 and (ROOT / words[2]).is_file(), line
    assert kinds == {"biaslab", "make", "python", "cp"}


def test_every_image_of_the_docs_is_made_by_it(listed):
    text = "\n".join(listed)
    images = [image.relative_to(ROOT).as_posix() for image in (ROOT / "docs").rglob("*.png")]
    images = [image for image in images if not image.startswith("docs/made/")]  # the site's, where it was built
    assert len(images) > 10 and [image for image in images if image not in text] == []


def test_every_name_says_how_long_it_takes_and_an_unknown_one_is_refused(listed):
    heads = [line for line in listed if line.startswith("## ")]
    assert heads and all(re.match(r"## [a-z0-9]+: .*(second|minute|hour|day)", head) for head in heads)
    done = subprocess.run(["bash", SCRIPT, "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "no name 'nothing': choose from readme profile" in done.stderr


def test_every_page_with_a_measured_number_is_named_by_an_entry(listed):
    heads = " ".join(line for line in listed if line.startswith("## "))
    named = set(re.findall(r"docs/[\w/-]+\.md", heads))
    assert all((ROOT / page).is_file() for page in named)
    pages = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "made" not in page.parts]
    measured = {
        page.relative_to(ROOT).as_posix() for page in pages if MEASURED.search(page.read_text(encoding="utf-8"))
    }
    assert len(measured) > 15 and sorted(measured - named - set(NOT_MADE)) == []
    assert set(NOT_MADE) <= measured and not set(NOT_MADE) & named  # nothing is excused that needs no excuse


def test_every_benchmark_that_is_a_program_is_named(listed):
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    run = re.findall(r"-m (benchmarks\.\w+)", "\n".join([*listed, make]))
    programs = {
        f"benchmarks.{file.stem}" for file in (ROOT / "benchmarks").glob("*.py")
        if "__main__" in file.read_text(encoding="utf-8")
    }  # fmt: skip
    assert len(programs) > 20 and programs - set(run) == set()
