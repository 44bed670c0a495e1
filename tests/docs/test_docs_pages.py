"""What the site must have: pages of every error and room, examples of every name, no page that no contents name."""

import ast
import importlib
import pkgutil
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer

import biaslab as bl
from biaslab import errors, figures
from biaslab.cli.app import app, import_verbs
from tools.public_names import public_rooms, shared_names, without_example

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: pages whose commands and Python are new users' first
FIRST = [DOCS / "get-started.md", *sorted((DOCS / "questions").glob("*.md"))]


def pages():
    """Markdown pages below docs, made ones left out."""
    return [page for page in sorted(DOCS.rglob("*.md")) if "made" not in page.parts]


def contents(page):
    """What the toctrees of a page name: paths below the repository, without suffix, maybe patterns."""
    for block in TOCTREE.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                entry = line.partition("<")[2].rstrip(">") or line
                yield str((page.parent / entry).resolve().relative_to(ROOT))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_page_is_in_the_contents_of_another():
    named = [entry for page in pages() for entry in contents(page)]
    lost = [
        str(page.relative_to(ROOT)) for page in pages()
        if page != DOCS / "index.md" and not any(fnmatch(str(page.relative_to(ROOT).with_suffix("")), n) for n in named)
    ]  # fmt: skip
    assert not lost, f"name them in a toctree, of docs/guide.md say: {lost}"


def site_pages():
    """Markdown files that docs/conf.py makes pages of, those below docs and those elsewhere."""
    tree = ast.parse((DOCS / "conf.py").read_text(encoding="utf-8"))
    (patterns,) = [
        ast.literal_eval(node.value) for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "include_patterns"
    ]  # fmt: skip
    return pages() + [page for p in patterns if p.endswith(".md") for page in sorted(ROOT.glob(p))]


def test_links_between_markdown_files_lead_to_pages_of_the_site():
    known = {page.resolve() for page in site_pages()}
    missing = [
        f"{page.relative_to(ROOT)}: {link}" for page in site_pages()
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in link and link.partition("#")[0].endswith(".md")
        and (page.parent / link.partition("#")[0]).resolve() not in known
    ]  # fmt: skip
    assert not missing, f"name their targets in include_patterns of docs/conf.py: {missing}"


def test_relative_links_lead_to_files():
    dead = []
    for page in pages():
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            path = link.partition("#")[0]
            made = "made/gallery/" in path
            if not path or "://" in path or made:
                continue
            if not (page.parent / path).exists():
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert not dead


def test_links_into_the_gallery_name_its_scripts():
    scripts = {file.stem for file in (DOCS / "gallery").glob("plot_*.py")} | {"index"}
    assert len(scripts) > 12
    for page in pages():
        assert set(re.findall(r"made/gallery/(\w+)", page.read_text(encoding="utf-8"))) <= scripts, page


def drawn_in(script):
    """Displays that a script makes by ``from_...`` and plots."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "plot":
            made = node.func.value.func if isinstance(node.func.value, ast.Call) else None
            if isinstance(made, ast.Attribute) and made.attr.startswith("from_"):
                yield made.value.attr if isinstance(made.value, ast.Attribute) else made.value.id


def test_every_display_is_in_the_gallery():
    public = {name for name in figures.__all__ if name.endswith("Display")} - {"Display"}
    rooms = {module.name for module in pkgutil.iter_modules(figures.__path__) if module.name.endswith("_display")}
    found = {
        name for room in rooms for name, made in vars(importlib.import_module(f"biaslab.figures.{room}")).items()
        if isinstance(made, type) and issubclass(made, figures.Display) and made is not figures.Display
    }  # fmt: skip
    assert found == public
    shown = {name for script in (DOCS / "gallery").glob("plot_*.py") for name in drawn_in(script)}
    assert shown == public, f"give it a script in docs/gallery: {sorted(public - shown)}"


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_a_page_and_an_example(name):
    text = (DOCS / "errors" / f"{name}.md").read_text(encoding="utf-8")
    assert f"autoexception:: biaslab.errors.{name}" in text and "## What to do" in text
    assert f"docs/errors/{name}" in list(contents(DOCS / "errors" / "index.md"))
    assert ">>>" in getattr(errors, name).__doc__


def test_every_room_is_in_the_api():
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   (biaslab[\w.]*)$", index, re.MULTILINE))
    assert listed == set(public_rooms()) - {"biaslab.errors"}  # whose names have pages of their own
    assert {"biaslab.profiles.MeanProfile", "biaslab.errors.BiaslabError"} <= set(shared_names())
    assert "biaslab.profiles.load" not in shared_names()  # another function than biaslab.load


def test_every_public_name_has_an_example():
    assert not without_example()


@pytest.mark.parametrize("page", FIRST, ids=lambda page: page.stem)
def test_the_first_pages_name_verbs_options_and_names_that_exist(page):
    import_verbs()
    verbs = typer.main.get_command(app).commands
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["biaslab"]:
                continue
            options = {option for parameter in verbs[words[1]].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, line
    for block in blocks(page, "python"):
        parts = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)]
        used = {node.attr for node in parts if isinstance(node.value, ast.Name) and node.value.id == "bl"}
        assert used <= set(dir(bl)), page


PATH = re.compile(r"`([\w./-]+\.(?:py|js|css|jinja|md|sh|toml)|biaslab/[\w./-]+)`")
#: what the page says of files that a run writes, or that whoever reads it is to write
OF_NOBODY = re.compile(r"NAME|^my_|^(?:tables|figures)/")


def lost_paths(text):
    """Paths in backticks that do not exist: from the root, from biaslab/, or beside a whole path of the same line."""
    lost = []
    for line in text.splitlines():
        paths = [path for path in PATH.findall(line) if not OF_NOBODY.search(path)]
        whole = [ROOT / path for path in paths if path.startswith("biaslab/")]
        rooms = [path if path.is_dir() else path.parent for path in whole]
        beside = [ROOT, ROOT / "biaslab", *rooms, *(room.parent for room in rooms)]
        for path in paths:
            there = any((folder / path).exists() for folder in beside)
            # a line of the floors names its room by a word, not by a path
            if not there and (whole or not list((ROOT / "biaslab").rglob(path))):
                lost.append(path)
    return lost


def test_every_path_that_the_architecture_names_exists():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert len(PATH.findall(text)) > 150 and lost_paths(text) == []
    assert lost_paths("| x | `biaslab/workflows/harness/`: `arguments.py`, `questions.py` |") == ["questions.py"]
