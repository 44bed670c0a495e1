"""A profile of few images says what it is worth; the diagnostic, which reads single images, checks the reliability."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
from commands import run
from planted_maps import ONE, planted, u_shape

from biaslab.diagnostics.measures.reliability import reliability as measured
from biaslab.maps.views import WithoutFold
from biaslab.profiles import MeanProfile, variance_table
from biaslab.profiles.few_images import FEW, few_images, reliability
from biaslab.scenes import scene


def maps_of(folder, n):
    return planted(folder, [(ONE, n)], u_shape, heads=1, layers=(1, 4))


def said_by(work):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        work()
    return [str(w.message) for w in said]


def test_reliability_is_that_of_the_diagnostic(tmp_path):
    maps = maps_of(tmp_path, 12)
    table = variance_table(maps)
    for layer, share in zip(table["layer"], table["r2_asymptotic"], strict=True):
        of_images = measured(maps, layers=[layer], sizes=[12], n_resamples=1)["predicted"].item()
        assert reliability(share, 12) == pytest.approx(of_images, abs=1e-6) and 0 < of_images < 1


def test_reliability_is_the_correlation_of_two_profiles():
    """By simulation: maps of n images of a true map with noise, correlated with maps of n others."""
    rng, n, share = np.random.default_rng(0), 6, 0.4
    true = rng.normal(size=4000) * np.sqrt(share)
    first, second = (true + rng.normal(size=4000) * np.sqrt((1 - share) / n) for _ in range(2))
    assert reliability(share, n) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=0.03)
    assert reliability(-0.2, 9) == 0 and reliability(1.0, 1) == 1


def test_a_fit_on_fewer_than_twenty_warns_once_with_the_reliability(tmp_path):
    few, enough = maps_of(tmp_path / "a", FEW - 1), maps_of(tmp_path / "b", FEW)
    (message,) = said_by(lambda: MeanProfile().fit(few))
    shares = dict(zip((1, 4), variance_table(few)["r2_asymptotic"], strict=True))
    assert message == few_images({"x": FEW - 1}, shares) and "a profile of 19 images may be noise" in message
    assert not said_by(lambda: MeanProfile().fit(enough))
    assert not said_by(lambda: MeanProfile().fit(WithoutFold(enough, 0), layers=[1])), "a part of enough images"
    assert not said_by(lambda: MeanProfile().fit(WithoutFold(few, 0), layers=[1])), "said of the whole already"


def test_of_two_or_three_images_nothing_can_be_told(tmp_path):
    messages = said_by(lambda: MeanProfile().fit(maps_of(tmp_path, 3)))
    assert any("3 images is noise: its reliability cannot be told" in message for message in messages)
    assert few_images({"a": 30}, {1: 0.01}) is None
    assert "cannot be told" in few_images({"a": 3, "b": 3, "c": 3, "d": 3}, {1: 0.5})  # no layout has four
    assert "0.00 (layer 1); fit it on 20" in few_images({"a": 9}, {1: -0.1, 2: float("nan")})


@pytest.mark.slow
def test_the_command_and_the_card_say_it(capsys, tmp_path, draft_figures):
    (pictures := tmp_path / "pictures").mkdir()
    for i in range(5):
        scene("validation", i).image.save(pictures / f"{i}.png")
    command = ["fit-bias", "--images", pictures, "--layers", "1", "--out", tmp_path / "p.safetensors"]
    status, out, err = run(capsys, *command)
    pattern = r"profile of 5 images may be noise: its reliability is 0\.\d\d \(layer 1\)"
    assert status == 0 and re.search(pattern, out) and re.search(f"warning: a {pattern}", err)
    assert re.search(pattern, (tmp_path / "p.md").read_text())
    status, out, _ = run(capsys, *command, "--json")
    assert re.search(pattern, json.loads(out)["few_images"])
