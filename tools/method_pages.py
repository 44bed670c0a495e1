"""Writes docs/methods: a page for every pruning method, from its docstring. ``make method-pages``.

python -m tools.method_pages          write them
python -m tools.method_pages --check  exit status 1 where a page is not what its docstring says
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from pathlib import Path

from biaslab.pruning import METHODS
from biaslab.pruning.base import Method
from biaslab.pruning.listing import methods

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "methods"
_MADE = "<!-- written by tools/method_pages.py from the docstring: change that -->"
_UNDERLINE = re.compile(r"^-{3,}$")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?\.?([^`<]*?)`")
_FIELD = re.compile(r"^(\S[^:]*) : (.+)$")


def main() -> int:
    """Write the pages, or tell which are not as they should be."""
    parser = argparse.ArgumentParser(prog="python -m tools.method_pages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    pages = all_pages()
    there = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    if options.check:
        stale = sorted({*pages} ^ {*there} | {name for name in pages if there.get(name) != pages[name]})
        if stale:
            sys.stderr.write(f"not as their docstrings: {', '.join(stale)}; run `make method-pages`\n")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in {*there} - {*pages}:
        (FOLDER / name).unlink()
    for name, text in pages.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def all_pages() -> dict[str, str]:
    """Make every page: file name -> text."""
    ours = {name: cls for name, cls in METHODS.items() if cls.__module__.startswith("biaslab.")}
    pages = {f"{name}.md": page(name, cls) for name, cls in ours.items()}
    pages["README.md"] = index(ours)
    return pages


def index(ours: dict[str, type[Method]]) -> str:
    """List the methods: what each keeps, reads, and how far it is known to be its source's."""
    table = methods().set_index("method")
    lines = [
        "# Pruning methods", _MADE, "", "`biaslab methods` prints this list, `--bibtex` the works to cite.", "",
        "| name | what it keeps | reads | first K | source | verified |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, cls in ours.items():
        row = table.loc[name]
        says = [row["reads"].replace("+", ", ") or "-", row["from_layer"], row["source"] or "-", row["verified"]]
        lines.append(f"| [`{name}`]({name}.md) | {summary(cls)} | {' | '.join(map(str, says))} |")
    return "\n".join(lines) + "\n"


def page(name: str, cls: type[Method]) -> str:
    """Make the page of one method."""
    row = methods().set_index("method").loc[name]
    facts = {
        "reads": row["reads"].replace("+", ", ") or "nothing", "first layer K": row["from_layer"],
        "profile": row["profile"] or "none", "cost of a choice": row["cost"] or "-",
        "verified": row["verified"], "works to cite": ", ".join(w.key for w in cls().citations()) or "none, ours",
    }  # fmt: skip
    lines = [f"# `{name}`", _MADE, "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items()), ""]
    return "\n".join([*lines, *markdown(inspect.getdoc(cls) or "")]).rstrip() + "\n" + options(cls)


def summary(cls: type[Method]) -> str:
    """First sentence of the docstring."""
    return _plain((inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " "))


def options(cls: type[Method]) -> str:
    """List all options with their defaults, inherited ones too, as a command line takes them."""
    shown = [f"`{f.name}={_value(f)}`" for f in dataclasses.fields(cls) if f.init and f.name not in ("keep", "profile")]
    return f"\n## All options\n\n{', '.join(shown)}\n" if shown else ""


def _value(field: dataclasses.Field) -> str:
    words = {True: "true", False: "false", None: "null"}
    plain = field.default is None or isinstance(field.default, bool)
    return words[field.default] if plain else str(field.default)


def markdown(text: str) -> list[str]:
    """Turn a numpydoc docstring into Markdown."""
    lines = text.split("\n")
    out: list[str] = []
    section = ""
    i = 0
    while i < len(lines):
        line = lines[i]
        if i + 1 < len(lines) and line and _UNDERLINE.match(lines[i + 1]) and not line.startswith(" "):
            section = line
            out += ["", f"## {line}", ""]
            i += 2
            continue
        if section == "Examples":
            end = next((j for j in range(i, len(lines)) if not lines[j]), len(lines))
            block = lines[i:end]
            if block and block[0].startswith(">>>"):
                out += ["```python", *block, "```"]
            else:
                out += [_plain(part) for part in block]
            out.append("")
            i = end + 1
            continue
        if section == "Parameters" and line and not line.startswith(" "):
            found = _FIELD.match(line)
            out.append(f"- `{found[1]}` : {_plain(found[2])}" if found else f"- `{line}`")
        elif line.startswith("    ") and section == "" and not _is_item(lines, i):
            end = next((j for j in range(i, len(lines)) if lines[j] and not lines[j].startswith("    ")), len(lines))
            out += ["```", *(part[4:] for part in lines[i:end]), "```"]
            while out[-2] == "":
                del out[-2]
            out.append("")
            i = end
            continue
        else:
            out.append(_plain(line[2:] if section == "Parameters" and line.startswith("    ") else line))
        i += 1
    return out


def _is_item(lines: list[str], i: int) -> bool:
    """Whether an indented line goes on with a list item above it."""
    above = next((line for line in reversed(lines[:i]) if not line.startswith("    ")), "")
    return above.startswith(("- ", "* "))


def _plain(text: str) -> str:
    text = _ROLE.sub(lambda found: f"`{found[1].rsplit('.', 1)[-1]}`", text)
    return text.replace("``", "`")


if __name__ == "__main__":
    sys.exit(main())
