"""How much attention a page holds: its bytes, for a made-up model of many heads and tokens, and which heads stay."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from biaslab import TokenLayout
from biaslab.figures.report.attention_packing import SAMPLE_BYTES, VIEW_BYTES
from biaslab.figures.report.packing import packed_map
from biaslab.figures.report.viewer_data import Shown, packed_samples

pytestmark = pytest.mark.slow

HEADS, LAYERS = 32, (15, 20)
LAYOUT = TokenLayout.tiled(16, 16, (3, 4), size=(1792, 1344), family="x", thumbnail=True)
RNG = np.random.default_rng(0)


def noise(side=224):
    return Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8))  # no JPEG is larger


def shown(n, layers, image, layout=LAYOUT, heads=HEADS):
    maps = RNG.random((n, heads, layout.n)) ** 4
    maps[:, [3, 7]] *= [[3], [2]]  # the heads that look most
    return [
        Shown(
            id=f"s{i}", image_id=f"i{i}", image=image, size=(1792, 1344), layouts=[layout],
            attention=dict.fromkeys(layers, maps[i]),
        )
        for i in range(n)
    ]  # fmt: skip


def size(value):
    return len(json.dumps(value, separators=(",", ":")))


@pytest.mark.parametrize(
    ("n", "layers", "of_profile"), [(60, LAYERS[:1], HEADS), (60, LAYERS, HEADS), (60, LAYERS, 1), (3, LAYERS[:1], 0)]
)
def test_samples_of_many_heads_and_tokens_keep_their_bytes(n, layers, of_profile):
    samples = shown(n, layers, noise())
    expected = {LAYOUT.key: dict.fromkeys(layers, RNG.random((of_profile, LAYOUT.n)))} if of_profile else {}
    data = packed_samples([], {}, samples, expected=expected)
    for sample in data["samples"]:
        assert size(sample) + size(data["images"][sample["image"]]) <= SAMPLE_BYTES
    assert size(data) - size(data["layouts"]) <= n * SAMPLE_BYTES
    assert size(data) <= 2_000_000 - 150_000  # the page itself
    packed = data["samples"][0]["attention"]["15"]
    assert packed["of"] == HEADS and packed["heads"] == [3, 7][: len(packed["heads"])]
    assert len(packed["heads"]) >= (2 if len(layers) == 1 else 1)
    if of_profile:
        wanted = packed["heads"] if of_profile == HEADS else []
        assert data["expected"][LAYOUT.key]["15"]["heads"] == wanted


def test_the_packed_maps_are_the_mean_and_those_heads():
    (one,) = shown(1, [15], noise())
    packed = packed_samples([], {}, [one])["samples"][0]["attention"]["15"]
    values = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(-1, LAYOUT.n)
    right = np.concatenate([one.attention[15].mean(0, keepdims=True), one.attention[15][packed["heads"]]])
    assert np.abs(values / 255 * np.array(packed["max"])[:, None] - right).max() <= right.max() / 500


def test_where_all_heads_fit_all_are_there():
    layout = TokenLayout.raster(16, 16, size=(224, 224), family="x")
    samples = shown(4, [3, 5], Image.new("RGB", (224, 224)), layout, heads=8)
    for one, sample in zip(samples, packed_samples([], {}, samples)["samples"], strict=True):
        assert sample["attention"] == {str(layer): packed_map(one.attention[layer]) for layer in (3, 5)}


def test_an_image_alone_has_every_head_and_the_words_that_fit():
    (one,) = shown(1, LAYERS, noise())
    words = [f"w{i}" for i in range(400)]
    of_words = dict.fromkeys(LAYERS, RNG.random((400, LAYOUT.n)))
    one = replace(one, words=words, word_attention=of_words)
    (sample,) = packed_samples([], {}, [one], budget=VIEW_BYTES)["samples"]
    assert len(sample["attention"]["15"]["max"]) == HEADS and "heads" not in sample["attention"]["15"]
    assert len(sample["words"]) == 400 and 50 < len(sample["wordAttention"]["15"]["max"]) < 400
    assert size(sample) <= VIEW_BYTES


def test_what_others_say_at_length_leaves_the_mean():
    one = replace(shown(1, [15], noise())[0], text="x" * 20_000)
    data = packed_samples([], {}, [one])
    packed = data["samples"][0]["attention"]["15"]
    assert packed["heads"] == [] and len(packed["max"]) == 1
