"""The committed notebooks: with outputs that name no machine, small, and alive in a browser. `nbmake` runs them."""

import re
from pathlib import Path

import browsers
import nbformat
import pytest

from tools.notebooks import FOLDER, badge, problems, with_badge

NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
FIRST = ("quickstart", "your_model")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_there_and_say_nothing_of_the_machine(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert problems(notebook, (FOLDER / f"{name}.ipynb").stat().st_size) == []
    before = notebook.cells[0].source
    with_badge(notebook, name)
    assert notebook.cells[0].source == before, "the badge is out of date: python -m tools.notebooks"


def test_problems_are_found():
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("x")]
    assert problems(notebook, 0) == ["it has no outputs"]
    said = nbformat.v4.new_output("stream", text="written to /tmp/tmp8x/run")
    notebook.cells[0].outputs = [said, nbformat.v4.new_output("error", ename="Oops")]
    assert problems(notebook, 2_000_000) == [
        "2,000,000 bytes, more than 1,500,000", "code cell 1 shows /tmp/tmp8x", "code cell 1 ends in Oops",
    ]  # fmt: skip


def test_the_badge_is_of_the_project_s_repository(monkeypatch, tmp_path):
    monkeypatch.setattr("tools.notebooks.ROOT", tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n')
    assert badge("quickstart") is None
    project.write_text('[project.urls]\nRepository = "https://github.com/somebody/biaslab"\n')
    link = "https://colab.research.google.com/github/somebody/biaslab/blob/main/notebooks/quickstart.ipynb"
    assert badge("quickstart").endswith(f"({link})")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title")])
    for _ in range(2):
        with_badge(notebook, "quickstart")
    assert notebook.cells[0].source.count("colab-badge") == 1 and notebook.cells[0].source.endswith("# Title")


@pytest.mark.parametrize("name", FIRST)
def test_the_first_notebooks_install_what_is_missing(name):
    first = next(cell for cell in read(name).cells if cell.cell_type == "code")
    assert re.match(r"try:\n +import biaslab as bl\nexcept ImportError:\n +%pip install -q biaslab\n", first.source)


@pytest.mark.slow
def test_views_live_in_a_converted_notebook(tmp_path):
    """`bl.view` of the executed quickstart, after nbconvert, in a browser without a network."""
    convert = pytest.importorskip("nbconvert").HTMLExporter()
    page_file = Path(tmp_path / "quickstart.html")
    page_file.write_text(convert.from_notebook_node(read("quickstart"))[0], encoding="utf-8")
    with browsers.chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        said = []
        page.on("pageerror", lambda error: said.append(str(error)))
        # the converted page asks for MathJax and RequireJS of its own accord: here there is no network
        page.route("**/*", lambda r: r.continue_() if r.request.url.startswith(("file:", "data:")) else r.abort())
        page.goto(page_file.as_uri())
        frames = page.locator("iframe")
        assert frames.count() == 3
        frame = page.frame_locator("iframe").nth(0)
        frame.locator("#viewer[data-ready]").wait_for()
        words, picture = frame.locator("[data-part=word-list] button"), frame.locator("[data-part=picture]")
        before = picture.evaluate("c => c.toDataURL()")
        words.nth(2).click()
        assert words.count() > 3 and picture.evaluate("c => c.toDataURL()") != before
        for other in (1, 2):
            page.frame_locator("iframe").nth(other).locator("#viewer[data-ready]").wait_for()
        assert page.locator(".jp-OutputArea-output img").count() > 10  # reprs and figures
        assert said == []
