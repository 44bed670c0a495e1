"""What methods keep of every frame: a row per method, frames beyond eight in the next row, dropped tokens faded."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures import KeptFramesDisplay
from biaslab.figures.kept_display import FADED

mpl.use("Agg")

ONE = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")


def frames(n):
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 10])
def test_each_frame_has_its_panel(n):
    kept = {"adatp": [[0, k] for k in range(1, n + 1)], "fastv": [[] for _ in range(n - 1)] + [[3, 4, 5]]}
    display = KeptFramesDisplay.from_selections(frames(n), [ONE] * n, kept, question="What moves?").plot()
    assert len(display.ax_) == len(display.figure_.axes) == 2 * n
    titles = [ax.get_title(loc="left") for ax in display.ax_]
    assert titles[0] == "adatp\nframe 1: 2 of 16" and titles[n] == "fastv\nframe 1: 0 of 16"
    assert titles[-1] == f"frame {n}: 3 of 16"
    counts = display.data.groupby(["method", "frame"]).size()
    assert counts["adatp"].tolist() == [2] * n and counts["fastv"].to_dict() == {n - 1: 3}
    image = np.asarray(frames(n)[1], float) / 255
    shown = display.ax_[1].images[0].get_array()
    np.testing.assert_allclose(shown[:16, :16], image[:16, :16])  # token 0 is kept: untouched
    assert shown[48:, 48:].min() >= FADED  # token 15 is not: faded
    tops = [ax.get_position().y0 for ax in display.ax_]
    assert len({round(y, 2) for y in tops}) == 2 * (1 if n <= 8 else 2)


def test_what_does_not_fit_is_refused():
    for layouts, kept, said in (
        ([ONE] * 2, {}, "at least one method"),
        ([ONE] * 2, {"m": [[0]]}, "m: 1 selections and 2 layouts of 2 frames"),
        ([ONE], {"m": [[0], [1]]}, "2 selections and 1 layouts of 2 frames"),
        ([ONE] * 2, {"m": [[0], [16]]}, "m, frame 1: token indices must be between 0 and 15"),
    ):
        with pytest.raises(InputError, match=said):
            KeptFramesDisplay.from_selections(frames(2), layouts, kept)
