"""What every model family must do, checked against its real processor and its own modelling code: tokens lie where the
layout says, placeholders are counted right, prompts and boxes are the family's own, published sizes add up.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tiny
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from meter import brightest, light_meter, lit, seen, whole_pixels
from PIL import Image

from biaslab import cost
from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.models import families, load, wrap
from biaslab.models.adapters.llava_next import fitted
from biaslab.models.encoded import Encoded
from biaslab.models.offline import stand_in_tokenizer as stand_in_tokenizer
from biaslab.models.offline.random_init import build
from biaslab.models.offline_spec import ModelSpec, rope_sections, text_config

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)
each_shape = pytest.mark.parametrize(
    ("family", "alias"), [tiny.quick(name, alias) for name, family in families().items() for alias in family.specs]
)
sides = st.integers(30, 400)


@cache
def meter(family):
    return light_meter(tiny.vlm(family).model)


def some_cells(layout, seed, n=3):
    """Up to n tokens with a rectangle of whole pixels inside their cells."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(layout.in_image))
    return [(k, r) for k in order[:20] if (r := whole_pixels(layout, k))][:n]


def check_places(vlm, model, size, seed=0, n=3):
    """Light up cells of a black image: the tokens that are said to lie there must see it, and no other most."""
    layout = vlm.encode([Image.new("RGB", size)], ["?"]).layouts[0]
    cells = some_cells(layout, seed, n)
    pictures = [Image.new("RGB", size), *(lit(size, r) for _, r in cells)]
    dark, *light = seen(model, vlm.encode(pictures, ["?"] * len(pictures)))
    for (k, _), after in zip(cells, light, strict=True):
        assert brightest(layout, k, dark, after) == k
    return layout, len(cells)


def check_shares(vlm, model, size, corners, tolerance=0.02):
    """Light up a rectangle: every token must gain as much light as its cell is said to lie in it."""
    (x0, x1), (y0, y1) = (sorted(round(v * side) for v in pair) for pair, side in zip(corners, size, strict=True))
    rectangle = (x0, y0, max(x1, x0 + 20), max(y1, y0 + 20))
    enc = vlm.encode([Image.new("RGB", size), lit(size, rectangle)], ["?"] * 2)
    dark, light = seen(model, enc)
    white = np.mean(1 / np.array(vlm.processor.image_processor.image_std))
    inside = Box(*rectangle).clip(size)
    assert (light - dark) / white == pytest.approx(enc.layouts[0].overlap(inside), abs=tolerance)


# ------------------------------------------------------------------------------------------ places
@pytest.mark.slow
@each_family
@settings(deadline=None, max_examples=12)
@given(
    width=st.integers(150, 400),
    height=st.integers(150, 400),
    corners=st.tuples(*[st.tuples(st.floats(0, 1), st.floats(0, 1))] * 2),
)
def test_cells_are_as_large_as_the_layout_says(family, width, height, corners):
    check_shares(tiny.vlm(family), meter(family), (width, height), corners)


@each_family
@settings(deadline=None, max_examples=12)
@given(width=sides, height=sides, seed=st.integers(0, 99))
def test_tokens_see_the_cells_of_their_layout(family, width, height, seed):
    assume(max(width, height) <= 8 * min(width, height))
    check_places(tiny.vlm(family), meter(family), (width, height), seed)


@each_family
@pytest.mark.parametrize("size", [(400, 50), (50, 400), (56, 56)], ids=str)
def test_extreme_shapes(family, size):
    _, n = check_places(tiny.vlm(family), meter(family), size)
    assert n == 3


