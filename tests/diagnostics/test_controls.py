"""Controls and the report after removal, on the grounder and on changed images themselves."""

import numpy as np
import pytest
import torch
from PIL import Image

import biaslab as bl
from biaslab.datasets.calibration import Calibration, calibration
from biaslab.diagnostics import CONTROLS, control_table, removal_report
from biaslab.diagnostics.ranking import score_ranking
from biaslab.diagnostics.removal import LOCATIONS, location_of
from biaslab.diagnostics.transforms import (
    CellGrid,
    PerturbedImage,
    mirrored,
    randomise_weights,
    shuffled,
    swap_sides,
    translated,
)
from biaslab.errors import InputError, ProfileMismatchError

CELLS = (4, 4)


def picture(seed=0, size=(32, 32)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_translation_is_a_roll_by_whole_cells():
    before = np.asarray(picture())
    after = np.asarray(translated(picture(), CELLS, np.random.default_rng(3)))
    shifts = [np.roll(before, (8 * y, 8 * x), (0, 1)) for y, x in np.ndindex(4, 4)]
    assert sum(np.array_equal(shift, after) for shift in shifts) == 1
    seen = {np.asarray(translated(picture(), CELLS, np.random.default_rng(s))).tobytes() for s in range(200)}
    assert len(seen) == 16


def test_shuffling_keeps_every_cell_and_moves_most():
    def cells(image):
        x = np.asarray(image)[:32, :32].reshape(4, 8, 4, 8, 3).swapaxes(1, 2).reshape(16, -1)
        return [row.tobytes() for row in x]

    odd = picture(size=(35, 33))  # a rest of 3 columns and 1 row stays
    after = shuffled(odd, CELLS, np.random.default_rng(0))
    assert sorted(cells(after)) == sorted(cells(odd)) and cells(after) != cells(odd)
    assert np.array_equal(np.asarray(after)[:, 32:], np.asarray(odd)[:, 32:])
    with pytest.raises(InputError, match="too small"):
        shuffled(picture(size=(3, 3)), CELLS, np.random.default_rng(0))


def test_mirror_and_words():
    assert np.array_equal(np.asarray(mirrored(picture(), CELLS, None)), np.asarray(picture())[:, ::-1])
    text = "the leftmost cat left of the Right bus, not upright"
    assert swap_sides(text) == "the rightmost cat right of the Left bus, not upright"
    assert swap_sides(swap_sides(text)) == text


def test_a_changed_picture_is_the_same_each_time_it_is_read(grounder):
    cells = CellGrid(grounder)
    one = PerturbedImage(picture(size=(224, 224)), translated, cells, (0, 5))
    assert np.array_equal(np.asarray(one.image()), np.asarray(one.image())) and cells((224, 224)) == (16, 16)


@pytest.fixture(scope="module")
def few(grounder):
    return calibration(grounder, "scenes", n=12)


@pytest.fixture(scope="module")
def maps(grounder, few):
    return bl.collect(grounder, few.images, layers=[1, 3], prompt=few.prompts, ids=few.ids, progress=False)


@pytest.fixture(scope="module")
def profile(maps):
    return bl.MeanProfile().fit(maps)


@pytest.mark.parametrize("how", ["init", "permute"])
def test_other_weights_leave_the_model_alone(grounder, how):
    before = {k: v.clone() for k, v in list(grounder.model.state_dict().items())[:40]}
    state = torch.random.get_rng_state()
    made, again = (randomise_weights(grounder, how, 1) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, grounder.model.state_dict()[k]) for k, v in before.items())
    name = "model.language_model.layers.3.self_attn.q_proj.weight"
    a, b, old = (v.model.state_dict()[name] for v in (made, again, grounder))
    assert torch.equal(a, b) and not torch.equal(a, old) and made.name != grounder.name
    assert torch.equal(a.flatten().sort().values, old.flatten().sort().values) == (how == "permute")
    with pytest.raises(InputError, match="init or permute"):
        randomise_weights(grounder, "half")


