"""The pages of docs/methods say what the docstrings of methods say."""

from biaslab.pruning import METHODS
from tools import method_pages


def test_every_method_has_the_page_of_its_docstring():
    pages = method_pages.all_pages()
    assert {f"{name}.md" for name, cls in METHODS.items() if cls.__module__.startswith("biaslab.")} < set(pages)
    there = {file.name: file.read_text(encoding="utf-8") for file in method_pages.FOLDER.glob("*.md")}
    assert there.keys() == pages.keys()
    stale = [name for name in pages if there[name] != pages[name]]
    assert not stale, f"{stale}: run `make method-pages`"


def test_docstrings_become_markdown():
    text = (
        "Keep it.\n\nAs :class:`~biaslab.pruning.DivPrune` with ``n``:\n\n    a + b\n    c\n\n"
        "- an item\n    goes on\n\n"
        "Parameters\n----------\nfirst, second : int\n    Two.\n\nExamples\n--------\nSo:\n\n>>> 1 + 1\n2"
    )
    assert "\n".join(method_pages.markdown(text)) == (
        "Keep it.\n\nAs `DivPrune` with `n`:\n\n```\na + b\nc\n```\n\n- an item\n    goes on\n\n\n## Parameters\n\n"
        "- `first, second` : int\n  Two.\n\n\n## Examples\n\nSo:\n\n```python\n>>> 1 + 1\n2\n```\n"
    )