@cache
def narrow(family, alias):
    """The published image geometry around a vision tower of width 8."""
    shape = (
        families()[family]
        .specs[alias]
        .small(heads=2, kv_heads=2, vision_hidden=8, vision_heads=1, vision_layers=2, vision_ffn=8)
    )
    model, processor = build(families()[family], shape)
    return wrap(model, processor, name=alias), light_meter(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "alias"),
    [tiny.quick(name, next(iter(family.specs))) for name, family in families().items()]
    + [tiny.quick("idefics3", "smolvlm-2b")],
)
def test_published_geometry(family, alias):
    for size in ((640, 480), (300, 500)):
        layout, n = check_places(*narrow(family, alias), size, n=2)
        assert n == 2
    check_shares(*narrow(family, alias), size, ((0.13, 0.6), (0.2, 0.9)))
    counts = {
        "internvl": 1792, "llava": 576, "llava_next": 1536, "llava_onevision": 1971, "qwen2_vl": 198,
        "qwen2_5_vl": 198, "qwen3_vl": 144, "idefics3": 2197, "smolvlm-2b": 1053,
    }  # fmt: skip
    if family in counts:
        assert layout.n == counts.get(alias, counts[family])


def test_margin_that_siglip_does_not_see():
    vlm, model = narrow("llava_onevision", "llava-onevision-7b")
    size = (384, 384)
    dark, light = seen(model, vlm.encode([Image.new("RGB", size), lit(size, (378, 0, 384, 384))], ["?"] * 2))
    layout = vlm.encode([Image.new("RGB", size)], ["?"]).layouts[0]
    assert layout.boxes[:, 2].max() == pytest.approx(378 / 384) and np.allclose(light, dark)


@settings(deadline=None, max_examples=12)
@given(width=st.integers(200, 400), height=st.integers(200, 400), seed=st.integers(0, 99))
def test_a_raster_that_is_scaled_down(width, height, seed):
    vlm, model = many_tiles()
    layout, _ = check_places(vlm, model, (width, height), seed)
    assert layout.tiles == (1, 1) and layout.thumbnail_grid == (4, 4) != layout.grid


def test_the_size_of_a_scaled_raster():
    layout, n = check_places(*many_tiles(), (336, 224), n=8)  # 4 x 6 tiles make 16 x 24 cells, more than 9 tiles
    assert n == 8 and layout.grid == (9, 14) and layout.n == 16 + 9 * 14 == layout.placeholders - 9
    assert layout.boxes[0].tolist() == [0, 0, 0.25, 0.25] and layout.boxes[-1].tolist() == pytest.approx(
        [13 / 14, 8 / 9, 1, 1]
    )


@cache
def many_tiles():
    """LLaVA-OneVision with all of its 36 tilings, and its light meter."""
    model = tiny.build("llava_onevision", max_tiles=36)
    return wrap(model, tiny.processor("llava_onevision", max_tiles=36)), light_meter(model)


@each_family
def test_a_picture_too_narrow_for_a_raster(family):
    enc = tiny.vlm(family).encode([Image.new("RGB", (8, 120))], ["?"])
    assert enc.layouts[0].n <= enc.layouts[0].placeholders
    tiny.vlm(family).forward(enc)


@each_family
def test_several_images_of_a_prompt(family):
    vlm, sizes = tiny.vlm(family), [(120, 60), (90, 150)]
    black = [Image.new("RGB", size) for size in sizes]
    enc = vlm.encode([black, black[:1]], ["?", "?"])
    second = enc.layouts[1]
    (k, rectangle), *_ = some_cells(second, 0)
    light = vlm.encode([[black[0], lit(sizes[1], rectangle)], black[:1]], ["?", "?"])
    before, after = seen(meter(family), enc), seen(meter(family), light)
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[2], after[2])
    assert brightest(second, k, before[1], after[1]) == k


def test_fitting_keeps_the_shape_and_centres():
    tiles, seen_size, region = fitted((500, 100), 336, [[336, 672], [672, 336], [672, 672]])
    assert tiles == (1, 2) and seen_size == (672, 135)
    assert region == pytest.approx((0, -100 / 135, 1, (336 - 100) / 135))