@pytest.mark.slow
def test_control_table_has_a_row_per_kind_and_layer_and_the_same_images_agree(grounder, few, maps, profile):
    table = control_table(grounder, few, profile, controls=["same", "shuffled", "random-weights"], batch_size=12)
    assert len(table) == 6 and set(table["layer"]) == {1, 3} and (table["n"] == 12).all()
    at = table.set_index(["control", "layer"])
    key = next(iter(maps.layouts))
    for layer in (1, 3):
        ours = maps.moments(layer, key).log_mean[0]
        theirs = np.log(profile.expected(maps.layouts[key], layer)[0].double().numpy() + 1e-9)
        row = at.loc[("same", layer)]
        assert row["r"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1], abs=1e-6)
        assert row["slope"] == pytest.approx(np.polyfit(theirs, ours, 1)[0], abs=1e-6)
        assert row["r_lo"] < row["r"] < row["r_hi"] and 0.8 < row["ceiling"] <= 1
        assert at.loc[("random-weights", layer), "r"] < row["r"] - 0.2
    assert set(table["removes"]) == {CONTROLS[k].removes for k in ("same", "shuffled", "random-weights")}


@pytest.mark.slow
def test_controls_are_of_the_score_that_the_profile_is_of(grounder, few):
    asked = {"prompt": few.prompts, "ids": few.ids, "progress": False, "score": "value_norm"}
    maps = bl.collect(grounder, few.images, layers=[1], **asked)
    profile = bl.MeanProfile().fit(maps)
    row = control_table(grounder, few, profile, controls=["same"], batch_size=12).iloc[0]
    layout = next(iter(maps.layouts.values()))
    theirs = np.log(profile.expected(layout, 1)[0].double().numpy() + 1e-9)
    ours = maps.moments(1, layout.key).log_mean[0]
    assert row["r"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1], abs=1e-6)


@pytest.mark.slow
def test_controls_that_a_calibration_set_does_not_allow_are_named(grounder, few, profile):
    plain = Calibration("plain", few.images[:4], "What is it?", few.ids[:4])
    with pytest.warns(UserWarning, match="other-referents left out"):
        table = control_table(grounder, plain, profile, layers=1)
    assert list(dict.fromkeys(table["control"])) == [k for k in CONTROLS if k != "other-referents"]
    with pytest.raises(InputError, match="a prompt per image"):
        control_table(grounder, plain, profile, controls=["other-referents"])
    with pytest.raises(InputError, match="unknown control 'upside-down'"):
        control_table(grounder, plain, profile, controls=["upside-down"])
    with pytest.raises(ProfileMismatchError, match="fitted for model"):
        control_table(randomise_weights(grounder, "permute"), plain, profile, controls=["same"])


@pytest.mark.slow
def test_removal_report_is_the_ranking_by_place(grounder, profile):
    data = bl.load_dataset("scenes", split="test", n=15)
    options = {"layers": [3], "batch_size": 12, "progress": False, "n_resamples": 50}
    table = removal_report(grounder, data, profile, debias=["raw", "ratio", "lognormal_rank"], **options)
    whole = score_ranking(grounder, data, profile=profile, debias=["raw", "ratio", "lognormal_rank"], **options)
    every = table[table["location"] == "all"].drop(columns="location").reset_index(drop=True)
    assert every[["debias", "auroc", "kept@0.1"]].equals(whole[["debias", "auroc", "kept@0.1"]])
    n = table[table["debias"] == "raw"].set_index("location")["n"]
    assert n[["top", "middle", "bottom"]].sum() == n["all"] == n[["left", "centre", "right"]].sum() == 15
    raw = table[table["debias"] == "raw"].set_index("location")
    for third in (["top", "middle", "bottom"], ["left", "centre", "right"]):
        pooled = np.average(raw.loc[third, "auroc"], weights=raw.loc[third, "n"])
        assert pooled == pytest.approx(raw.loc["all", "auroc"])
    top = [s for s in data if LOCATIONS["top"][1] == location_of(s)[1]]
    assert len(top) == n["top"] and all(s.box.center[1] < s.height / 3 for s in top)
    with pytest.raises(InputError, match="unknown location 'north'"):
        removal_report(grounder, data, profile, locations=["north"])
    only = removal_report(grounder, data, profile, locations=(), n=6, **options)
    assert set(only["location"]) == {"all"} and (only["n"] == 6).all()
