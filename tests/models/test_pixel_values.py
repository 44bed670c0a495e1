"""Pixels that go to the device with 8 bits: the processor's own values there, bit by bit."""

from __future__ import annotations

import original
import pytest
import tiny
import torch
from PIL import Image
from transformers import GotOcr2ImageProcessorPil

import biaslab as bl
from biaslab.errors import InputError
from biaslab.models.pixel_form import PixelForm, normalises_apart
from biaslab.models.pixel_values import RawPixels, table_of

SIZES = [(300, 300), (120, 40), (40, 200), (30, 30)]  # in other numbers of tiles


def pictures():
    """Images of noise, and a black one: its pixels are 0 as those of a filling are, and do not stay it."""
    return [[image] for image in [Image.new("RGB", (200, 90)), *tiny.images(4, SIZES)]]


def grouped():
    first, *others = (image for [image] in pictures())
    return [[first, others[0]], others[1:2]]


def as_the_processor(vlm, images, texts):
    """What the processor makes when it is left to itself, every tensor."""
    inputs, _, _ = vlm.family.encode(vlm.processor, images, texts, vlm.image_options)
    return inputs


def check_equal(vlm, images):
    texts = tiny.texts(len(images))
    wanted, prepared = as_the_processor(vlm, images, texts), vlm.prepare(images, texts)
    pixels, encoded = prepared.inputs["pixel_values"], vlm.send(prepared)
    assert pixels.dtype == torch.uint8 and wanted["pixel_values"].dtype == torch.float32
    assert pixels.nbytes * 4 == wanted["pixel_values"].nbytes
    assert encoded.inputs.keys() == wanted.keys() and encoded.raw is None
    for name, value in wanted.items():
        assert encoded.inputs[name].dtype == value.dtype
        assert torch.equal(encoded.inputs[name], value), name
    return prepared


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("images", [pictures, grouped], ids=["one", "several"])
def test_the_bits_are_those_of_the_processor(family, images):
    vlm = tiny.vlm(family)
    assert vlm.family.pixel_form is not None
    prepared = check_equal(vlm, images())
    if family in ("idefics3", "llava_next", "llava_onevision"):
        assert prepared.raw.filling.any() and not prepared.raw.filling.all()  # the zeros are put to the test
    else:
        assert prepared.raw.filling is None


@pytest.mark.parametrize("kind", ["internlm2", "qwen2"])
def test_the_original_layout_of_internvl(kind, tmp_path):
    check_equal(bl.load(original.write(tmp_path, kind), device="cpu", dtype="float32"), pictures())


def test_the_embedded_grounder(grounder):
    check_equal(grounder, pictures())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nothing_comes_back_from_the_device(family, monkeypatch):
    """A tensor on "meta" has no values: whatever waits for one fails."""
    vlm = tiny.vlm(family)
    prepared = vlm.prepare(pictures(), tiny.texts(5))
    monkeypatch.setattr(type(vlm), "device", torch.device("meta"))
    encoded = vlm.send(prepared)
    assert {v.device.type for v in encoded.inputs.values() if isinstance(v, torch.Tensor)} == {"meta"}
    assert encoded.visual.device.type == encoded.visual_mask.device.type == "meta"
    assert encoded.inputs["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("form", PixelForm)
def test_every_value_of_every_channel(form):
    """Compared with a loop over pixels; channels that were mixed up would show."""
    table = torch.arange(768, dtype=torch.float32).view(3, 256)
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    wanted = torch.tensor(
        [[[[table[c, v] for v in row] for row in plane.tolist()] for c, plane in enumerate(tile)] for tile in pixels]
    )
    if form is PixelForm.PATCHES:
        pixels, wanted = pixels.flatten(1), wanted.flatten(1)
    assert torch.equal(RawPixels(table, form).normalised(pixels), wanted)


def test_a_mean_that_is_changed_later_counts():
    vlm = tiny.wrap(tiny.build("llava"), tiny.processor("llava"), name="changed")
    before = vlm.encode(*one()).inputs["pixel_values"]
    vlm.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    check_equal(vlm, pictures())
    assert not torch.equal(vlm.encode(*one()).inputs["pixel_values"], before)


class OfSomebody(GotOcr2ImageProcessorPil):
    """Might do anything before or after."""


def test_what_keeps_the_plain_path(monkeypatch):
    """A processor that is not transformers' own, one that does not normalise, a family that says nothing."""
    vlm = tiny.wrap(tiny.build("internvl"), tiny.processor("internvl"), name="plain")
    stock = vlm.processor.image_processor
    assert normalises_apart(stock)

    def check_plain():
        prepared, wanted = vlm.prepare(*one()), as_the_processor(vlm, [one()[0]], one()[1])["pixel_values"]
        assert prepared.raw is None and prepared.inputs["pixel_values"].dtype == wanted.dtype
        assert torch.equal(vlm.send(prepared).inputs["pixel_values"], wanted)

    vlm.processor.image_processor = OfSomebody(**stock.to_dict())
    check_plain()
    vlm.processor.image_processor = stock
    stock.do_normalize = False
    check_plain()
    stock.do_normalize = True
    assert vlm.prepare(*one()).raw is not None
    encode = type(vlm.family).encode
    with monkeypatch.context() as patch:  # of an adapter from elsewhere
        patch.setattr(type(vlm.family), "encode", lambda self, p, images, texts, o: encode(self, p, images, texts, o))
        check_plain()
    monkeypatch.setattr(type(vlm.family), "pixel_form", None)
    check_plain()


def test_prompts_that_were_not_sent_are_refused():
    vlm = tiny.vlm("internvl")
    prepared = vlm.prepare(*one())
    for run in (vlm.forward, vlm.generate, vlm.vision):
        with pytest.raises(InputError, match=r"prepared and not sent: pass vlm\.send"):
            run(prepared)


def test_the_table_is_asked_of_the_processor():
    """The same as an image in which every value is, through the whole of it."""
    processor = tiny.processor("paligemma").image_processor
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1).numpy()
    whole = processor(image, return_tensors="pt", do_resize=False, input_data_format="channels_first")["pixel_values"]
    assert torch.equal(table_of(processor), whole.view(3, 256))


def one():
    return tiny.images(1), tiny.texts(1)
