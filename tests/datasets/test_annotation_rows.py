"""Files that are read as they are meant, and files that are something else and are named as that, in one line."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biaslab.datasets import load_dataset
from biaslab.datasets.opening import open_annotations
from biaslab.errors import InputError

ROW = {"image": "a.png", "sent": "left cat", "bbox": [0, 0, 10, 10], "width": 64, "height": 48}
LINE = json.dumps(ROW)


def file_of(folder, content, name="x.jsonl"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path):
    with pytest.raises(InputError) as error:
        load_dataset(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and str(path) in message
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize(
    "content",
    [
        LINE + "\n" + LINE + "\n",
        LINE + "\r\n" + LINE + "\r\n",
        "\n" + LINE + "\n  \n" + LINE,
        "\ufeff" + LINE + "\n" + LINE,
        f"[{LINE}, {LINE}]",
        "\ufeff" + json.dumps([ROW, ROW], indent=1).replace("\n", "\r\n"),
    ],
    ids=["plain", "CRLF", "blank lines", "BOM", "array", "indented array with BOM and CRLF"],
)
def test_forms_of_the_same_rows(content, tmp_path):
    data = open_annotations(file_of(tmp_path, content))
    assert [s.expression for s in data] == ["left cat"] * 2
    assert data.hash != open_annotations(file_of(tmp_path, LINE)).hash


def test_texts_are_kept_as_they_are(tmp_path):
    for text in (
        "left\u2028cat",
        "left\u0085cat",
        "a\x1cb",
        "\N{GRINNING FACE}",
        "猫",
        "c\u0327a",
        'tab\tand \\ and "',
    ):
        for escaped in (True, False):
            path = file_of(tmp_path, json.dumps({**ROW, "sent": text}, ensure_ascii=escaped))
            (sample,) = open_annotations(path)
            assert sample.expression == text


def test_a_bad_entry_of_an_array_is_named(tmp_path):
    path = file_of(tmp_path, json.dumps([ROW, {**ROW, "bbox": [1, 2, 3]}]))
    assert "FILE, entry 2: bbox has 3 numbers, not 4" in refusal(path)
    assert "FILE, line 2 is no JSON" in refusal(file_of(tmp_path, f"[{LINE},\n{{torn"))
    assert "FILE has no rows" in refusal(file_of(tmp_path, "[]"))
    assert "FILE, entry 1 is a text, not an object" in refusal(file_of(tmp_path, '["a"]'))
    assert "FILE, line 1 is a list, not an object" in refusal(file_of(tmp_path, "[1, 2]\n[3, 4]\n"))


def test_encodings_name_file_line_and_fix(tmp_path):
    latin = (LINE + "\n" + json.dumps({**ROW, "sent": "grün"}, ensure_ascii=False)).encode("latin-1")
    message = refusal(file_of(tmp_path, latin))
    assert "FILE, line 2 is not UTF-8 (byte 0xFC)" in message and "iconv" in message
    for codec, name in (("utf-16", "UTF-16"), ("utf-32", "UTF-32")):
        assert f"FILE is {name} text, not UTF-8: save it as UTF-8" in refusal(file_of(tmp_path, LINE.encode(codec)))


def archive(kind):
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("refs.json", "{}")
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("refs.json"))
    return file.getvalue()


def picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def numpy_file():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


COCO = {"info": {}, "images": [{"id": 1}], "annotations": [{"bbox": [0, 0, 1, 1]}], "categories": []}
MDETR = {"images": [{"id": 1, "file": "cat"}], "annotations": [{"tokens_positive": [[0, 3]]}], "categories": []}
TABLE = [["image", "sent", "x", "y"], ["a.png", "cat", "1", "2"]]


class Trap:
    """Unpickled, it would fail the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", json.dumps(COCO), "a COCO annotation file (fields info, images, annotations, categories)"),
        ("x.json", json.dumps(COCO, indent=1), "a COCO annotation file"),
        ("x.json", json.dumps(MDETR), "an MDETR annotation file (fields images, annotations, categories)"),
        ("x.json", json.dumps({"version": "5", "shapes": [], "imagePath": "a"}), "a LabelMe annotation file"),
        ("x.json", json.dumps({"data": [ROW], "n": 1}, indent=1), "one JSON object (fields data, n)"),
        ("x.html", "<!DOCTYPE html><html>404</html>", "an HTML page"),
        ("x.xml", "<annotation></annotation>", "an XML file"),
        *((f"{p}.p", pickle.dumps([{"t": Trap()}], protocol=p), "a Python pickle that is not") for p in range(6)),
        ("x.jsonl", pickle.dumps([Trap()]), "a Python pickle"),
        ("x.arrow", b"ARROW1\0\0", "an Arrow file"),
        ("x.jsonl.gz", gzip.compress(LINE.encode(), mtime=0), "a gzip file, not rows of"),
        ("x.zip", archive("zip"), "a ZIP archive (refs.json), not rows of"),
        ("x.tar", archive("tar"), "a tar archive (refs.json), not"),
        ("x.npy", numpy_file(), "a numpy array"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
        ("x.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        *((f"x.{k}", picture(k), "FILE is an image, not") for k in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")),
    ],
)  # fmt: skip
def test_another_file_is_named_as_what_it_is(name, content, words, tmp_path):
    message = refusal(file_of(tmp_path, content, name))
    assert words in message and ("image, sent, bbox, width, height" in message or "pickle" in message), message
    assert "convert it" in message or "unpack it" in message or "git lfs" in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        *(("x.csv", "\n".join(s.join(row) for row in TABLE), "has no fields bbox, width, height: it has image, sent, x")
          for s in ",;\t"),
        ("x.tsv", "\ufeff" + "\r\n".join("\t".join(row) for row in TABLE), "it has image, sent, x, y; a RefCOCO jsonl"),
        ("x.csv", "image,sent\na,b,c\n", "it has image, sent"),
        ("refs.p", b"(lp0\n(dp1\nS'sent_ids'\n", "a damaged Python pickle"),
        ("x.parquet", b"PAR1\x15\x04" + bytes(40) + b"PAR1", "is no Parquet file that can be read"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_say_what_they_hold(name, content, words, tmp_path):
    assert words in refusal(file_of(tmp_path, content, name))


def test_a_folder_and_an_empty_file_are_named(tmp_path):
    message = refusal(tmp_path)
    assert "FILE is a folder, not rows of" in message and "give the annotation file" in message
    assert "has no rows" in refusal(file_of(tmp_path, "")) and "has no rows" in refusal(file_of(tmp_path, " \n\r\n "))


def test_rows_of_other_data_sets_show_their_fields_and_ours(tmp_path):
    hub = {"question_id": "1", "image": "a.png", "question": "?", "label": ["cat"], "bbox": [1, 2, 3, 4]}
    message = refusal(file_of(tmp_path, json.dumps(hub)))
    assert "FILE, line 1 has no field" in message and "it has question_id, image, question, label, bbox" in message
    assert "--columns image=COLUMN,expression=COLUMN,box=FORM:COLUMN" in message


def outcome(path):
    try:
        return len(open_annotations(path))
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))
    | st.dictionaries(st.sampled_from(sorted(ROW)), JSON).map(lambda change: json.dumps({**ROW, **change}).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
)
def test_any_content_is_rows_or_one_line(tmp_path_factory, content):
    outcome(file_of(tmp_path_factory.getbasetemp(), content))
