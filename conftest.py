import os
import sys

# One thread per process: tiny tensors' threads would only wait for each other, and xdist runs several processes.
# The variable is for the processes that tests start: notebook kernels, workers of an evaluation. It stands at the
# root, because notebooks and doctests that run alone want it, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Notebooks, which are collected under ``--nbmake`` alone, are long; they cannot say so themselves."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("long")


@pytest.fixture(autouse=True)
def threads_as_they_were():
    """What computes on more threads gives them back: all tests behind it would be slower."""
    yield
    assert torch.get_num_threads() == 1


@pytest.fixture(scope="session")
def grounder():
    """The embedded grounder, loaded once per process."""
    import biaslab as bl

    return bl.load("grounder")


@pytest.fixture
def grounder_at_hand(monkeypatch, grounder):
    """What loads the grounder in this process gets the one that is loaded; for tests that would read it many times."""

    def load(name, **settings):
        assert name == "grounder" and set(settings.values()) <= {None, "auto", "sdpa"}
        return grounder

    for module in ("biaslab", "biaslab.models", "biaslab.workflows.demo"):
        monkeypatch.setattr(f"{module}.load", load)


@pytest.fixture(autouse=True)
def draft_figures(request, monkeypatch):
    """Figures in files at screen resolution and without subsets of TrueType fonts, which are dear to write.

    Most tests write figures and look at none; `tests/figures` and what is marked `final_figures` have them as users do.
    """
    if "tests/figures" in request.node.nodeid or request.node.get_closest_marker("final_figures"):
        return
    styling = sys.modules.get("biaslab.figures.styling")
    if styling is None:  # a test of a room that draws nothing, or one that imports it for the first time
        return
    monkeypatch.setitem(styling._RC, "pdf.fonttype", 3)
    monkeypatch.setitem(styling._RC, "ps.fonttype", 3)  # matplotlib's PDF backend reads this one, too
    monkeypatch.setitem(styling._RC, "savefig.dpi", 75)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Stored maps of 24 images, 2 heads and 2 layers whose rows are U-shaped."""
    from planted_maps import ONE, planted, u_shape

    return planted(tmp_path_factory.mktemp("maps"), [(ONE, 24)], u_shape, heads=2, layers=(1, 4))
