"""Checks a built site: every link within it leads to a file, and to an anchor that is there. ``make docs`` calls it.

python -m tools.check_site build/docs    exit status 1 where a link is dead
"""

from __future__ import annotations

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


def main() -> int:
    """Check the site in a folder; print how many pages and links there are, and those that are dead."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_site", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", type=Path)
    site = parser.parse_args().site
    pages, links, dead = check(site)
    for line in dead:
        sys.stderr.write(line + "\n")
    print(f"{site}: {pages} pages, {links} links within it, {len(dead)} dead")
    return 1 if dead or not pages else 0


def check(site: Path) -> tuple[int, int, list[str]]:
    """Count pages and links within the site, and list dead links as "page: link"."""
    site = site.resolve()
    files = sorted(file for file in site.rglob("*.html") if site / "_static" not in file.parents)  # a theme's templates
    pages = {file: _Page(file) for file in files}
    links, dead = 0, []
    for file, page in pages.items():
        for link in sorted(page.links):
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            links += 1
            aim = (file.parent / unquote(target.path)).resolve() if target.path else file
            anchors = pages[aim].anchors if aim in pages else set()
            lost = not aim.is_file() or site not in aim.parents
            if lost or (target.fragment and aim in pages and unquote(target.fragment) not in anchors):
                dead.append(f"{file.relative_to(site)}: {link}")
    return len(pages), links, dead


class _Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down where an element leads, and what it is called."""
        told = {name: value for name, value in attrs if value}
        self.links |= {told[name] for name in ("href", "src") if name in told and told[name] != "#"}
        self.anchors |= {told[name] for name in ("id", "name") if name in told}


if __name__ == "__main__":
    sys.exit(main())
