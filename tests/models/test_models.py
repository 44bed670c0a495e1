"""Families, the registry, loading and the VLM face, on tiny models of the real classes."""

from __future__ import annotations

import pytest
import tiny
import torch
from PIL import Image
from spaces import from_pixels

from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.models import families, wrap
from biaslab.models.answering import stop_ids
from biaslab.models.answers import Answers
from biaslab.models.encoded import positions, text_after_image
from biaslab.models.family import Family

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


# ------------------------------------------------------------------------------------------ encode
@each_family
def test_encode_finds_every_token(family):
    vlm = tiny.vlm(family)
    enc = vlm.encode(tiny.images(4), tiny.texts(4), sample_ids=list("abcd"))
    ids, mask = enc.inputs["input_ids"], enc.inputs["attention_mask"]
    assert enc.last == ids.shape[1] - 1 and enc.sample_ids == list("abcd") and len(enc) == 4
    assert mask[:, -1].all() and not mask.all(), "the batch is left padded"
    text, text_mask = text_after_image(ids == vlm.image_token_id, mask)
    for b in range(4):
        image = [i for i in range(ids.shape[1]) if ids[b, i] == vlm.image_token_id]
        shows = [image[slot] for slot in enc.layouts[b].placeholder_index]
        after = [i for i in range(ids.shape[1]) if i > image[-1]]
        assert enc.visual[b][enc.visual_mask[b]].tolist() == shows
        assert text[b][text_mask[b]].tolist() == after
        assert enc.layouts[b].placeholders == len(image)
        assert enc.layouts[b].size == tiny.images(4)[b].size
        question = vlm.processor.tokenizer.decode(ids[b, image[-1] :])
        assert tiny.texts(4)[b] in question


def test_positions_of_empty_rows():
    index, mask = positions(torch.tensor([[False, True, True], [False, False, False]]))
    assert index.tolist() == [[1, 2], [0, 0]] and mask.tolist() == [[True, True], [False, False]]


def test_internvl_tiling_options():
    vlm = tiny.vlm("internvl")
    image = [Image.new("RGB", (300, 200))]
    assert vlm.encode(image, ["?"]).layouts[0].key == "internvl/2x2/tiles2x3+thumb"
    assert vlm.encode(image, ["?"], max_tiles=2).layouts[0].key == "internvl/2x2/tiles1x2+thumb"
    single = vlm.encode(image, ["?"], max_tiles=1)
    assert single.layouts[0].key == "internvl/2x2/tiles1x1"
    assert single.inputs["pixel_values"].shape == (1, 3, tiny.TILE, tiny.TILE)
    with pytest.raises(InputError, match="min_tiles=5 is above max_tiles=2"):
        vlm.encode(image, ["?"], min_tiles=5, max_tiles=2)
    with pytest.raises(InputError, match="max_pixels.*it has: max_tiles, min_tiles"):
        vlm.encode(image, ["?"], max_pixels=2)


def test_a_bound_that_is_not_given_gives_way():
    bounds = tiny.vlm("qwen2_5_vl").family.bounds
    assert bounds("pixels", {}, 10, 90) == (10, 90)
    assert bounds("pixels", {"min_pixels": 20, "max_pixels": 30}, 10, 90) == (20, 30)
    assert bounds("pixels", {"max_pixels": 5}, 10, 90) == (5, 5)
    assert bounds("pixels", {"min_pixels": 99}, 10, 90) == (99, 99)
    vlm = wrap(tiny.vlm("qwen2_5_vl").model, tiny.processor("qwen2_5_vl"))
    vlm.set_image_options(min_pixels=50000)  # above the checkpoint's max_pixels
    assert vlm.encode([Image.new("RGB", (90, 60))], ["?"]).layouts[0].n * 28**2 >= 50000
    with pytest.raises(InputError, match="min_pixels=50000 is above max_pixels=900"):
        vlm.set_image_options(max_pixels=900)
    assert vlm.image_options == {"min_pixels": 50000}


