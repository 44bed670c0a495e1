"""Run the notebooks and keep their outputs: ``python -m tools.notebooks [NAME ...]``, all of them by default.

Each runs from the top in a fresh kernel of this environment. What an output must not hold (a path of this machine, more
bytes than a page should have) stops it before anything is written. The Colab badge is made of ``Repository`` below
``[project.urls]`` in pyproject.toml; without one there is none.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
MOST_BYTES = 1_500_000
#: where a machine keeps its files
_PATHS = re.compile(r"/(?:tmp|root|home|work|Users|var/folders|opt)/[\w.-]+|[A-Z]:\\\\Users")
_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def badge(name: str) -> str | None:
    """Link to a notebook in Colab; None where the project names no repository on GitHub."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", urls.get("Repository", ""))
    if found is None:
        return None
    return f"{_BADGE}(https://colab.research.google.com/github/{found[1]}/blob/main/notebooks/{name}.ipynb)"


def with_badge(notebook: Any, name: str) -> None:
    """Put the badge on the first line of the first cell, or take away one that is out of date."""
    lines = [line for line in notebook.cells[0].source.splitlines() if not line.startswith(_BADGE)]
    link = badge(name)
    notebook.cells[0].source = "\n".join([link, "", *lines] if link else lines).strip()


def problems(notebook: Any, size: int) -> list[str]:
    """List what a committed notebook must not have: no outputs, errors, machine paths, too many bytes."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [] if any(cell.outputs for cell in cells) else ["it has no outputs"]
    if size > MOST_BYTES:
        found.append(f"{size:,} bytes, more than {MOST_BYTES:,}")
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {number} ends in {output.ename}")
            texts = [output.get("text", ""), *map(str, output.get("data", {}).values())]
            found += [f"code cell {number} shows {path}" for text in texts for path in _PATHS.findall(text)]
    return found


def run(name: str) -> Path:
    """Run a notebook and write it with its outputs."""
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    # tqdm asks for widgets that nothing here shows
    environment = {**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"}
    with TemporaryDirectory() as folder:  # what a notebook writes is not kept
        client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}, record_timing=False)
        client.execute(env=environment)
    with_badge(notebook, name)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if output.output_type == "stream":  # a warning of the cell names the kernel's copy of it
                output.text = re.sub(r"/\S*/ipykernel_\d+/\d+\.py:(\d+): ", r"line \1: ", output.text)
    text = nbformat.writes(notebook, version=4, indent=1) + "\n"
    if found := problems(notebook, len(text.encode("utf-8"))):
        raise SystemExit(f"{path.name}: {'; '.join(found)}")
    path.write_text(text, encoding="utf-8")
    return path


def main(names: list[str]) -> None:
    """Run the named notebooks, or all."""
    for name in names or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        print(run(name))


if __name__ == "__main__":
    main(sys.argv[1:])
