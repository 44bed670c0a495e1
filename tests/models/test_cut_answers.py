"""From Python too: answers that were cut say so, and a text that no tokenizer can read is refused by name."""

import dataclasses
import warnings

import pytest

import biaslab as bl
from biaslab.errors import InputError

LIMIT = 4  # new tokens: no whole box


class Own(list):
    """A data set that somebody has written."""

    name, split, hash = "own", "test", "0"


@pytest.fixture(scope="module")
def samples():
    return list(bl.load_dataset("scenes", n=2))


def test_cut_answers_are_known(grounder, samples):
    images, words = [s.image() for s in samples], [s.expression for s in samples]
    cut = grounder.locate_answers(images, words, max_new_tokens=LIMIT)
    whole = grounder.locate_answers(images, words)
    assert [g.truncated for g in cut] == [True, True] and not any(g.parsed for g in cut)
    assert [g.truncated for g in whole] == [False, False] and all(g.parsed for g in whole)
    (one,) = bl.compare_methods(grounder, samples[0], words[0], methods=["none"], keep=1.0, max_new_tokens=LIMIT)
    assert one.answer == cut[0]
    assert not any(g.truncated for g in grounder.groundings(grounder.encode_grounding(images, words), ["", ""]))


@pytest.mark.slow
def test_locate_warns_of_a_box_that_the_limit_cost(grounder, samples):
    images, words = [s.image() for s in samples], [s.expression for s in samples]
    with pytest.warns(
        UserWarning, match="^2 of 2 answers were cut at 4 new tokens before a box: raise max_new"
    ) as seen:
        assert grounder.locate(images, words, max_new_tokens=LIMIT) == [None, None]
    assert len(seen) == 1 and seen[0].filename == __file__
    with pytest.warns(UserWarning, match="^the answer was cut at 4 new tokens before a box: raise max_new_tokens$"):
        assert grounder.locate(images[0], words[0], max_new_tokens=LIMIT) is None
    tokens = len(grounder.processor.tokenizer(grounder.locate_answers(images[:1], words[:1])[0].text)["input_ids"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grounder.locate(images[0], words[0]) is not None
        assert grounder.locate(images[0], words[0], max_new_tokens=tokens) is not None  # cut after its box


def test_ask_warns_at_the_limit_that_nobody_chose(grounder, samples, monkeypatch):
    image, question = samples[0].image(), grounder.family.grounding_prompt(samples[0].expression)
    monkeypatch.setattr("biaslab.models.vlm.MAX_NEW_TOKENS", LIMIT)
    with pytest.warns(UserWarning, match="^the answer was cut at 4 new tokens: raise max_new_tokens$"):
        short = grounder.ask(image, question)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grounder.ask(image, question, max_new_tokens=LIMIT) == short
        assert grounder.ask(image, question, max_new_tokens=60).startswith(short)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("half \ud83d of it", r"holds half a character \(\\ud83d\): write the whole emoji"),
        ("caf\udce9", r"holds a byte that is no UTF-8 \(\\udce9\): set the terminal"),
        ("cat\0", r"holds a NUL character \(\\x00\): remove it"),
    ],
)
def test_a_text_that_no_tokenizer_can_read_is_refused_by_name(grounder, samples, text, why):
    image, sample = samples[0].image(), samples[0]
    for door in (
        lambda: grounder.encode([image], [text]),
        lambda: grounder.ask(image, text),
        lambda: grounder.locate([image, image], ["a cat", text]),
        lambda: grounder.locate_answers([image], [text]),
        lambda: bl.compare_methods(grounder, sample, text, methods=["none"], keep=0.5),
        lambda: bl.collect(grounder, [image], prompt=text, layers=[1], progress=False),
        lambda: bl.evaluate(grounder, Own([sample, dataclasses.replace(sample, id="b", expression=text)]),
                            methods="none", keep=0.5, progress=False),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why) as caught:
            door()
        assert "\n" not in str(caught.value) and caught.value.__cause__ is None
