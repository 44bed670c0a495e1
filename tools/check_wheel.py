"""Build the wheel of what git tracks and try it as somebody does who installs it: from elsewhere, without this folder.

    python -m tools.check_wheel

Every file below biaslab/ must be inside (what package data leaves out is missing nowhere but there), the whole at most
50 MB, both embedded models must answer and `bl.view` write its page. Dependencies are those of the running environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
MOST = 50_000_000  # bytes: what may be uploaded without asking, and is still downloaded gladly

_TRY = """
import sys
from pathlib import Path
import biaslab as bl
assert Path(bl.__file__).is_relative_to(sys.argv[1]), f"another biaslab was imported: {bl.__file__}"
vlm, image = bl.load("grounder"), bl.scenes.scene("test", 0).image
assert vlm.locate(image, "eggplant") is not None
(sample,) = bl.load_dataset("gallery", n=1)
assert bl.load("observer").locate(sample.image(), sample.expression) is not None
bl.view(vlm, image, "the eggplant", methods=["divprune"], keep=0.1).save("view.html")
assert Path("view.html").stat().st_size > 50_000
"""


def sources() -> list[str]:
    """List the files that git tracks and a wheel is built of; what only lies about must not mend the wheel."""
    names = ["biaslab", "pyproject.toml", "README.md", "LICENSE"]
    out = subprocess.run(["git", "ls-files", "-z", *names], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in out.split("\0") if name and (ROOT / name).is_file()]


def build(tree: Path, out: Path, names: list[str]) -> Path:
    """Build the wheel of a copy of the sources: in the repository setuptools would take up an old build/ again."""
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(tree)]
    if find_spec("setuptools") is not None:
        command.append("--no-build-isolation")
    subprocess.run(command, check=True)
    (wheel,) = out.glob("biaslab-*.whl")
    return wheel


def lacking(wheel: Path, tree: Path, names: list[str]) -> list[str]:
    """List the files of the package that the wheel does not hold as they are in the tree that it was built of."""
    with ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    return [name for name in names if name.startswith("biaslab/") and sizes.get(name) != (tree / name).stat().st_size]


def main() -> int:
    """Check the wheel; say what is wrong in a line."""
    with tempfile.TemporaryDirectory() as folder:
        tree, out, site, empty = (Path(folder, name) for name in ("tree", "out", "site", "empty"))
        for place in (tree, out, empty):
            place.mkdir()
        names = sources()
        wheel = build(tree, out, names)
        size = wheel.stat().st_size
        if missing := lacking(wheel, tree, names):
            print(f"check_wheel: {wheel.name} lacks {', '.join(missing)}: name them in package-data of pyproject.toml")
            return 1
        if size > MOST:
            print(f"check_wheel: {wheel.name} has {size / 1e6:.1f} MB: at most {MOST / 1e6:g} are admitted")
            return 1
        with ZipFile(wheel) as archive:
            archive.extractall(site)
        tried = subprocess.run(
            [sys.executable, "-c", _TRY, str(site.resolve())],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(site.resolve())},
        )
        if tried.returncode:
            print(f"check_wheel: {wheel.name} is whole, but what it installs does not work (above)")
            return 1
    print(f"check_wheel: {wheel.name}, {size / 1e6:.1f} MB, holds every file and answers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
