"""Files of captions: every form of table, COCO's own, what is refused, and which image a name means."""

import json

import pytest
from PIL import Image

from biaslab.datasets.captions import captions_of, read_captions
from biaslab.errors import InputError

SAID = {"a.jpg": ["the red cup", "a cat"], "b.jpg": ["the door"]}
FORMS = {
    "t.csv": "image,caption\na.jpg,the red cup\nb.jpg,the door\na.jpg,a cat\n",
    "semicolons.csv": "file_name;text\na.jpg;the red cup\na.jpg;a cat\nb.jpg;the door\n",
    "quoted.csv": 'image,expression\n"a.jpg"," the red cup "\na.jpg,"a cat"\nb.jpg,"the door"\n',
    "t.tsv": "image\tsent\na.jpg\tthe red cup\na.jpg\ta cat\nb.jpg\tthe door\n",
    "t.jsonl": '{"image": "a.jpg", "expressions": ["the red cup", "a cat"]}\n'
    '{"image": "b.jpg", "expressions": "the door"}\n',
    "t.json": '[{"img_path": "a.jpg", "captions": ["the red cup", "a cat"]}, '
    '{"img_path": "b.jpg", "captions": ["the door"]}]',
    "mapping.json": '{"a.jpg": ["the red cup", "a cat", "a cat"], "b.jpg": "the door"}',
    "bom.json": '\ufeff{"a.jpg": ["the red cup", "a cat"], "b.jpg": "the door"}',
    "coco.json": json.dumps({
        "info": {}, "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 7, "id": 1, "caption": "the red cup"},
                        {"image_id": 8, "id": 2, "caption": "the door"}, {"image_id": 7, "id": 3, "caption": "a cat"}],
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms(name, tmp_path):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    assert read_captions(tmp_path / name) == SAID


def test_one_line_of_json_is_a_row_and_no_mapping(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": "a.jpg", "caption": "a cat"}\n')
    assert read_captions(tmp_path / "t.jsonl") == {"a.jpg": ["a cat"]}


def test_other_columns_are_named(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("Photo,Says\na.jpg,the red cup\n")
    assert read_captions(file, columns="image=Photo,expression=Says") == {"a.jpg": ["the red cup"]}
    for columns, why in (
        ("image=Photo", "lacks expression"),
        ("image=Photo,expression=Says,box=xywh:b", "captions have no box"),
        ("image=Photo,expression=Said", "no column Said: it has Photo, Says"),
        ("picture=Photo", "takes image, expression"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            read_captions(file, columns=columns)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,caption\na.jpg,\n", "row 1, of a.jpg, holds an empty text: write something, or leave it out"),
        ("image,caption\na.jpg,x\n,y\n", "row 2 names no image"),
        ("photo,says\na.jpg,x\n", "has photo, says: a file of captions has a column with the image"),
        ("image,caption\n", "has no rows"),
        ("", "has no rows"),
        ('{"a.jpg": 3}', 'entry "a.jpg", of a.jpg, holds int, not a text'),
        ('{"a.jpg": []}', "says nothing of a.jpg"),
        ('{"a.jpg": ["  "]}', "holds an empty text"),
        ('{"a.jpg": ["half \\ud83d"]}', "holds half a character"),
        ('{"a.jpg": "x"', "is no JSON"),
        ('{"images": [{"id": 1}], "annotations": []}', "looks like COCO's captions and is not"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "looks like COCO's captions and is not"),
    ],
)
def test_what_is_refused_in_one_line(text, why, tmp_path):
    file = tmp_path / ("t.json" if text.startswith("{") else "t.csv")
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_captions(file)
    assert why in str(caught.value) and len(str(caught.value).splitlines()) == 1, caught.value


def test_a_picture_is_no_file_of_captions(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="is an image"):
        read_captions(tmp_path / "a.png")


def test_pictures_are_found_by_path_by_name_and_as_coco_spells_them():
    pictures = ["a.jpg", "more/b.jpg", "train2014/COCO_train2014_000000000009.jpg", "x/a.jpg"]
    said = {"./a.jpg": ["1"], "b.jpg": ["2"], "000000000009.jpg": ["3"], "x/a.jpg": ["4"], "more/b.jpg": ["2", "5"]}
    assert captions_of(pictures, said, source="photos") == [["1"], ["2", "5"], ["3"], ["4"]]


def test_an_ambiguous_name_and_strangers():
    with pytest.raises(InputError, match=r"a.jpg is the name of 2 images in photos \(x/a.jpg, y/a.jpg\)"):
        captions_of(["x/a.jpg", "y/a.jpg"], {"a.jpg": ["1"]}, source="photos")
    with pytest.raises(
        InputError, match="none of the 2 images named is in photos: it holds c.jpg, the file names a.jpg"
    ):
        captions_of(["c.jpg"], SAID, source="photos")
    with pytest.warns(UserWarning, match=r"1 image of the captions not in photos \(b.jpg\): left out"):
        assert captions_of(["a.jpg", "c.jpg"], SAID, source="photos") == [SAID["a.jpg"], []]
