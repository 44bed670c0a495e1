"""Photograph a report as a reader sees it: three widths, light and dark, and its printed pages.

    python -m tools.report_screenshots runs/demo/report.html --out runs/demo/screenshots

Needs Chromium and playwright (the dev extra), as the browser tests do.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

WIDTHS = (390, 820, 1440)  # a phone, a tablet, a screen
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu"]


def chromium() -> str | None:
    """Find the Chromium that the system has."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def screenshots(browser: Any, report: Path, out: Path) -> list[Path]:
    """Write the images and the PDF by a browser of playwright's, and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            written.append(out / f"{report.stem}-{width}-{scheme}.png")
            page.screenshot(path=written[-1], full_page=True)
            if page.evaluate("document.documentElement.scrollWidth") > width:
                raise SystemExit(f"{report} is wider than a window of {width} pixels")
            page.close()
    page = browser.new_page()
    page.goto(report.resolve().as_uri())
    written.append(out / f"{report.stem}.pdf")
    page.pdf(path=written[-1], format="A4", print_background=True)
    page.close()
    return written


def main() -> None:
    """Read the command line, open a browser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        for written in screenshots(browser, options.report, options.out):
            print(written)
        browser.close()


if __name__ == "__main__":
    main()
