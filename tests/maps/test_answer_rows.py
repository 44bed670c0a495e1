"""The map of an answer: a brute-force loop, what it weighs, and collecting it."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

import biaslab as bl
from biaslab.attention.capture import capture
from biaslab.core.neighbours import neighbours
from biaslab.errors import InputError
from biaslab.maps.answer_rows import ANSWER_TOKENS, answer_maps, looking_row


def by_hand(values, there, pairs):
    """One head: values (T, N), as the docstring of `looking_row` says, number by number."""
    weights, logs = [], []
    for row, shown in zip(values.tolist(), there.tolist(), strict=True):
        log = [math.log(v + 1e-9) for v in row]
        mean = sum(log) / len(log)
        log = [v - mean for v in log]
        variance = sum(v * v for v in log) / len(log) + 1e-9
        moran = sum(log[a] * log[b] for a, b in pairs) / len(pairs) / variance
        skewness = sum(v**3 for v in log) / len(log) / variance**1.5
        looks = shown and sum(row) >= 0.01
        weights.append((min(max(moran, 0), 1) * max(skewness, 0)) ** 2 if looks else 0.0)
        logs.append(log)
    if not sum(weights):
        weights = [float(shown) for shown in there.tolist()]
    weights = [w / sum(weights) for w in weights]
    combined = [math.exp(sum(w * log[i] for w, log in zip(weights, logs, strict=True))) for i in range(len(logs[0]))]
    mass = sum(w * sum(row) for w, row in zip(weights, values.tolist(), strict=True))
    return torch.tensor([mass * c / sum(combined) for c in combined])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equals_a_loop_over_what_was_captured(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, [1, 3], queries="generated") as rows:
        tiny.sequences(vlm, enc, 4)
    for (layout, got), owner, (first, last) in zip(answer_maps(rows, enc), enc.owners, enc.spans, strict=True):
        assert got.shape == (2, 4, layout.n)
        pairs = list(zip(*[side.tolist() for side in neighbours(layout)], strict=True))
        for at, layer in enumerate((1, 3)):
            for head in (0, 3):
                values = rows[layer].values[owner, head, :, first:last]
                expected = by_hand(values, rows[layer].query_mask[owner], pairs)
                assert torch.allclose(got[at, head], expected, rtol=2e-3, atol=1e-7)


def test_rows_that_look_at_nothing_weigh_nothing():
    generator = torch.Generator().manual_seed(0)
    layout = bl.TokenLayout.raster(8, 8, size=(80, 80), family="demo")
    left, right = (torch.from_numpy(side) for side in neighbours(layout))
    blob = torch.full((8, 8), 0.002)
    blob[2:4, 5:7] = 0.2
    blob = blob.flatten()
    specks = torch.rand(64, generator=generator) * 0.01  # no neighbours alike
    hole = (0.03 - blob / 10).clamp(min=1e-4)  # sticks out downwards
    faint = blob * 0.005  # hardly looks at the image at all
    rows = torch.stack([specks, blob, hole, faint])
    there = torch.tensor([True, True, True, True])
    got = looking_row(rows, there, left, right)
    assert torch.corrcoef(torch.stack([got.log(), blob.log()]))[0, 1] > 0.99
    hidden = looking_row(rows, torch.tensor([True, False, True, False]), left, right)  # fillers do not count
    assert torch.corrcoef(torch.stack([hidden.log(), blob.log()]))[0, 1] < 0.5
    even = looking_row(torch.full((2, 64), 1 / 64), torch.tensor([True, True]), left, right)
    assert torch.allclose(even, torch.full((64,), 1 / 64), rtol=1e-5)


@pytest.mark.slow
def test_collect_lets_the_model_answer_and_keeps_what_enters_the_decoder(tmp_path):
    vlm = tiny.vlm("qwen2_5_vl")
    images, questions = tiny.images(3), tiny.texts(3)
    options = {"prompt": questions, "heads": "all", "features": True, "progress": False, "batch_size": 2}
    maps = bl.collect(vlm, images, queries="answer", out=tmp_path / "a", **options)
    plain = bl.collect(vlm, images, queries="last", out=tmp_path / "b", **options)
    assert maps.settings["queries"] == "answer"
    for i in range(3):
        assert (maps.features.visual(maps.record(i).id) == plain.features.visual(plain.record(i).id)).all()
        assert (maps.features.text(maps.record(i).id) == plain.features.text(plain.record(i).id)).all()
        enc = vlm.encode([images[i]], [questions[i]])
        with capture(vlm, queries="generated") as rows:
            vlm.generate(enc, max_new_tokens=ANSWER_TOKENS)
        ((_, expected),) = answer_maps(rows, enc)
        for layer in range(4):
            assert torch.allclose(torch.from_numpy(maps.image(i, layer)).float(), expected[layer], rtol=1e-2, atol=1e-5)


def test_refusals_come_before_any_work(tmp_path):
    vlm = tiny.vlm("internvl")
    with pytest.raises(InputError, match="'answer'"):
        bl.collect(vlm, tiny.images(1), queries="generated", progress=False)
    with pytest.raises(InputError, match="take another score"), capture(vlm, queries="generated", score="no_rope"):
        pass
