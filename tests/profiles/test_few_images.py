"""A profile of few images says what it is worth; the diagnostic, which reads single images, checks the reliability."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from commands import run
from planted_maps import ONE, TILED, planted, u_shape

from biaslab.diagnostics.measures.reliability import reliability as measured
from biaslab.maps.views import WithoutFold
from biaslab.profiles import MeanProfile, variance_table
from biaslab.profiles.sample_size import FEW_IMAGES, map_reliability
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
        assert map_reliability(share, 12) == pytest.approx(of_images, abs=1e-6) and 0 < of_images < 1


def test_reliability_is_the_correlation_of_two_profiles():
    """By simulation: maps of n images of a true map with noise, correlated with maps of n others."""
    rng, n, share = np.random.default_rng(0), 6, 0.4
    true = rng.normal(size=4000) * np.sqrt(share)
    first, second = (true + rng.normal(size=4000) * np.sqrt((1 - share) / n) for _ in range(2))
    assert map_reliability(share, n) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=0.03)
    assert map_reliability(-0.2, 9) == 0 and map_reliability(1.0, 1) == 1


def test_a_fit_on_fewer_than_twenty_warns_once_with_the_reliability(tmp_path):
    few, enough = maps_of(tmp_path / "a", FEW_IMAGES - 1), maps_of(tmp_path / "b", FEW_IMAGES)
    (message,) = said_by(lambda: MeanProfile().fit(few))
    assert message.startswith("The profile rests on 19 images, fewer than 20: take its map for noise. ")
    low, high = sorted(map_reliability(share, 19) for share in variance_table(few)["r2_asymptotic"])
    assert f"an estimated {low:.2f}" in message and f"to {high:.2f}" in message
    assert not said_by(lambda: MeanProfile().fit(enough))
    assert not said_by(lambda: MeanProfile().fit(WithoutFold(enough, 0), layers=[1])), "a part of enough images"
    assert not said_by(lambda: MeanProfile().fit(WithoutFold(few, 0), layers=[1])), "said of the whole already"


def test_of_one_image_nothing_can_be_told(tmp_path):
    messages = said_by(lambda: MeanProfile().fit(maps_of(tmp_path, 1)))
    assert any("rests on 1 image, fewer than 20" in m and "Its reliability is not known" in m for m in messages)


def test_a_layout_seen_once_among_enough_images_is_no_matter_of_few_images(tmp_path):
    maps = planted(tmp_path, [(ONE, FEW_IMAGES), (TILED, 1)], u_shape)
    (message,) = said_by(lambda: MeanProfile().fit(maps))
    assert (
        message.startswith("std is 0, not measured, for tile layouts of which only one image was seen: ")
        and TILED.key in message
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default:The profile rests on")
def test_the_command_and_the_card_say_it(capsys, tmp_path):
    (pictures := tmp_path / "pictures").mkdir()
    for i in range(5):
        scene("validation", i).image.save(pictures / f"{i}.png")
    command = ["fit-bias", "--images", pictures, "--layers", "1", "--out", tmp_path / "p.safetensors"]
    status, out, err = run(capsys, *command)
    said = "he profile rests on 5 images, fewer than 20: take its map for noise"
    assert status == 0 and said in out and f"warning: T{said}" in err
    assert said in (tmp_path / "p.md").read_text()
    status, out, _ = run(capsys, *command, "--json")
    assert said in json.loads(out)["notes"][0]
