"""Frames of a video as images of one prompt: written as the family's models were taught, or refused."""

from __future__ import annotations

import pytest
import tiny
import torch

from biaslab.errors import InputError, UnsupportedError
from biaslab.models import families

REFUSED = ("idefics3", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")


def decoded(vlm, encoded, row=0):
    real = encoded.inputs["attention_mask"][row].bool()
    return vlm.processor.tokenizer.decode(encoded.inputs["input_ids"][row][real])


@pytest.mark.parametrize("template", [False, True])
def test_internvl_announces_its_frames_as_published(template):
    vlm = tiny.vlm("internvl")
    before = vlm.processor.chat_template
    if template:  # of the published checkpoints: text as it is, images with a newline behind each
        vlm.processor.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
            "{% if c['type'] == 'image' %}"
            "<IMG_CONTEXT>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
            "{{ '<|im_start|>assistant\n' }}"
        )
    try:
        encoded = vlm.encode([tiny.images(2), tiny.images(1)], ["What moves?", "Where?"], frames=True)
    finally:
        vlm.processor.chat_template = before
    each = "<img>" + "<IMG_CONTEXT>" * vlm.processor.image_seq_length + "</img>"
    assert decoded(vlm, encoded) == (
        f"<|im_start|>user\nFrame1: {each}\nFrame2: {each}\nWhat moves?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert decoded(vlm, encoded, 1) == f"<|im_start|>user\nFrame1: {each}\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    assert {layout.tiles for layout in encoded.layouts} == {(1, 1)} and encoded.owners == [0, 0, 1]


def test_frames_have_one_tile_unless_the_call_says_otherwise():
    vlm = tiny.vlm("internvl")
    wide = tiny.images(1, sizes=[(300, 56)]) * 2
    alone = vlm.encode([wide], ["?"])
    assert alone.layouts[0].tiles != (1, 1)
    assert [x.tiles for x in vlm.encode([wide], ["?"], frames=True).layouts] == [(1, 1)] * 2
    assert vlm.encode([wide], ["?"], frames=True, max_tiles=6).layouts[0].key == alone.layouts[0].key


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_a_family_takes_frames_or_says_why_not(family):
    vlm = tiny.vlm(family)
    frames = tiny.images(2, sizes=[(60, 60)])
    if family in REFUSED:
        assert families()[family].frames_refused
        with pytest.raises(UnsupportedError, match="frames=True is not for"):
            vlm.encode([frames], ["?"], frames=True)
        return
    made = vlm.encode([frames], ["?"], frames=True)
    if family != "internvl":  # no form of its own: as other images of one prompt
        assert torch.equal(made.inputs["input_ids"], vlm.encode([frames], ["?"]).inputs["input_ids"])
    assert len(made.layouts) == 2 and isinstance(vlm.ask([frames], "Where is it?", frames=True, max_new_tokens=2), list)


def test_what_is_no_list_of_frames_is_refused():
    vlm = tiny.vlm("internvl")
    for call in (vlm.encode, vlm.prepare, vlm.ask):
        with pytest.raises(InputError, match=r"pass \[\[first, second"):
            call(tiny.images(2), ["What?", "Where?"], frames=True)