# ------------------------------------------------------------------------------------------ counts
@each_family
@settings(deadline=None, max_examples=15)
@given(width=st.integers(8, 700), height=st.integers(8, 700))
def test_placeholders_are_counted_right(family, width, height):
    assume(max(width, height) <= 8 * min(width, height))
    vlm = tiny.vlm(family)
    enc = vlm.encode([Image.new("RGB", (width, height))], ["?"])  # refuses counts that differ
    layout, ids = enc.layouts[0], enc.inputs["input_ids"][0]
    assert (ids == vlm.image_token_id).sum() == layout.placeholders >= layout.n == enc.visual_mask.sum()
    at = (ids == vlm.image_token_id).nonzero()[:, 0]
    assert torch.equal(enc.visual[0], at[torch.from_numpy(layout.placeholder_index.copy())])


@each_family
@pytest.mark.parametrize("size", [(640, 480), (427, 640), (1600, 200), (213, 1600), (1333, 1000)], ids=str)
def test_published_processors_are_counted_right(family, size):
    adapter = families()[family]
    tokenizer = stand_in_tokenizer.tokenizer(adapter.special_tokens)
    processor = adapter.make_processor(next(iter(adapter.specs.values())), tokenizer)
    inputs, layouts, resized = adapter.encode(processor, [[Image.new("RGB", size)]], ["Where?"], {})
    Encoded.from_inputs(inputs, layouts, resized, image_token_id=processor.image_token_id)
    assert layouts[0].size == size
    again = type(layouts[0]).from_dict(json.loads(json.dumps(layouts[0].to_dict())))
    assert again.key == layouts[0].key and np.array_equal(again.boxes, layouts[0].boxes)
    assert "arrays" not in layouts[0].to_dict(), "a layout takes no room in logs and maps"


