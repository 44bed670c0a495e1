"""The RefCOCO jsonl reader: rows, hash, bad rows, missing and damaged images."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from PIL import Image

from biaslab.core.boxes import Box
from biaslab.datasets import DATASETS, READERS, load_dataset
from biaslab.datasets.opening import open_annotations
from biaslab.datasets.sample import object_size
from biaslab.errors import InputError

ROWS = [
    {"image": "coco/a.jpg", "sent": "left cat", "bbox": [0, 0, 10, 10], "width": 64, "height": 48},
    {"image": "coco/a.jpg", "sent": "big dog", "bbox": [10, 5, 60, 40.5], "width": 64, "height": 48},
    {"image": "coco/gone.jpg", "sent": "red car", "bbox": [1, 1, 20, 20], "width": 64, "height": 48},
    {"image": "coco/torn.jpg", "sent": "blue car", "bbox": [1, 1, 20, 20], "width": 64, "height": 48},
    {"image": "coco/b.png", "sent": "a sign", "bbox": [1, 1, 20, 20], "width": 640, "height": 480},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "coco").mkdir()
    Image.effect_noise((64, 48), 90).save(tmp_path / "coco" / "a.jpg")  # greyscale on purpose
    whole = (tmp_path / "coco" / "a.jpg").read_bytes()
    (tmp_path / "coco" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 48)).save(tmp_path / "coco" / "b.png")
    return tmp_path


def write(folder, rows, name="refcoco_mini.jsonl"):
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_become_samples(folder):
    data = open_annotations(write(folder, ROWS))
    assert (len(data), data.name, data.split) == (5, "refcoco-jsonl", "refcoco_mini")
    first, second = list(data)[:2]
    assert first.id == "refcoco_mini-000000" and first.image_id == second.image_id == "coco/a.jpg"
    assert second.expression == "big dog" and second.box == Box(10, 5, 60, 40.5)
    assert (second.width, second.height, second.object_size, second.expression_type) == (64, 48, "large", "")
    picture = second.image()
    assert picture.mode == "RGB" and picture.size == (64, 48)
    assert len({s.id for s in data}) == 5


def test_pictures_are_found_under_a_root_by_path_or_by_name(folder):
    path = write(folder / "coco", ROWS[:1])
    assert open_annotations(path, images=folder)[0].image().size == (64, 48)
    assert open_annotations(path, images=folder / "coco")[0].image().size == (64, 48)
    assert open_annotations(path)[0].image().size == (64, 48)


def test_bad_pictures_fail_only_when_asked_for_and_say_which(folder):
    data = open_annotations(write(folder, ROWS))
    for index, message in ((2, "not found.*gone.jpg"), (3, "torn.jpg"), (4, "64x48.*640x480")):
        with pytest.raises(InputError, match=message) as caught:
            data[index].image()
        assert "\n" not in str(caught.value)


def test_hash_follows_the_content_alone(folder):
    path = write(folder, ROWS)
    reference = open_annotations(path).hash
    assert reference == open_annotations(path, images="/elsewhere").hash
    for field, value in (("sent", "right cat"), ("bbox", [0, 0, 10, 11]), ("image", "coco/b.png")):
        changed = [{**ROWS[0], field: value}, *ROWS[1:]]
        assert open_annotations(write(folder, changed)).hash != reference, field


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{torn", r"line 2 is no JSON \(Expecting property name"),
        (
            {k: v for k, v in ROWS[0].items() if k != "sent"},
            "line 2 has no field sent: it has image, bbox, width, height; a RefCOCO jsonl has image, sent,",
        ),
        ({"image": "a.png", "bbox": [0, 0, 9, 9]}, "line 2 has no fields sent, width, height"),
        ([1, 2], "line 2 is a list, not an object"),
        ("7", "line 2 is a number, not an object"),
        ({**ROWS[0], "bbox": [0, 0, 10]}, "line 2: bbox has 3 numbers, not 4"),
        ({**ROWS[0], "bbox": None}, "line 2: bbox is null: the expression has no target"),
        ({**ROWS[0], "bbox": {"x": 1}}, 'line 2: bbox is {"x": 1}, not a list'),
        ({**ROWS[0], "bbox": [0, 0, 10, float("nan")]}, "line 2: bbox holds NaN, which is no finite number"),
        ({**ROWS[0], "bbox": [0, 0, 10, True]}, "line 2: bbox holds true, which is no finite number"),
        ({**ROWS[0], "bbox": [0, 0, 10, 10**400]}, "line 2: bbox holds 10+"),
        ({**ROWS[0], "bbox": [10, 0, 10, 5]}, "line 2: bbox .* no area"),
        ({**ROWS[0], "bbox": ["x", 0, 10, 5]}, 'line 2: bbox holds "x", which is no finite number'),
        ({**ROWS[0], "sent": "  "}, "line 2: sent is"),
        ({**ROWS[0], "sent": ""}, "line 2: sent is empty"),
        ({**ROWS[0], "sent": ["left cat"]}, r'line 2: sent is \["left cat"\], not a text'),
        ({**ROWS[0], "image": 7}, "line 2: image is 7, not a text"),
        ({**ROWS[0], "sent": "half \ud83d"}, "line 2: sent holds half a character"),
        ({**ROWS[0], "image": "half \ud83d"}, "line 2: image holds half a character"),
        ({**ROWS[0], "orientation": 6}, "line 2: orientation is 6: write stored or upright"),
        ({**ROWS[0], "height": 48.5}, "line 2: height is 48.5, not a whole number"),
        ({**ROWS[0], "height": "tall"}, 'line 2: height holds "tall"'),
        ({**ROWS[0], "width": 0}, "line 2: width is 0, not a whole number of pixels above 0"),
    ],
)
def test_a_bad_row_is_named(folder, row, message):
    with pytest.raises(InputError, match=message) as error:
        open_annotations(write(folder, [ROWS[0], row]))
    assert len(str(error.value).splitlines()) == 1 and not re.search(r"Error\(|KeyError|TypeError", str(error.value))


def test_missing_and_empty_files(folder):
    with pytest.raises(InputError, match="cannot read .*none.jsonl .*pass rows of referring"):
        open_annotations(folder / "none.jsonl")
    with pytest.raises(InputError, match="no rows"):
        open_annotations(write(folder, [""]))


def test_a_published_split_of_the_wrong_size_is_reported(folder, caplog):
    open_annotations(write(folder, ROWS, "refcoco_testA.jsonl"))
    assert "5 expressions, the published split 5657" in caplog.text


def test_text_lines_end_at_newlines_only(folder):
    row = {**ROWS[0], "sent": "left\u2028cat"}
    path = folder / "x.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert open_annotations(path)[0].expression == "left\u2028cat"


def test_registry(folder):
    assert "refcoco-jsonl" in READERS and "scenes" in DATASETS
    assert len(load_dataset("refcoco-jsonl", path=write(folder, ROWS))) == 5
    with pytest.raises(InputError, match="none of gallery, gallery-vqa, scenes, no file, and no id of the hub"):
        load_dataset("refcocoo")
    with pytest.raises(InputError, match="'root'.*it takes"):
        load_dataset("refcoco-jsonl", path="x", root="y")


def test_data_set_travels_to_another_process(folder):
    data = open_annotations(write(folder, ROWS))
    copy = pickle.loads(pickle.dumps(data))
    assert copy.hash == data.hash and copy[0].image().size == (64, 48)


def test_object_sizes():
    assert [object_size(Box(0, 0, w, 10), 100, 10) for w in (4.9, 5, 11.9, 12, 100)] == [
        "small", "medium", "medium", "large", "large",
    ]  # fmt: skip
