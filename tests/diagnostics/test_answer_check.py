"""Answers that are right in one space alone: the verdict names it, and says no more than the images allow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from biaslab.core.boxes import Box, BoxSpace
from biaslab.diagnostics.answer_check import answer_check
from biaslab.diagnostics.box_readings import FORMS, READINGS, SPACES, Reading, four_numbers
from biaslab.diagnostics.check_pictures import check_samples, pictures_folder
from biaslab.models.grounding import Grounding

SAMPLES = check_samples()
RESIZED = [(2 * (s.height + 10), 3 * s.width) for s in SAMPLES]  # of another shape, as of no real model


def written(box, size, resized, space, form):
    """The four numbers of a box, by the definition of each space."""
    (x0, y0, x1, y1), (w, h), (rw, rh) = box.as_tuple(), size, resized
    side = max(w, h)
    left, top = (side - w) // 2, (side - h) // 2
    x, y = {
        "pixel": (lambda v: v, lambda v: v),
        "resized": (lambda v: v * rw / w, lambda v: v * rh / h),
        "norm1": (lambda v: v / w, lambda v: v / h),
        "norm100": (lambda v: 100 * v / w, lambda v: 100 * v / h),
        "norm1000": (lambda v: 1000 * v / w, lambda v: 1000 * v / h),
        "norm1024": (lambda v: 1024 * v / w, lambda v: 1024 * v / h),
        "padded_square": (lambda v: (v + left) / side, lambda v: (v + top) / side),
        "padded_square_pixel": (lambda v: v + left, lambda v: v + top),
        "padded_square_1000": (lambda v: 1000 * (v + left) / side, lambda v: 1000 * (v + top) / side),
    }[space]
    a, b, c, d = x(x0), y(y0), x(x1), y(y1)
    return {
        "xyxy": (a, b, c, d),
        "yxyx": (b, a, d, c),
        "xywh": (a, b, c - a, d - b),
        "cxcywh": ((a + c) / 2, (b + d) / 2, c - a, d - b),
    }[form]


def answers(space, form="xyxy", own=BoxSpace.NORM1000, text="[{:.3f}, {:.3f}, {:.3f}, {:.3f}]", wrong=()):
    """Answers in a space, as a family reads them in its own; those with an index in ``wrong`` are off."""
    found = []
    for i, (s, resized) in enumerate(zip(SAMPLES, RESIZED, strict=True)):
        size = (s.width, s.height)
        target = s.box if i not in wrong else Box(0, 0, 3, 3)
        numbers = written(target, size, resized, space, form)
        box = own.read([round(v, 3) for v in numbers], size=size, resized=resized)
        found.append(Grounding(text.format(*numbers), box, box is not None))
    return answer_check(SAMPLES, found, RESIZED, own)


def test_readings_of_plain_spaces_are_those_of_the_families():
    rng = np.random.default_rng(0)
    for space in BoxSpace:
        reading, found = Reading(space.value, "xyxy"), 0
        assert reading.is_plain
        for size, resized in (((640, 427), (644, 420)), ((300, 500), (1000, 700))):
            ends = {"norm1": (1, 1), "padded_square": (1, 1), "norm1000": (1000, 1000), "resized": resized}
            largest = 2 * ends.get(space.value, size)
            for _ in range(50):
                values = rng.uniform(-0.15, 1.15, 4) * np.array(largest)
                want = space.read(values, size=size, resized=resized)
                got = reading.box(values, size=size, resized=resized)
                assert (want is None) == (got is None)
                if want is not None:
                    assert np.allclose(got.as_tuple(), want.as_tuple())
                    found += 1
        assert found > 10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("space", SPACES)
def test_every_reading_undoes_what_was_written(space, form):
    reading = Reading(space, form)
    for s, resized in zip(SAMPLES, RESIZED, strict=True):
        numbers = written(s.box, (s.width, s.height), resized, space, form)
        box = reading.box(numbers, size=(s.width, s.height), resized=resized)
        assert np.allclose(box.as_tuple(), s.box.as_tuple(), atol=1e-6)


@pytest.mark.parametrize(
    ("reading", "own"),
    [(r, own) for r in READINGS for own in BoxSpace if r.form == "xyxy" or own is BoxSpace.NORM1000],
    ids=lambda each: each.value if isinstance(each, BoxSpace) else f"{each.space}-{each.form}",
)
def test_the_verdict_names_the_space_of_the_answers(reading, own):
    check = answers(reading.space, reading.form, own)
    row = check.readings.set_index(["space", "form"]).loc[(reading.space, reading.form)]
    assert row["hits"] == len(SAMPLES) == row["n"]
    if reading == Reading(own.value, "xyxy"):
        assert check.holds and row["is_own"] and check.accuracy.value == check.parsed.value == 1
        assert check.verdict.startswith(f"answers fit {SPACES[own.value]} (43 of 43), as this family's adapter reads")
        return
    if check.holds:  # 0-1000 and 0-1024 differ by 2 %, of the image and of its square alike
        assert {reading.space, own.value} <= {"norm1000", "norm1024"} and str(reading) in check.verdict
        return
    assert check.holds is False
    assert check.verdict.startswith(f"answers fit {reading} (43 of 43)"), check.verdict
    assert f"read as {SPACES[own.value]}, as this family's adapter does, " in check.verdict


def test_with_misses_the_space_is_still_named_and_intervals_hold_the_share():
    check = answers("norm1000", own=BoxSpace.RESIZED, wrong=range(0, 43, 4))
    assert check.holds is False and check.verdict.startswith("answers fit 0-1000 (32 of 43)")
    row = check.readings.set_index("name").loc["0-1000"]
    assert row["accuracy_lo"] < 32 / 43 < row["accuracy_hi"] and row["gain_lo"] > 0
    right = answers("norm1000", wrong=range(0, 43, 3))
    assert right.holds and "28 of 43" in right.verdict


def test_too_few_hits_tell_nothing():
    for own in (BoxSpace.NORM1000, BoxSpace.PIXEL):
        check = answers("norm1000", own=own, wrong=range(1, 43))
        assert check.holds is None and "too few answers are right in any reading" in check.verdict
        assert check.parsed.value > 0.5


def test_answers_without_a_box_are_found_out():
    found = [Grounding("It is on the left.", None, False, truncated=i < 2) for i in range(43)]
    check = answer_check(SAMPLES, found, RESIZED, BoxSpace.NORM1000)
    assert check.holds is False and check.parsed.value == 0 == check.accuracy.value
    assert "43 of 43 answers hold no box" in check.verdict and "2 were cut" in check.verdict
    assert "'It is on the left.'" in check.verdict and not check.readings["hits"].any()
    assert not check.readings["is_own"].any()


@pytest.mark.parametrize(
    "text",
    ["<box>({:.0f},{:.0f}),({:.0f},{:.0f})</box>", "x0={:.0f}, y0={:.0f}, x1={:.0f}, y1={:.0f}",
     "{:.0f} {:.0f} {:.0f} {:.0f}"],
)  # fmt: skip
def test_right_boxes_in_a_form_that_the_family_does_not_read(text):
    found = []
    for s, resized in zip(SAMPLES, RESIZED, strict=True):
        numbers = written(s.box, (s.width, s.height), resized, "norm1000", "xyxy")
        found.append(Grounding(text.format(*numbers), None, False))
    check = answer_check(SAMPLES, found, RESIZED, BoxSpace.NORM1000)
    assert check.holds is False and "answers fit 0-1000 (4" in check.verdict and "does, 0 of 43" in check.verdict


def test_location_tokens_of_paligemma():
    found = []
    for s in SAMPLES:
        numbers = written(s.box, (s.width, s.height), (1, 1), "norm1024", "yxyx")
        text = "".join(f"<loc{min(1023, round(v)):04d}>" for v in numbers)
        y0, x0, y1, x1 = (v / 1024 for v in four_numbers(text))
        found.append(Grounding(text, BoxSpace.NORM1.read((x0, y0, x1, y1), size=(s.width, s.height)), True))
    check = answer_check(SAMPLES, found, RESIZED, BoxSpace.NORM1)
    same = check.readings.set_index("name").loc["0-1024, y before x"]
    assert check.holds and same["is_own"] and check.readings["is_own"].sum() == 1


def test_the_grid_has_every_reading_once():
    grid = answers("norm1000").grid()
    assert list(grid["read as"]) == list(SPACES.values()) and grid.shape == (9, 5)
    assert grid.set_index("read as").loc["0-1000", "x0, y0, x1, y1"] == 43


def test_the_pictures_are_what_the_file_says_and_their_origins_are_named():
    licence = (pictures_folder() / "LICENSE").read_text(encoding="utf-8")
    names = {sample.image_id for sample in SAMPLES}
    assert names == {path.name for path in pictures_folder().glob("*.jpg")}
    assert sum(path.stat().st_size for path in pictures_folder().iterdir()) < 1.5e6
    for sample in SAMPLES:
        assert sample.image().size == (sample.width, sample.height) and max(sample.image().size) <= 640
        assert Box(0, 0, sample.width, sample.height).iou(sample.box) > 0 and sample.image_id in licence
        assert sample.box.clip((sample.width, sample.height)) == sample.box
    for name in names:
        boxes = [sample.box for sample in SAMPLES if sample.image_id == name]
        assert all(a.iou(b) < 0.5 for i, a in enumerate(boxes) for b in boxes[:i])  # no answer hits two of them
        with Image.open(pictures_folder() / name) as image:
            assert image.format == "JPEG" and not image.getexif()
