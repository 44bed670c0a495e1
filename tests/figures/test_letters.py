"""Letters that the figures' fonts lack: borrowed from another font, or named once."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import pytest
from figure_gallery import Labelled, results_frame
from matplotlib.text import Text

from biaslab.figures import AccuracyDisplay, save, style
from biaslab.figures.fitting import text_width
from biaslab.figures.letters import families_with

HEBREW = "\u05e9\u05dc\u05d9"  # DejaVu Sans has it, the serif faces do not
NOBODY = "\U00016a40\U00016a41"  # Mro: of no font that matplotlib brings


def accuracy(label):
    return AccuracyDisplay.from_results(Labelled(results_frame()), labels={"fastv": label})


def test_letters_are_borrowed_where_a_font_has_them(tmp_path):
    with style("icml"), warnings.catch_warnings():
        warnings.simplefilter("error")
        display = accuracy(HEBREW).plot()
        save(display, tmp_path / "a")
    (text,) = [t for t in display.figure_.legends[0].findobj(Text) if t.get_text() == HEBREW]
    assert text.get_fontfamily() == ["STIXGeneral", "DejaVu Serif", "DejaVu Sans"]
    others = [t for t in display.figure_.findobj(Text) if t.get_text() and t.get_text().isascii()]
    assert others and {tuple(t.get_fontfamily()) for t in others} == {("STIXGeneral", "DejaVu Serif")}
    plt.close("all")


@pytest.mark.slow
def test_what_no_font_has_is_one_line_that_names_the_label_and_the_fix(tmp_path):
    if not families_with(NOBODY, ["DejaVu Sans"])[1]:
        pytest.skip("a font with Mro letters is installed here")
    with pytest.warns(UserWarning) as caught:
        save(accuracy(f"mine {NOBODY}"), tmp_path / "a", close=True)
    (warned,) = [str(entry.message) for entry in caught]
    assert f"the letters {NOBODY} of 'mine {NOBODY}'" in warned and "\n" not in warned
    assert "install a font" in warned and "--label" in warned


def test_widths_are_measured_in_the_font_that_is_drawn():
    with style(font="serif"):
        borrowed = text_width(HEBREW, 8)
    with style(font="sans"):
        assert borrowed == pytest.approx(text_width(HEBREW, 8))
