"""Images that come several times in a batch are cut once: what the processor makes of copies, bit by bit."""

from __future__ import annotations

import pytest
import tiny
import torch

from biaslab.models.shared_cutting import cutting_once

ORDER = [0, 1, 0, 0, 2, 1]
SIZES = [(112, 56), (300, 300), (90, 150)]  # in other numbers of tiles and patches


def prompts(order=ORDER):
    pictures = tiny.images(3, SIZES)
    return [pictures[i] for i in order], tiny.texts(len(order))


@pytest.mark.parametrize("family", tiny.CROSSED)
@pytest.mark.parametrize("raw", [True, False])
def test_every_family(family, raw, monkeypatch):
    vlm, (images, texts) = tiny.vlm(family), prompts()
    inner, cut = type(vlm.processor.image_processor), []
    preprocess = inner.preprocess
    monkeypatch.setattr(
        inner, "preprocess", lambda self, given, *a, **k: cut.append(given) or preprocess(self, given, *a, **k)
    )
    made, layouts, resized = vlm.family.encode(vlm.processor, [[image] for image in images], texts, {}, raw=raw)
    assert [len(given) for given in cut] == [3]
    copies = [[image.copy()] for image in images]
    wanted, layouts_of_copies, resized_of_copies = vlm.family.encode(vlm.processor, copies, texts, {}, raw=raw)
    assert [len(given) for given in cut] == [3, 6]
    assert resized == resized_of_copies
    assert [a.key for a in layouts] == [b.key for b in layouts_of_copies]
    if raw:  # the pixels of every image once, and which of them stand for each
        made["pixel_values"] = made["pixel_values"][made.pop("pixel_rows")]
    for name, value in wanted.items():
        assert made[name].dtype == value.dtype and torch.equal(made[name], value), name
    assert made.keys() == wanted.keys()


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_the_device_gets_every_picture_once_and_repeats_it(family):
    vlm, (images, texts) = tiny.vlm(family), prompts()
    prepared, alone = vlm.prepare(images, texts), vlm.prepare(*prompts([0, 1, 2]))
    assert prepared.inputs["pixel_values"].shape == alone.inputs["pixel_values"].shape
    encoded, wanted = vlm.send(prepared), vlm.encode([image.copy() for image in images], texts)
    assert encoded.inputs.keys() == wanted.inputs.keys()
    for name, value in wanted.inputs.items():
        assert torch.equal(encoded.inputs[name], value), name


def test_what_is_left_to_the_processor():
    """No image twice; prompts with several images."""
    processor, (images, _) = tiny.processor("internvl"), prompts([0, 1, 2])
    assert cutting_once(processor, [[image] for image in images])[0] is processor
    assert cutting_once(processor, [images[:2], images[:1]])[0] is processor
    once, apart = cutting_once(processor, [images[:1], images[:1]], rows_apart=True)
    assert not apart
    assert once is not processor and once.image_processor.size == processor.image_processor.size
    assert type(processor.image_processor).__name__ == "GotOcr2ImageProcessorPil"  # untouched


@pytest.mark.parametrize("odd_one", [torch.zeros(7), 3, None])
def test_output_of_an_unknown_form_is_made_from_all_pictures(odd_one, monkeypatch):
    processor, (images, _) = tiny.processor("internvl"), prompts([0, 0, 1])
    inner, given = type(processor.image_processor), []

    def odd(self, images, *args, **kwargs):
        given.append(len(images))
        return {"pixel_values": torch.zeros(len(images), 1), "of_the_batch": odd_one}

    monkeypatch.setattr(inner, "__call__", odd)
    for rows_apart in (False, True):
        once, apart = cutting_once(processor, [[image] for image in images], rows_apart=rows_apart)
        made = once.image_processor([[image] for image in images])
        assert given == [2, 3] and len(made["pixel_values"]) == 3 and not apart
        given.clear()


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_several_pictures_in_a_prompt(family):
    vlm, (images, texts) = tiny.vlm(family), prompts([0, 0, 1])
    groups = [[images[0], images[1]], [images[2], images[0]]]
    made = vlm.encode(groups, texts[:2]).inputs
    wanted = vlm.encode([[image.copy() for image in group] for group in groups], texts[:2]).inputs
    assert all(torch.equal(value, wanted[name]) for name, value in made.items())