def test_llava_keeps_the_whole_picture():
    # centre cropping, as the stock processor does, would lose the left end of a wide image
    image = Image.new("RGB", (300, 100))
    image.paste((255, 0, 0), (0, 0, 60, 100))
    enc = tiny.vlm("llava").encode([image], ["?"])
    red = enc.inputs["pixel_values"][0, 0]
    row = red[tiny.TILE // 2]
    assert row[2] > row[tiny.TILE // 2] + 1, "the left end is visible"
    assert abs(red[0, 0]) < 0.05, "padding is the mean colour, 0 after normalisation"
    inside = enc.layouts[0].in_image.reshape(4, 4)
    assert inside.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


@each_family
def test_bad_prompts_are_refused(family):
    vlm = tiny.vlm(family)
    image = tiny.images(1)
    with pytest.raises(InputError, match="image token"):
        vlm.encode(image, [f"a {vlm.processor.image_token} b"])
    with pytest.raises(InputError, match="empty expression"):
        vlm.locate(image[0], "  ")
    with pytest.raises(InputError, match="empty question"):
        vlm.ask(image[0], "")
    with pytest.raises(InputError, match="a text must be a string, got NoneType"):
        vlm.locate(image[0], None)
    with pytest.raises(InputError, match="2 images for 1 texts"):
        vlm.encode(tiny.images(2), ["?"])
    with pytest.raises(InputError, match="1 sample_ids"):
        vlm.encode(tiny.images(2), ["?", "?"], sample_ids=["a"])


# ------------------------------------------------------------------------------------------ answers
@each_family
def test_boxes_are_parsed_in_the_family_space(family):
    adapter, box, size, resized = families()[family], Box(30, 20, 150, 90), (200, 100), (140, 84)
    values = from_pixels(adapter.box_space, box, size, resized)
    text = f"It is [[{', '.join(f'{v:.6f}' for v in values)}]]."
    if type(adapter).parse_box is Family.parse_box:  # or the family writes boxes in a way of its own
        assert adapter.parse_box(text, size, resized).as_tuple() == pytest.approx(box.as_tuple(), abs=1e-3)
    assert adapter.parse_box("nowhere", size, resized) is None
    assert "the {} cat" in adapter.grounding_prompt("the {} cat"), "braces in an expression stay"


def test_a_checkpoint_template_wins():
    processor = tiny.processor("internvl")
    processor.tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<IMG_CONTEXT>{% else %}>{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    assert families()["internvl"].chat_prompt(processor, "hi") == "<IMG_CONTEXT>>hi"


@each_family
def test_ask_and_locate_shapes(family):
    vlm = tiny.vlm(family)
    image, other = tiny.images(2)
    answer = vlm.ask(image, "Where?", max_new_tokens=3)
    assert isinstance(answer, str)
    assert vlm.ask([image, other], "Where?", max_new_tokens=3)[0] == answer
    assert len(vlm.ask(image, ["Where?", "What is it?"], max_new_tokens=3)) == 2
    with pytest.warns(UserWarning, match="cut at 3 new tokens before a box"):
        assert vlm.locate(image, "the cat", max_new_tokens=3) is None, "a random model answers no box"
    grounding = vlm.locate_answers([image], ["the cat"], max_new_tokens=3)[0]
    assert (grounding.box, grounding.parsed) == (None, False) and isinstance(grounding.text, str)
    assert vlm.prefill.encoded is None


def test_locate_reads_the_answer(monkeypatch):
    vlm = tiny.vlm("internvl")

    def answers(vlm, encoded, max_new_tokens, given):
        return Answers([f"[[100, 200, {500 + i}, 1000]]" for i in range(len(encoded))], [True] * len(encoded))

    monkeypatch.setattr("biaslab.models.vlm.answers_to", answers)
    images = [Image.new("RGB", (200, 100)), Image.new("RGB", (1000, 10))]
    assert vlm.locate(images, "x") == [Box(20, 20, 100, 100), Box(100, 2, 501, 10)]
    assert vlm.locate(images[0], "x") == Box(20, 20, 100, 100)


@each_family
def test_answers_are_those_of_plain_generate(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    with torch.no_grad():
        out = vlm.model.generate(**enc.inputs, max_new_tokens=6, do_sample=False)
    new = vlm.processor.tokenizer.batch_decode(out[:, enc.last + 1 :], skip_special_tokens=True)
    assert vlm.generate(enc, max_new_tokens=6) == [t.strip() for t in new]


def test_generation_stops_at_the_end_of_turn():
    # the text config of some published checkpoints names an end token that is not the chat format's
    vlm = wrap(tiny.build("internvl"), tiny.processor("internvl"))
    end = vlm.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    vlm.model.generation_config.eos_token_id = 5
    assert set(stop_ids(vlm)) == {5, end}
    with torch.no_grad():
        vlm.model.lm_head.weight[end] = 0.0
        hidden = vlm.forward(tiny.encoded(vlm, 1), output_hidden_states=True).hidden_states[-1][0, -1]
        vlm.model.lm_head.weight[end] = 100 * hidden / hidden.norm()
    assert vlm.generate(tiny.encoded(vlm, 1), max_new_tokens=20) == [""]


@each_family
def test_vision_runs_once(family, monkeypatch):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    calls = []
    names = ("visual", "vision_tower", "vision_model")
    tower = next(getattr(vlm.model.model, name) for name in names if hasattr(vlm.model.model, name))
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        seen = vlm.vision(enc)
        assert len(calls) == 1 and vlm.vision(seen) is seen
        answers = [vlm.generate(seen, max_new_tokens=5) for _ in range(2)]
        logits = vlm.forward(seen).logits
        assert len(calls) == 1
    finally:
        handle.remove()
    assert answers[0] == answers[1] == vlm.generate(enc, max_new_tokens=5)
    assert torch.equal(logits, vlm.forward(enc).logits)


@each_family
def test_generate_is_silent(family, capfd, recwarn):
    vlm = tiny.vlm(family)
    capfd.readouterr()
    vlm.generate(tiny.encoded(vlm, 2), max_new_tokens=4)
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn.list] == []


def test_current_is_restored_after_an_error():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    with pytest.raises(TypeError):
        vlm.forward(enc, no_such_argument=object(), input_ids=None)
    assert vlm.prefill.encoded is None


# ------------------------------------------------------------------------------------------ images in
def test_images_from_files(tmp_path):
    vlm = tiny.vlm("internvl")
    image = tiny.images(1)[0]
    good, cut, text = tmp_path / "a.png", tmp_path / "cut.png", tmp_path / "notes.jpg"
    image.save(good)
    cut.write_bytes(good.read_bytes()[:600])
    text.write_text("not an image")
    assert vlm.ask(good, "Where?", max_new_tokens=3) == vlm.ask(image, "Where?", max_new_tokens=3)
    for path, words in ((cut, "cannot be read"), (text, "not an image"), (tmp_path / "no.png", "not found")):
        with pytest.raises(InputError, match=words) as caught:
            vlm.ask(path, "Where?")
        assert path.name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="got int"):
        vlm.ask(3, "Where?")
