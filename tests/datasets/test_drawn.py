"""The images that biaslab draws itself, as data sets with options in their name and as calibration sources."""

import json

import numpy as np
import pytest
from commands import run

import biaslab as bl
from biaslab.atlas import images_behind
from biaslab.core.images import load_image
from biaslab.datasets.drawn import DRAWN, embedded_data
from biaslab.errors import InputError
from biaslab.models.registry import EMBEDDED


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_kinds_take_turns_and_an_id_leads_back_to_its_image(name):
    source, first = DRAWN[name], []
    for index in range(2 * len(source.kinds)):
        samples = source.samples("calibration", index)
        assert sorted(s.id for s in samples) == sorted(s.id for s in source.behind(samples[0].image_id))
        assert len({s.image_id for s in samples}) == 1
        first.append(samples[0].expression_type)
        if source.kinds[index % len(source.kinds)] in {s.expression_type for s in samples}:
            assert first[-1] == source.kinds[index % len(source.kinds)]
    assert len(set(first)) > 1
    assert source.behind("photo.jpg") is None


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_calibration_asks_what_the_images_come_with(name):
    vlm, source = bl.load("grounder"), DRAWN[name]
    made = bl.calibration(vlm, name, n=3, questions=2)
    word = str if source.asks else vlm.family.grounding_prompt
    wanted = [s for index in range(3) for s in source.samples("calibration", index)[:2]]
    assert made.prompts == [word(s.expression) for s in wanted]
    assert [i.partition("#")[0] for i in made.ids] == [s.image_id for s in wanted]
    for shown, sample in zip(made.images, wanted, strict=True):
        assert np.array_equal(np.asarray(load_image(shown)), np.asarray(sample.image()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gallery", "gallery-vqa"])
def test_maps_lead_back_to_what_was_asked(name, tmp_path):
    vlm = bl.load("grounder")
    made = bl.calibration(vlm, name, n=2, questions=2)
    maps = bl.collect(vlm, made.images, prompt=made.prompts, ids=made.ids, layers=[3], out=tmp_path / "maps")
    found = images_behind(maps, name)
    wanted = [s for index in range(2) for s in DRAWN[name].samples("calibration", index)[:2]]
    assert [found[i].expression for i in made.ids] == [s.expression for s in wanted]
    assert [found[i].box for i in made.ids] == [s.box if s.has_target else None for s in wanted]
    assert found[made.ids[0]].image.size == (wanted[0].width, wanted[0].height)


def test_a_data_set_takes_its_options_behind_its_name():
    both = bl.load_dataset("gallery-vqa:domain=both:forms=held-out", split="validation", n=2)
    assert both.recipe == {"split": "validation", "domain": "both", "forms": "held-out", "n": 2}
    assert both.hash == bl.load_dataset("gallery-vqa", split="validation", n=2, domain="both", forms="held-out").hash


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gallery:both", "'both' is no option, write gallery:NAME=VALUE"),
        ("gallery:domain=", "'domain=' is no option"),
        ("gallery:domain=both:domain=style", "domain is given twice"),
        ("gallery:split=test", "split is given twice"),
        ("gallery:domian=both", "data set 'gallery': got an unexpected keyword argument 'domian'"),
        ("gallery:domain=bath", "unknown domain 'bath'"),
        ("galery:domain=both", "unknown data set"),
    ],
)
def test_options_that_do_not_exist_are_refused_in_one_line(name, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(")) as refused:
        bl.load_dataset(name, split="test", n=2)
    assert "\n" not in str(refused.value)


def test_every_embedded_model_is_tried_on_images_of_its_own():
    assert {name: embedded_data(name) for name in EMBEDDED} == {"grounder": "scenes", "observer": "gallery"}


@pytest.mark.slow
def test_the_command_line_repeats_a_run_on_a_data_set_with_options(tmp_path, capsys):
    out = tmp_path / "run"
    line = "evaluate --methods none --layer 4 --dataset gallery:domain=both --n 2".split()
    assert run(capsys, *line, "--out", str(out))[0] == 0
    identity = json.loads((out / "run.json").read_text())["identity"]
    assert identity["dataset"]["hash"] == bl.load_dataset("gallery", domain="both", n=2).hash
    assert run(capsys, "evaluate", "--config", str(out / "run.json"), "--out", str(tmp_path / "again"))[0] == 0
    again = json.loads((tmp_path / "again" / "run.json").read_text())["identity"]
    assert again["dataset"] == identity["dataset"]
