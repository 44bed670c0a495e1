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


@pytest.fixture(scope="module")
def listed():
    done = subprocess.run(["bash", SCRIPT, "list"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_command_line_parses(listed):
    import_verbs()
    group, kinds = typer.main.get_command(app), set()
    for line in (line for line in listed if line and not line.startswith("#")):
        words = shlex.split(line)
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
