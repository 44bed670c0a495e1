"""A headless Chromium for tests, skipped with the reason where there is none."""

import os
from contextlib import contextmanager

import pytest

from tools import report_screenshots


def lacking(what):
    """Skip, or fail where ``BIASLAB_NEEDS_BROWSER`` is set: in CI, which installs what is needed."""
    if os.environ.get("BIASLAB_NEEDS_BROWSER"):
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def chromium():
    """A browser of playwright's, of the Chromium that the system has."""
    path = report_screenshots.chromium()
    if path is None:
        lacking("no Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("no playwright: pip install playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=report_screenshots.CHROMIUM_OPTIONS)
        yield browser
        browser.close()
