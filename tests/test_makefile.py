"""Which Python `make` takes: the first that is there, in range and can make environments; and what it says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IN_RANGE, OUT_OF_RANGE = 0, 1

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture
def make(tmp_path):
    """Run the Makefile's installation with Pythons that only say their version; pip is one of them."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    (tmp_path / "bin").mkdir()

    def run(*words, **pythons):
        for name, status in pythons.items():
            fake = tmp_path / "bin" / name.replace("_", ".")
            fake.write_text(
                '#!/bin/sh\ncase "$1" in\n'
                f"-c) exit {status};;\n"
                f'--version) echo "Python of {fake.name}";;\n'
                '-m) if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi;;\n'
                "esac\n"
            )
            fake.chmod(0o755)
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["make", *words, ".venv/.installed"], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PATH": path, "MAKEFLAGS": ""},
        )  # fmt: skip

    return run


def test_the_first_in_range_is_taken_and_named(make, tmp_path):
    done = make(python3_11=OUT_OF_RANGE, python3_12=IN_RANGE, python3_13=IN_RANGE)
    assert done.returncode == 0, done.stderr
    assert f"Python: {tmp_path}/bin/python3.12, Python of python3.12" in done.stdout
    assert (tmp_path / ".venv" / ".installed").exists()


def test_the_one_that_is_named_is_taken(make):
    done = make("PYTHON=python3.11", python3_13=IN_RANGE, python3_11=IN_RANGE)
    assert done.returncode == 0 and "Python of python3.11" in done.stdout


def test_an_environment_keeps_its_python(make, tmp_path):
    assert make(python3_11=IN_RANGE, python3_12=OUT_OF_RANGE, python3_13=OUT_OF_RANGE).returncode == 0
    (tmp_path / ".venv" / ".installed").unlink()
    again = make(python3_12=IN_RANGE)
    assert again.returncode == 0 and "Python of" not in again.stdout


def test_a_line_says_that_none_is_there(make):
    done = make("PYTHONS=python3.13 python3.12", python3_13=OUT_OF_RANGE, python3_12=OUT_OF_RANGE)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("no Python")]
    assert done.returncode == 2 and line == (
        "no Python from 3.11 to 3.13 with venv is here (tried python3.13 python3.12): install one, or name it: "
        "make PYTHON=PATH"
    )