def test_options():
    image = [Image.new("RGB", (300, 200))]
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        vlm = tiny.vlm(family)
        few = vlm.encode(image, ["?"], max_pixels=28 * 28 * 6)
        assert few.layouts[0].n <= 6 < vlm.encode(image, ["?"]).layouts[0].n
        width, height = few.resized[0]
        assert (height // 28, width // 28) == few.layouts[0].grid
    vlm = tiny.vlm("idefics3")
    assert vlm.encode(image, ["?"], longest_edge=112).layouts[0].key == "idefics3/2x2/tiles2x2+thumb"
    assert vlm.encode(image, ["?"], longest_edge=56).layouts[0].key == "idefics3/2x2/tiles1x1"
    with pytest.raises(InputError, match="it has: none"):
        tiny.vlm("llava_next").encode(image, ["?"], max_tiles=2)


# ------------------------------------------------------------------------------------------ prompts, answers
PROMPTS = {
    "internvl": "<|im_start|>user\n<IMG_CONTEXT>\nWhere?<|im_end|>\n<|im_start|>assistant\n",
    "llava": "USER: <image>\nWhere? ASSISTANT:",
    "llava_next": "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions. USER: <image>\nWhere? ASSISTANT:",
    "llava_onevision": "<|im_start|>user <image>\nWhere?<|im_end|><|im_start|>assistant\n",
    "qwen2_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|image_pad|><|vision_end|>Where?<|im_end|>\n<|im_start|>assistant\n",
    "qwen2_5_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|image_pad|><|vision_end|>Where?<|im_end|>\n<|im_start|>assistant\n",
    "qwen3_vl": "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Where?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "idefics3": "<|begin_of_text|>User:<image>Where?<end_of_utterance>\nAssistant:",
}
ANSWERS = {  # as published, and the box in pixels of a 200 x 100 image seen at 140 x 84
    "internvl": ("<ref>it</ref><box>[[150, 200, 750, 900]]</box>", (30, 20, 150, 90)),
    "llava": ("[0.15, 0.35, 0.75, 0.7]", (30, 20, 150, 90)),
    "llava_next": ("[0.15, 0.2, 0.75, 0.9]", (30, 20, 150, 90)),
    "llava_onevision": ("[0.15, 0.2, 0.75, 0.9]", (30, 20, 150, 90)),
    "qwen2_vl": ("it(150,200),(750,900)", (30, 20, 150, 90)),  # decoding drops the box tokens
    "qwen2_5_vl": ('```json\n[{"bbox_2d": [21, 16.8, 105, 75.6], "label": "it"}]\n```', (30, 20, 150, 90)),
    "qwen3_vl": ('```json\n[{"bbox_2d": [150, 200, 750, 900], "label": "it"}]\n```', (30, 20, 150, 90)),
    "idefics3": ("[0.15, 0.2, 0.75, 0.9]", (30, 20, 150, 90)),
}


@pytest.mark.parametrize("family", PROMPTS)
def test_prompts_are_the_families_own(family):
    vlm = tiny.vlm(family)
    assert vlm.family.chat_prompt(vlm.processor, "Where?") == PROMPTS[family]
    two = vlm.family.chat_prompt(vlm.processor, "Where?", 2)
    assert two.count(vlm.processor.image_token) == 2
    decoded = vlm.processor.tokenizer.decode(vlm.encode(tiny.images(1), ["Where?"]).inputs["input_ids"][0])
    assert decoded.endswith(PROMPTS[family].split("Where?")[1]), "nothing is added to the prompt"


@pytest.mark.parametrize("family", ANSWERS)
def test_published_answers_are_understood(family):
    text, box = ANSWERS[family]
    found = families()[family].parse_box(text, (200, 100), (140, 84))
    assert found.as_tuple() == pytest.approx(box)
    assert families()[family].parse_box("nowhere", (200, 100), (140, 84)) is None


def test_two_corners_are_qwen2s_alone():
    text = "<|object_ref_start|>it<|object_ref_end|><|box_start|>(150,200),(750,900)<|box_end|>"
    found = {name: family.parse_box(text, (1000, 1000), (1000, 1000)) for name, family in families().items()}
    assert found.pop("qwen2_vl").as_tuple() == (150, 200, 750, 900)
    assert set(found.values()) == {None}


# ------------------------------------------------------------------------------------------ geometry without weights
#: parameters in billions: InternVL3.5's own table (1 digit), sizes of bfloat16 weight files, names
PUBLISHED = {
    "internvl3.5-1b": 1.1, "internvl3.5-2b": 2.3, "internvl3.5-4b": 4.7, "internvl3.5-8b": 8.5, "internvl3.5-14b": 15.1,
    "internvl3.5-38b": 38.4, "internvl3-14b": 15.1, "internvl3-38b": 38.4, "smolvlm-2b": 4.49 / 2,
    "smolvlm-500m": 1.02 / 2,
}  # fmt: skip


@each_shape
def test_published_sizes_add_up(family, alias):
    adapter = families()[family]
    assert alias in adapter.aliases
    found = (
        cost.parameters(
            adapter.config(adapter.specs[alias], stand_in_tokenizer.tokenizer(adapter.special_tokens))
        ).total
        / 1e9
    )
    if alias in PUBLISHED:
        assert found == pytest.approx(PUBLISHED[alias], abs=0.051)
    size = alias.replace("-mpo", "").rpartition("-")[2]
    named = float(size[:-1]) * {"b": 1, "m": 1e-3}[size[-1]] if size[:1].isdigit() and size[-1] in "bm" else found
    assert named * 0.92 <= found <= named * 1.26


@each_family
def test_small_keeps_heads_and_pictures(family):
    adapter = families()[family]
    full = next(iter(adapter.specs.values()))
    small = full.small(layers=3)
    same = ("heads", "kv_heads", "tile", "patch", "merge", "max_tiles", "vision_heads", "min_pixels", "longest_edge")
    assert all(getattr(small, name) == getattr(full, name) for name in same)
    assert (small.layers, small.hidden) == (3, 8 * full.heads)
    tokenizer = stand_in_tokenizer.tokenizer(adapter.special_tokens)
    text = adapter.config(small, tokenizer).text_config
    assert (text.num_attention_heads, text.num_key_value_heads) == (full.heads, full.kv_heads)
    assert text.vocab_size == len(tokenizer)
    assert cost.parameters(adapter.config(small, tokenizer)).total < 2e7


@each_family
def test_build(family):
    adapter = families()[family]
    small = next(iter(adapter.specs.values())).small(layers=3, heads=4, kv_heads=2)
    state = torch.get_rng_state()
    model, processor = build(adapter, small, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    again, other = build(adapter, small, seed=3)[0], build(adapter, small, seed=4)[0]
    ids = torch.tensor([[1, 2, 3]])
    logits = [m(input_ids=ids).logits for m in (model, again, other)]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    assert model.config.model_type in adapter.model_types and not model.training
    assert type(processor).__name__ == adapter.processor_class
    assert build(adapter, small, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


@each_family
def test_stand_in_tokenizers(family):
    adapter = families()[family]
    tokenizer = stand_in_tokenizer.tokenizer(adapter.special_tokens)
    for token in adapter.special_tokens.tokens:
        assert tokenizer.tokenize(f"a{token}b") == ["a", token, "b"]
    text = "Wo ist die Katze? [[12, 345, 678, 9]]"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer is not stand_in_tokenizer.tokenizer(adapter.special_tokens), "processors change theirs"


def test_shapes_say_what_is_wrong():
    shape = families()["qwen2_vl"].specs["qwen2-vl-2b"]
    with pytest.raises(InputError, match="no tiles"):
        _ = shape.side
    with pytest.raises(InputError, match="too narrow"):
        rope_sections(replace(shape, hidden=24), (16, 24, 24))
    assert rope_sections(shape, (16, 24, 24)) == [16, 24, 24]
    assert sum(rope_sections(shape.small(), (24, 20, 20))) == 4
    tokenizer = stand_in_tokenizer.tokenizer(families()["llava"].special_tokens)
    with pytest.raises(InputError, match="'qwen2' decoder"):
        text_config(ModelSpec("qwen2", 8, 1, 1, 1, 8, 8, 1, 1, 8, patch=14), tokenizer, ("llama",))


def test_deepstack_leaves_layers_to_prune():
    adapter = families()["qwen3_vl"]
    tokenizer, full = stand_in_tokenizer.tokenizer(adapter.special_tokens), adapter.specs["qwen3-vl-4b"]
    taps = lambda shape: adapter.config(shape, tokenizer).vision_config.deepstack_visual_indexes  # noqa: E731
    assert taps(full) == [5, 11, 17]
    assert taps(full.small(layers=4)) == [2] and len(taps(full.small(layers=12))) == 3


def test_smolvlm2_folders_load_without_its_video_half(tmp_path):
    import transformers as T

    config = tiny.config("idefics3")
    vision = {k: v for k, v in config.vision_config.to_dict().items() if k != "model_type"}
    model = T.SmolVLMForConditionalGeneration(
        T.SmolVLMConfig(
            vision_config=vision, text_config=config.text_config, image_token_id=config.image_token_id,
            scale_factor=config.scale_factor,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    tiny.tokenizer("idefics3").save_pretrained(tmp_path)
    pixels = T.SmolVLMImageProcessorPil(size={"longest_edge": 224}, max_image_size={"longest_edge": 56})
    pixels.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "SmolVLMProcessor", "image_seq_len": 4}')
    vlm = load(tmp_path, device="cpu")
    assert vlm.family.name == "idefics3" and vlm.processor.image_seq_len == 4
    keys = [[layout.key for layout in tiny.encoded(model, 2).layouts] for model in (vlm, tiny.vlm("idefics3"))]
    assert keys[0] == keys[1]
    check_places(vlm, light_meter(vlm.model), (200, 90))
    assert isinstance(vlm.ask(tiny.images(1)[0], "Where?", max_new_tokens=2), str)


def test_onevision_knows_its_neighbours():
    from biaslab.models.adapters.llava_onevision import _images_beside

    inputs = {"batch_num_images": torch.tensor([2, 1, 3])}
    assert [_images_beside(inputs, i) for i in range(6)] == [2, 2, 1, 3, 3, 3]


def test_idefics3_without_splitting():
    adapter, processor = families()["idefics3"], tiny.processor("idefics3")
    processor.image_processor.do_image_splitting = False
    inputs, layouts, _ = adapter.encode(processor, [[Image.new("RGB", (200, 90))]], ["?"], {})
    assert layouts[0].key == "idefics3/2x2/tiles1x1"
    assert inputs["pixel_values"].shape[:2] == (1, 1)
