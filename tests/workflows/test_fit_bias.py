import warnings

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from biaslab._util.launch import Launch
from biaslab.core.images import load_image
from biaslab.datasets.calibration import calibration
from biaslab.errors import InputError
from biaslab.maps.base import fold_of
from biaslab.profiles import load
from biaslab.scenes import EXPRESSION_TYPES, scene
from biaslab.workflows.fit_bias import fit_bias

pytestmark = pytest.mark.slow


def test_scenes_ask_grounding_questions_whose_kinds_take_turns(grounder):
    made = calibration(grounder, "scenes", n=9)
    assert made.ids == [scene("calibration", i).id for i in range(9)]
    for index, prompt in enumerate(made.prompts):
        expressions = scene("calibration", index).expressions
        texts = {e.expression_type: grounder.family.grounding_prompt(e.text) for e in expressions}
        assert prompt in texts.values()
        wanted = EXPRESSION_TYPES[index % 3]
        assert prompt == texts.get(wanted, prompt)


def test_sources(grounder, tmp_path):
    blank, noise = calibration(grounder, "blank", n=3), calibration(grounder, "noise", n=3, seed=1)
    assert len(blank.images) == len(noise.images) == 3
    assert np.ptp(np.asarray(blank.images[0])) == 0 < np.ptp(np.asarray(noise.images[0]))
    assert calibration(grounder, "scenes", n=2, prompt="What is this?").prompts == "What is this?"
    for index in range(3):
        scene("calibration", index).image.save(tmp_path / f"{index}.png")
    assert len(calibration(grounder, tmp_path, n=None).images) == 3
    assert len(calibration(grounder, tmp_path, n=2).images) == 2
    for source, n in (("nowhere", 5), ("scenes", 0)):
        with pytest.raises(InputError):
            calibration(grounder, source, n=n)


def test_profile_is_the_mean_of_the_rows_that_capture_records(grounder):
    import biaslab as bl

    made = calibration(grounder, "scenes", n=6)
    fitted = fit_bias(grounder, made, layers=[2], progress=False)
    encoded = grounder.encode([load_image(image) for image in made.images], made.prompts)
    with bl.capture(grounder, layers=[2], queries="last") as rows:
        grounder.forward(encoded)
    expected = rows[2].values.mean((0, 1, 2))
    np.testing.assert_allclose(fitted.profile.expected(encoded.layouts[0], 2)[0], expected, rtol=1e-4)


def test_one_image_still_gives_a_profile(grounder, tmp_path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted = fit_bias(
            grounder, calibration(grounder, "scenes", n=1), layers=[1], out=tmp_path / "one.safetensors", progress=False
        )
    assert any("more images" in str(w.message) for w in said)
    assert fitted.variance.empty and (tmp_path / "one.safetensors").exists() and (tmp_path / "one.png").exists()


def test_what_a_profile_may_not_replace_is_refused_before_a_map_is_collected(grounder, tmp_path):
    (tmp_path / "README.md").write_text("# My study\n")
    save_file({"weight": np.zeros(3, np.float32)}, weights := tmp_path / "model.safetensors")
    made = calibration(grounder, "scenes", n=2)
    for out, reason in ((tmp_path / "README.safetensors", "no card of a profile"), (weights, "no profile")):
        with pytest.raises(InputError, match=reason):
            fit_bias(grounder, made, layers=[1], out=out, maps=tmp_path / "maps", progress=False)
    assert not (tmp_path / "maps").exists() and (tmp_path / "README.md").read_text() == "# My study\n"


def test_the_profile_of_several_processes_is_that_of_one(grounder, tmp_path):
    made = calibration(grounder, "scenes", n=6)
    settings = {"layers": [1, 3], "batch_size": 2, "estimator": "auto", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few images
        alone = fit_bias(grounder, made, maps=tmp_path / "alone", out=tmp_path / "a" / "p.safetensors", **settings)
        shared = [
            fit_bias(grounder, made, maps=tmp_path / "maps", out=tmp_path / "b" / "p.safetensors",
                     launch=Launch(rank=index, world_size=2, id="test"), **settings)
            for index in (1, 0)
        ]  # fmt: skip
    assert [result.is_main for result in shared] == [False, True] and shared[0].files == []
    for suffix in (".safetensors", ".md"):
        assert (tmp_path / "b" / f"p{suffix}").read_bytes() == (tmp_path / "a" / f"p{suffix}").read_bytes()
    pd.testing.assert_frame_equal(shared[1].variance, alone.variance)


def test_several_processes_need_a_folder_of_maps(grounder, monkeypatch, tmp_path):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    made = calibration(grounder, "scenes", n=2)
    with pytest.raises(InputError, match="rank 1 of 2 shares the images with the others in a folder: pass maps="):
        fit_bias(grounder, made, layers=[1], progress=False)
    assert fit_bias(grounder, made, layers=[1], progress=False, launch=Launch()).is_main


def test_several_questions_are_recorded_and_held_out_with_their_picture(grounder, tmp_path):
    made = calibration(grounder, "scenes", n=12, questions=3)
    fitted = fit_bias(grounder, made, layers=[3], maps=tmp_path / "maps", out=tmp_path / "p", progress=False)
    assert fitted.maps.n == len(made.images) > 12
    assert load(tmp_path / "p.safetensors").provenance_["asked"] == made.asked
    assert '| asked | {"prompts": "expressions", "questions": 3, "pictures": 12} |' in (tmp_path / "p.md").read_text()
    maps = fitted.maps
    for fold in range(maps.folds):
        inside = {maps.record(i).id.split("#")[0] for i in range(maps.n) if fold_of(maps.record(i).id, 5) == fold}
        outside = {maps.record(i).id.split("#")[0] for i in range(maps.n)} - inside
        n = sum(maps.record(i).id.split("#")[0] in inside for i in range(maps.n))
        assert maps.moments(3, "internvl/16x16/tiles1x1", fold=fold).n == n and inside.isdisjoint(outside)
    # of one text for all there is nothing to record
    plain = fit_bias(grounder, calibration(grounder, "blank", n=2), layers=[1], progress=False)
    assert "asked" not in plain.profile.provenance_
