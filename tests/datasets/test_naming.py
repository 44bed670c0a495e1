"""Objects named by the model: asked once, in batches, kept in a log that is a file of captions."""

import json

import pytest
import tiny

import biaslab as bl
from biaslab.datasets import naming
from biaslab.datasets.captions import read_captions
from biaslab.datasets.naming import name_objects
from biaslab.errors import InputError, RunFolderError
from biaslab.models import answers
from biaslab.models.answers import Answers

pytestmark = pytest.mark.slow


@pytest.fixture
def rubbish(monkeypatch):
    """Random weights say nothing: their first words count as names."""
    monkeypatch.setattr(naming, "names_in", lambda answer, cut: answer.split()[:3] or ["nothing"])


@pytest.fixture
def says(monkeypatch):
    """What the model answers to each image, which is known by its width; the calls are counted."""
    calls = []

    def answered(said):
        def answers_to(vlm, encoded, max_new_tokens, given):
            calls.append(len(encoded))
            return Answers([said[layout.size[0]] for layout in encoded.layouts], [False] * len(encoded))

        monkeypatch.setattr(answers, "answers_to", answers_to)
        return calls

    return answered


def pictures(*widths):
    shown = tiny.images(len(widths), [(width, 60) for width in widths])
    return {f"p{width}": image for width, image in zip(widths, shown, strict=True)}


@pytest.mark.parametrize("family", tiny.CROSSED)
@pytest.mark.usefixtures("rubbish")
def test_every_family_is_asked_in_its_own_words_and_in_batches_as_one_by_one(family, tmp_path):
    vlm = tiny.vlm(family)
    shown = {f"p{i}": image for i, image in enumerate(tiny.images(3))}
    together = name_objects(vlm, shown, batch_size=2, log=tmp_path / "log.jsonl")
    assert list(together) == ["p0", "p1", "p2"] and all(1 <= len(names) <= 3 for names in together.values())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == list(shown)
    alone = vlm.ask(shown["p1"], vlm.family.naming_prompt, max_new_tokens=lines[0]["by"]["new_tokens"])
    assert alone == lines[1]["answer"]  # as anybody would ask


def test_what_is_in_the_log_is_not_asked_again(says, tmp_path):
    vlm, log = tiny.vlm("llava"), tmp_path / "log.jsonl"
    calls = says({50: "a cat, a dog", 60: "1. cup", 70: "a door", 80: "The image shows a bus."})
    name_objects(vlm, pictures(50, 60), batch_size=8, log=log)
    log.write_bytes(log.read_bytes()[:-9])  # killed within its last line
    found = name_objects(vlm, pictures(50, 60, 70, 80), batch_size=2, log=log)
    assert found == {"p50": ["cat", "dog"], "p60": ["cup"], "p70": ["door"], "p80": ["bus"]}
    assert calls == [2, 2, 2]  # p60 once more, beside p50 as before, and the new ones
    assert name_objects(vlm, pictures(80, 50), log=log) == {"p80": ["bus"], "p50": ["cat", "dog"]} and len(calls) == 3
    assert read_captions(log) == found


def test_another_model_or_options_do_not_go_on_with_a_log(says, tmp_path):
    says({50: "a cat"})
    name_objects(tiny.vlm("llava"), pictures(50), log=tmp_path / "log.jsonl")
    with pytest.raises(RunFolderError, match="log.jsonl was named with fingerprint=.*: remove it, or choose another"):
        name_objects(tiny.vlm("internvl"), pictures(50), log=tmp_path / "log.jsonl")


def test_models_that_answer_boxes_are_refused(says, grounder, tmp_path):
    with pytest.raises(InputError, match="the grounder answers nothing but boxes") as caught:
        name_objects(grounder, pictures(50))
    assert len(str(caught.value).splitlines()) == 1
    calls = says(dict.fromkeys(range(50, 90), "[[120, 40, 380, 200]]"))
    with pytest.raises(InputError, match=r"names no object in 8 images \(it answers '\[\[120, 40"):
        name_objects(tiny.vlm("llava"), pictures(*range(50, 80)), batch_size=4)
    assert calls == [4, 4]  # eight are enough
    with pytest.raises(InputError, match="names no object in any of 2 images"):
        name_objects(tiny.vlm("llava"), pictures(50, 51))


def test_the_grounder_by_itself_answers_boxes_whatever_it_is_called(grounder):
    shown = {s.id: s for s in bl.load_dataset("scenes", n=20)}
    copy = bl.wrap(grounder.model, grounder.processor, name="mine")
    with pytest.raises(InputError, match=r"mine names no object in 8 images \(it answers '\[\["):
        name_objects(copy, shown)


def test_what_cannot_be_read_and_what_is_not_named_is_left_out_and_said(says, tmp_path):
    says({50: "a cat", 60: "None", 70: "<image>, a door"})
    shown = {**pictures(50, 60, 70), "broken": tmp_path / "missing.png"}
    with pytest.warns(UserWarning) as said:
        found = name_objects(tiny.vlm("llava"), shown, batch_size=4)
    assert found == {"p50": ["cat"], "p70": ["door"]}
    words = [str(w.message) for w in said]
    assert words[0].startswith("1 image left out that cannot be read, the first: image not found")
    assert words[1] == "1 image left out in which the model names nothing, such as p60"
