"""Boxes that contradict the form their reader states: refused with the rows and the likely form; legal files never."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import run
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from biaslab.core.boxes import Box
from biaslab.datasets import DATASETS, READERS
from biaslab.datasets.base import take
from biaslab.datasets.box_forms import FORMS, check_boxes, warn_if_unlikely
from biaslab.datasets.opening import open_annotations
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "refcoco_sample.jsonl"
ROWS = [json.loads(line) for line in SAMPLE.read_text().splitlines()]

#: form -> a box in corners and pixels of an image (w, h), written in that form; worked out apart from the library
WRITE = {
    "xyxy": lambda x, y, X, Y, w, h: [x, y, X, Y],
    "xywh": lambda x, y, X, Y, w, h: [x, y, X - x, Y - y],
    "cxcywh": lambda x, y, X, Y, w, h: [(x + X) / 2, (y + Y) / 2, X - x, Y - y],
    "yxyx": lambda x, y, X, Y, w, h: [y, x, Y, X],
    "xyxy_norm1": lambda x, y, X, Y, w, h: [x / w, y / h, X / w, Y / h],
    "xyxy_square1": lambda x, y, X, Y, w, h: [
        (v + (max(w, h) - side) // 2) / max(w, h) for v, side in zip((x, y, X, Y), (w, h, w, h), strict=True)
    ],
    "xywh_norm1": lambda x, y, X, Y, w, h: [x / w, y / h, (X - x) / w, (Y - y) / h],
    "cxcywh_norm1": lambda x, y, X, Y, w, h: [(x + X) / 2 / w, (y + Y) / 2 / h, (X - x) / w, (Y - y) / h],
    "xyxy_norm1000": lambda x, y, X, Y, w, h: [1000 * x / w, 1000 * y / h, 1000 * X / w, 1000 * Y / h],
    "xywh_norm1000": lambda x, y, X, Y, w, h: [1000 * x / w, 1000 * y / h, 1000 * (X - x) / w, 1000 * (Y - y) / h],
}
WRONG = sorted(set(WRITE) - {"xyxy"})
# in square images y before x contradicts nothing, and the padded square is the image
CERTAIN = sorted(set(WRONG) - {"yxyx", "xyxy_square1"})


def written(form, boxes, sizes):
    return [WRITE[form](*box, *size) for box, size in zip(boxes, sizes, strict=True)]


def refused(boxes, sizes):
    """The message, or None where all is accepted."""
    try:
        check_boxes(boxes, sizes, [f"line {i + 1}" for i in range(len(boxes))], source="x.jsonl")
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def file_of(folder, rows):
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_form_is_tested_and_every_reader_states_one():
    assert set(WRITE) == set(FORMS)
    assert all(reader.box_form in FORMS for reader in (*READERS.values(), DATASETS["scenes"]))
    for name, form in FORMS.items():
        numbers, size = np.array([WRITE[name](10, 20, 110, 90, 640, 480)]), np.array([[640.0, 480.0]])
        np.testing.assert_allclose(form.to_pixels(numbers, size), [[10, 20, 110, 90]], atol=1e-9)


@pytest.mark.parametrize("form", CERTAIN)
def test_the_sample_data_set_in_every_wrong_form_is_refused_and_the_form_named(form, tmp_path):
    rows = [
        {**row, "bbox": np.round(WRITE[form](*row["bbox"], row["width"], row["height"]), 4).tolist()} for row in ROWS
    ]
    with pytest.raises(InputError) as error:
        open_annotations(file_of(tmp_path, rows))
    message = str(error.value)
    assert f"they look like {FORMS[form].words}: {FORMS[form].fix}" in message, message
    assert "x.jsonl, line 1: bbox [" in message and "more of 74 rows are wrong: line " in message
    for some in (rows[:5], rows[20:27], rows[-5:]):
        with pytest.raises(InputError):
            open_annotations(file_of(tmp_path, some))


def test_y_before_x_is_named_where_the_pictures_are_not_square(tmp_path):
    wide = [{**row, "bbox": [2 * row["bbox"][0], row["bbox"][1], 2 * row["bbox"][2], row["bbox"][3]]} for row in ROWS]
    rows = [{**r, "width": 448, "bbox": [r["bbox"][i] for i in (1, 0, 3, 2)]} for r in wide]
    with pytest.raises(InputError, match="they look like y1, x1, y2, x2"):
        open_annotations(file_of(tmp_path, rows))


def test_it_is_refused_before_the_model_is_loaded(capsys, tmp_path):
    rows = [{**row, "bbox": WRITE["xywh"](*row["bbox"], 224, 224)} for row in ROWS]
    status, out, err = run(
        capsys, "evaluate", "--model", "internvl2.5-8b", "--dataset", file_of(tmp_path, rows), "--methods", "none",
        "--image-root", SAMPLE.parent, "--out", tmp_path / "run",
    )  # fmt: skip
    assert status == 2 and not out and len(err.splitlines()) == 1 and "look like x, y, w, h" in err
    assert not (tmp_path / "run").exists()


def test_one_bad_row_is_named_alone():
    boxes, sizes = [row["bbox"] for row in ROWS], [(224, 224)] * len(ROWS)
    for bad, words in [
        ([5000, 5000, 6000, 6000], "lies outside its 224x224 image"),
        ([200, 10, 226, 40], "lies outside"),
        ([-2, 10, 30, 40], "lies outside"),
        ([60, 10, 20, 40], "has no area"),
        ([224, 10, 225, 40], "has no area|lies outside"),
    ]:
        message = refused([*boxes[:3], bad], sizes[:4])  # a quarter; thousandths would hardly give the other three
        assert "thousandths" not in message, message
        message = refused([*boxes[:7], bad, *boxes[8:]], sizes)
        assert "x.jsonl, line 8: bbox [" in message and any(w in message for w in words.split("|")), message
        assert "look" not in message and "rows are wrong" not in message and "correct or remove it" in message
    message = refused([*boxes[:7], [0.1, 0.2, 0.4, 0.6], *boxes[8:]], sizes)
    assert "line 8" in message and "it looks like fractions" in message


def test_a_pixel_over_the_edge_is_cut_off(tmp_path):
    row = {**ROWS[0], "bbox": [-1, 100, 224.6, 225]}
    assert open_annotations(file_of(tmp_path, [row]))[0].box == Box(0, 100, 224, 224)
    assert open_annotations(file_of(tmp_path, ROWS))[0].box.as_tuple() == tuple(map(float, ROWS[0]["bbox"]))


def test_legal_files_that_look_odd_are_accepted():
    assert refused([[0, 0, 1, 1]], [(640, 480)]) is None  # the first pixel
    assert refused([[0, 0, 1, 1], [3, 4, 3.5, 4.2]] * 9, [(640, 480)] * 18) is None  # tiny targets
    assert refused([[0, 0, 1, 1]] * 9, [(1, 1)] * 9) is None  # images of one pixel
    assert refused([[0.2, 0.2, 0.9, 0.9]], [(1, 1)]) is None
    assert refused([[0, 0, 1000, 1000], [500, 500, 1000, 1000]] * 9, [(1000, 1000)] * 18) is None  # in thousandths, too
    assert refused([[10, 10, 50, 60]] * 9, [(640, 480)] * 9) is None  # possible as x, y, w, h, too
    assert refused([[0, 0, 1, 1]] * 9, [(640, 480)] * 9) is not None  # but nothing but first pixels: fractions


def test_what_is_possible_and_unlikely_is_warned_about():
    rng = np.random.default_rng(0)
    sizes = np.full((60, 2), (1920, 1080))
    corners = np.sort(rng.uniform(0, 1, (60, 2, 2)), 1).reshape(60, 4) * [1920, 1080, 1920, 1080]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_unlikely(corners, sizes, source="x.jsonl")
        warn_if_unlikely([[10, 10, 50, 60]] * 9, [(640, 480)] * 9, source="x.jsonl")  # too few to say
    thousandths = corners / [1.92, 1.08, 1.92, 1.08]
    assert refused(thousandths, sizes) is None
    with pytest.warns(UserWarning, match="would also be possible as thousandths"):
        warn_if_unlikely(thousandths, sizes, source="x.jsonl")
    with pytest.warns(UserWarning, match="would also be possible as x, y, w, h"):
        warn_if_unlikely([[10, 10, 50, 60]] * 12, [(640, 480)] * 12, source="x.jsonl")


def test_any_data_set_is_checked_when_its_samples_are_taken():
    class Mine:
        name, split, hash = "mine", "test", "0"

        def __iter__(self):
            yield Sample("a", "a", "cat", Box(0.1, 0.1, 0.5, 0.5), "", "large", 64, 48, loader=lambda: None)

    with pytest.raises(InputError, match="data set mine, sample a: box .* fractions of the image"):
        take(Mine(), None)


SIDE = st.integers(2, 4000)


@st.composite
def legal_files(draw):
    """Sizes, and boxes with an area at most a pixel over the edge; not parts of the first pixel (see the library)."""
    boxes, sizes = [], []
    for _ in range(draw(st.integers(1, 12))):
        size = draw(SIDE), draw(SIDE)
        spans = []
        for length in size:
            start = draw(st.floats(-1, length - 0.5))
            spans.append((start, draw(st.floats(max(start, 0) + 0.25, length + 1))))
        (x0, x1), (y0, y1) = spans
        boxes.append([x0, y0, x1, y1])
        sizes.append(size)
    corners = np.array(boxes)
    assume(not ((corners >= 0) & (corners <= 1)).all(1).any())
    return boxes, sizes


@settings(max_examples=250, deadline=None)
@given(legal_files())
def test_a_legal_file_is_never_refused(file):
    assert refused(*file) is None


@st.composite
def targets(draw):
    """Five or more whole-pixel targets in images of 20 to 490 pixels, one of them in the right or the lower half."""
    boxes, sizes = [], []
    for i in range(draw(st.integers(5, 12))):
        size = draw(st.integers(20, 490)), draw(st.integers(20, 490))
        half = draw(st.integers(0, 1)) if i == 0 else None
        spans = []
        for axis, length in enumerate(size):
            start = draw(st.integers((length + 1) // 2 if axis == half else 0, length - 2))
            spans.append((start, draw(st.integers(start + 2, length))))
        (x0, x1), (y0, y1) = spans
        boxes.append([x0, y0, x1, y1])
        sizes.append(size)
    order = draw(st.permutations(range(len(boxes))))
    return [boxes[i] for i in order], [sizes[i] for i in order]


@settings(max_examples=100, deadline=None)
@given(targets(), st.sampled_from(sorted(set(CERTAIN) - {"cxcywh"})))
def test_a_file_of_a_wrong_form_is_always_refused(file, form):
    boxes, sizes = file
    assert refused(boxes, sizes) is None
    assert refused(written(form, boxes, sizes), sizes) is not None
