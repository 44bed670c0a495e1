"""A headless Chromium for tests, skipped with the reason where there is none."""

import os
import shutil
from contextlib import contextmanager

import pytest


def lacking(what):
    """Skip, or fail where ``BIASLAB_NEEDS_BROWSER`` is set: in CI, which installs what is needed."""
    if os.environ.get("BIASLAB_NEEDS_BROWSER"):
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def chromium():
    """A browser of playwright's, of the Chromium that the system has."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        lacking("no Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("no playwright: pip install playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
