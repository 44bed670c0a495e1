"""How numbers are printed."""

from __future__ import annotations

import pandas as pd
import pytest

import biaslab as bl
from biaslab.cli import options as opt
from biaslab.cli.output import summary, table
from biaslab.errors import InputError


def test_no_p_value_is_printed_as_zero():
    frame = pd.DataFrame({"p": [0.0001, 0.0009999], "p_adjusted": [0.001, float("nan")], "power": [0.0001, 0.5]})
    header, first, second = (line.split() for line in table(frame).splitlines())
    assert header == ["p", "p_adjusted", "power"]
    assert first == ["<.001", "0.001", "0.000"] and second == ["<.001", "-", "0.500"]


def test_the_summary_names_reference_test_and_adjustment(grounder):
    scenes = bl.load_dataset("scenes", n=1)
    run = {"keep": 0.5, "layer": 4, "progress": False, "n_resamples": 20}
    text = summary(bl.evaluate(grounder, scenes, methods=["none", "random", "uniform"], reference="uniform", **run))
    assert "p vs uniform" in text.splitlines()[0] and "p_vs_reference" not in text
    line = text.splitlines()[-1]
    assert all(words in line for words in ("against uniform", "sign-flip", "two-sided", "not adjusted"))
    text = summary(bl.evaluate(grounder, scenes, methods="none", **run))
    assert "sign-flip" not in text and "p vs" not in text and "p_vs" not in text


def test_keep_ratios_in_per_cent():
    assert opt.keeps("10%,0.2, 5 %,64,100%,1") == [0.1, 0.2, 0.05, 64, 1.0, 1.0]
    assert opt.layers("2,-1,4-6") == [2, -1, 4, 5, 6] and opt.layers(None) is None
    with pytest.raises(InputError, match="--keep takes numbers"):
        opt.keeps("ten%")
