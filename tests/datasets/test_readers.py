"""Every form of annotations gives the samples of the sample data set; what is another form, or wrong, is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import run
from PIL import Image

import biaslab as bl
from biaslab.core.boxes import Box
from biaslab.core.images import image_name, load_image
from biaslab.datasets import READERS, load_dataset
from biaslab.datasets.box_forms import FORMS
from biaslab.datasets.calibration import source_folder
from biaslab.datasets.reader import recognise
from biaslab.errors import InputError
from biaslab.scenes import scene
from tools.annotation_forms import (
    ANNOTATIONS,
    CSV_COLUMNS,
    IMAGES,
    array,
    instances,
    lines,
    minigpt4,
    refer,
    write_tables,
)
from tools.build_sample_data import SPLIT, TARGET, N, labelled

ROWS = labelled([scene(SPLIT, index) for index in range(N)])
WANTED = sorted((row.picture, row.expression, row.box) for row in ROWS)
#: reader -> file of data/sample, options
FILES = {
    "refcoco-jsonl": ("refcoco_sample.jsonl", {}),
    "shikra": ("REC_refcoco_sample.jsonl", {}),
    "mdetr": ("finetune_refcoco_sample.json", {}),
    "refer": ("refcoco/refs(unc).p", {"images": TARGET}),
    "minigpt4": ("minigpt4_sample.json", {}),
    "llava": ("llava_sample.json", {}),
    "vlm-r1": ("vlm_r1_sample.json", {}),
    "table": ("sample.csv", {"columns": CSV_COLUMNS}),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The forms that hold images, or are Parquet."""
    return write_tables(ROWS, TARGET / IMAGES, tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Tables are converted into the cache of `datasets`: not into the user's."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


def found(data):
    return sorted(
        (Path(s.image_id).name, s.expression, tuple(round(v, 6) for v in s.box.as_tuple()))
        for s in data
        if not s.image_id.startswith("row ")
    )


def opened(name, tables):
    if name in FILES:
        file, options = FILES[name]
        return load_dataset(TARGET / file, **options)
    return load_dataset(tables[name], images=TARGET / IMAGES)


def test_every_reader_is_tested_and_states_its_form():
    of_questions = {name for name, reader in READERS.items() if reader.asks}  # tests/datasets/test_questions.py
    assert {*FILES, "lmms-lab", "jxu124", "ref-l4", "vlmevalkit"} == {*READERS, "table"} - of_questions
    assert all(reader.box_form in FORMS and reader.what and reader.columns for reader in READERS.values())
    assert set(ANNOTATIONS) - {"refcoco/instances.json"} == {file for file, _ in FILES.values()}


@pytest.mark.parametrize("name", [*FILES, "lmms-lab", "jxu124", "ref-l4", "vlmevalkit"])
def test_every_form_gives_the_same_samples(name, tables):
    data = opened(name, tables)
    assert len(data) == len(ROWS) == len({s.id for s in data})
    assert data.box_form == (READERS[name].box_form if name in READERS else "xywh")
    if name == "vlmevalkit":  # its rows name no image
        assert sorted((s.expression, tuple(round(v, 6) for v in s.box.as_tuple())) for s in data) == sorted(
            (text, box) for _, text, box in WANTED
        )
    else:
        assert found(data) == WANTED
    by_text = {(row.expression, row.box): row for row in ROWS}
    for sample in list(data)[::9]:
        assert (sample.width, sample.height) == (224, 224)
        row = by_text[sample.expression, tuple(round(v) for v in sample.box.as_tuple())]
        pixels = np.asarray(sample.image())
        assert np.array_equal(pixels, np.asarray(load_image(TARGET / IMAGES / row.picture)))
        sample.check_image()
    again = opened(name, tables)
    assert again.hash == data.hash
    assert len({s.image_id for s in data}) == N


def test_samples_go_to_other_processes(tables):
    for name in ("refcoco-jsonl", "lmms-lab", "vlmevalkit"):
        data = opened(name, tables)
        sample = pickle.loads(pickle.dumps(data[5]))
        assert np.array_equal(np.asarray(sample.image()), np.asarray(data[5].image()))


def test_a_recipe_opens_the_same_data(tables):
    for name in FILES:
        data = opened(name, tables)
        of = {"table": data.recipe["path"]}.get(name, data.name if data.name in READERS else data.recipe["path"])
        options = data.recipe if of in READERS else {k: v for k, v in data.recipe.items() if k != "path"}
        assert load_dataset(of, **options).hash == data.hash, name


def test_no_form_is_taken_for_another():
    columns = {name: set(reader.columns) for name, reader in READERS.items()}
    for name, own in columns.items():
        assert recognise(own).name == name
        assert recognise(own | {"extra", "dataset", "id"}).name == name
        for column in own - {"problem"}:
            other = recognise(own - {column})
            assert other is None or other.name != name or column == "problem", (name, column)


def test_the_hub_folder_and_objects_in_memory(tables):
    import datasets

    folder = tables["lmms-lab"].parents[1]
    whole = load_dataset(folder, split="testA")
    assert len(whole) == len(ROWS) and whole.split == "testA" and whole.name == str(folder)
    held = datasets.Dataset.from_parquet(str(tables["lmms-lab"]))
    assert found(load_dataset(held)) == WANTED
    several = datasets.DatasetDict({"testA": held, "testB": held.select(range(3))})
    assert len(load_dataset(several, split="testB")) < 12
    for options, words in [
        ({}, "has several splits: choose one of testA, testB"),
        ({"split": "val"}, "no split 'val'"),
    ]:
        with pytest.raises(InputError, match=words):
            load_dataset(several, **options)
    held.save_to_disk(folder.parent / "saved")
    assert found(load_dataset(folder.parent / "saved")) == WANTED
    with pytest.raises(InputError, match="columns"):
        load_dataset(held.remove_columns(["answer", "file_name"]))


def test_a_data_set_of_the_hub_that_is_not_here_says_how_to_get_it(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(InputError, match="hf download lmms-lab/RefCOCO --repo-type dataset"):
        load_dataset("lmms-lab/RefCOCO", split="testA")


def test_names_of_releases_say_what_they_are(tables, monkeypatch, caplog):
    import datasets

    held = datasets.Dataset.from_parquet(str(tables["lmms-lab"]))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict({"val": held}))
    data = load_dataset("lmms-lab/RefCOCO", split="val")
    assert data.name == "lmms-lab/RefCOCO" and "UNC val and Google val mixed" in data.split
    assert "the published split 8811" in caplog.text
    assert load_dataset("lmms-lab/RefCOCO", **data.recipe).hash == data.hash


def test_refer_needs_its_instances_and_a_split(tmp_path):
    folder = tmp_path / "refcoco"
    folder.mkdir()
    (folder / "refs(unc).p").write_bytes(refer(ROWS))
    with pytest.raises(InputError, match=r"need the boxes of .*instances.json"):
        load_dataset(folder)
    (folder / "instances.json").write_bytes(instances(ROWS))
    assert len(load_dataset(folder, split="testA", images=TARGET)) == len(ROWS)
    assert load_dataset(folder, images=TARGET).name == "refcoco (unc)"
    rows = pickle.loads(refer(ROWS))
    rows[0]["split"] = "val"
    (folder / "refs(unc).p").write_bytes(pickle.dumps(rows, protocol=0))
    with pytest.raises(InputError, match="holds several splits: choose one of val, testA"):
        load_dataset(folder)
    assert len(load_dataset(folder, split="val", images=TARGET)) == len(rows[0]["sentences"])
    (folder / "refs(google).p").write_bytes(refer(ROWS))
    with pytest.raises(InputError, match="several divisions"):
        load_dataset(folder)


def test_a_pickle_of_anything_else_is_not_opened(tmp_path):
    for value in ([{"t": Trap()}], {"a": 1}, [Path("x")], [np.float64(1)]):
        (tmp_path / "refs.p").write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match="is a Python pickle (that is not opened|of a dict)"):
            load_dataset(tmp_path / "refs.p")
    (tmp_path / "refs.p").write_bytes(refer(ROWS)[:500])
    with pytest.raises(InputError, match="damaged Python pickle"):
        load_dataset(tmp_path / "refs.p")


class Trap:
    """Unpickled, it would fail the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ann_id": [3, 4], "no_target": False}, "no target or several, as in gRefCOCO"),
        ({"ann_id": [-1], "no_target": True}, "no target or several, as in gRefCOCO"),
    ],
)
def test_expressions_without_one_target_are_refused(change, words, tmp_path):
    rows = [{**row, **change} for row in pickle.loads(refer(ROWS))]
    (tmp_path / "grefs(unc).json").write_bytes(array(rows))
    (tmp_path / "instances.json").write_bytes(instances(ROWS))
    with pytest.raises(InputError, match=words):
        load_dataset(tmp_path / "grefs(unc).json")


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([], "has no target"),
        (None, "has no target"),
        ([[1, 2, 30, 40], [5, 6, 70, 80]], "holds 2 boxes"),
        ([1, 2, 3], "has 3 numbers"),
    ],
)
def test_boxes_of_no_and_several_targets_are_refused_in_words(box, words, tmp_path):
    row = {"image": "a.jpg", "sent": "cat", "bbox": box, "width": 224, "height": 224}
    (tmp_path / "x.jsonl").write_bytes(lines([row]))
    with pytest.raises(InputError, match=words):
        load_dataset(tmp_path / "x.jsonl")
    value = json.loads((TARGET / "finetune_refcoco_sample.json").read_text())
    for kept, said in (([], "no target,"), (value["annotations"][:1] * 2, "2 targets,")):
        (tmp_path / "m.json").write_bytes(array({**value, "annotations": kept}))
        with pytest.raises(InputError, match=said):
            load_dataset(tmp_path / "m.json")


def test_jxu124_whose_box_is_not_cocos_is_refused(tables, tmp_path):
    import datasets

    data = datasets.Dataset.from_parquet(str(tables["jxu124"]))
    wrong = data.map(lambda row: {"bbox": [v + 5 for v in row["bbox"]]})
    wrong.to_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(InputError, match="row 1: bbox .* is not the box of raw_anns"):
        load_dataset(tmp_path / "x.parquet", images=TARGET)


# -- columns by hand ---------------------------------------------------------------------------------------------------
def test_columns_by_hand_in_every_container(tmp_path, tables):
    frame = pd.DataFrame(
        {"file": [f"{IMAGES}/{r.picture}" for r in ROWS], "text": [r.expression for r in ROWS],
         "box": [str(r.xywh) for r in ROWS], "w": 224, "h": 224, "part": "dev"}
    )  # fmt: skip
    columns = "image=file,expression=text,box=xywh:box,width=w,height=h,split=part"
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.json", orient="records")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    for suffix in ("csv", "tsv", "json", "jsonl", "parquet"):
        data = load_dataset(tmp_path / f"a.{suffix}", columns=columns, images=TARGET, split="dev")
        assert found(data) == WANTED, suffix
    tsv = load_dataset(tables["vlmevalkit"], columns="image=base64:image,expression=question,box=xyxy_norm1:answer")
    assert len(tsv) == len(ROWS) and tsv[0].image().size == (224, 224)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("image=picture,expression=what", "lacks box: write, for example"),
        ("image=picture,expression=what,box=left", "takes a form of xyxy"),
        ("image=picture,expression=what,box=ltrb:left+top+wide+high", "takes a form of xyxy"),
        ("image=picture,expression=what,box=xywh:left+top", "one column or four"),
        ("image=file,expression=what,box=xywh:left+top+wide+high", "has no column file: it has picture, what"),
        ("picture", "takes image, expression, box"),
        ("image=picture,image=what,expression=what,box=xywh:left", "names image twice"),
        ("image=picture,expression=what,box=xywh:left+top+wide+high,width=wide", "width and height together"),
        ("image=picture,expression=what,box=xyxy:left+top+wide+high", "they look like x, y, w, h in pixels"),
    ],
)
def test_a_wrong_mapping_is_refused_in_one_line(columns, words):
    with pytest.raises(InputError, match=words) as error:
        load_dataset(TARGET / "sample.csv", columns=columns)
    assert len(str(error.value).splitlines()) == 1


def test_a_table_that_no_reader_knows_says_what_to_write():
    with pytest.raises(InputError, match="--columns image=COLUMN,expression=COLUMN,box=FORM:COLUMN") as error:
        load_dataset(TARGET / "sample.csv")
    assert "it has picture, what, left, top, wide, high" in str(error.value)


# -- images ----------------------------------------------------------------------------------------------------------
def coco(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (64, 48)).save(folder / name)


@pytest.mark.parametrize(
    "written",
    ["COCO_train2014_000000000042_57.jpg", "COCO_train2014_000000000042.jpg", "000000000042.jpg",
     "coco/train2014/COCO_train2014_000000000042.jpg", "train2017/000000000042.jpg"],
)  # fmt: skip
@pytest.mark.parametrize(
    "lies", ["train2014/COCO_train2014_000000000042.jpg", "train2017/000000000042.jpg", "000000000042.jpg"]
)
def test_spellings_of_coco_pictures(written, lies, tmp_path):
    coco((tmp_path / lies).parent, [Path(lies).name])
    row = {"image": written, "sent": "cat", "bbox": [0, 0, 10, 10], "width": 64, "height": 48}
    (tmp_path / "x.jsonl").write_bytes(lines([row]))
    assert load_dataset(tmp_path / "x.jsonl")[0].image().size == (64, 48)


def test_expressions_of_one_picture_share_its_id(tmp_path):
    rows = [
        {"image": f"COCO_train2014_000000000042_{i}.jpg", "sent": "a", "bbox": [0, 0, 9, 9], "width": 64, "height": 48}
        for i in range(3)
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_bytes(lines(rows))
    assert {s.image_id for s in load_dataset(tmp_path / "x.jsonl")} == {"COCO_train2014_000000000042.jpg"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_pictures_in_an_archive(kind, tmp_path):
    shutil.make_archive(str(tmp_path / "sample"), kind, TARGET, IMAGES)
    archive = tmp_path / f"sample.{kind}"
    data = load_dataset(TARGET / "REC_refcoco_sample.jsonl", images=archive)
    data[3].check_image()
    whole = load_dataset(TARGET / "REC_refcoco_sample.jsonl")
    assert np.array_equal(np.asarray(data[3].image()), np.asarray(whole[3].image()))
    unsized = load_dataset(TARGET / "vlm_r1_sample.json", images=archive)
    assert (unsized[0].width, unsized[0].height) == (224, 224)


def test_a_compressed_tar_is_refused_with_the_fix(tmp_path):
    shutil.make_archive(str(tmp_path / "sample"), "gztar", TARGET, IMAGES)
    data = load_dataset(TARGET / "REC_refcoco_sample.jsonl", images=tmp_path / "sample.tar.gz")
    with pytest.raises(InputError, match="compressed as a whole"):
        data[0].image()


def test_missing_pictures_of_forms_without_sizes(tmp_path):
    for name in ("vlm_r1_sample.json", "llava_sample.json"):
        shutil.copy(TARGET / name, tmp_path / name)
    data = load_dataset(
        tmp_path / "vlm_r1_sample.json"
    )  # pixels: the box is known, the image fails when it is asked for
    assert data[0].box == Box(*map(float, ROWS[0].box))
    with pytest.raises(InputError, match="image not found"):
        data[0].image()
    with pytest.raises(InputError, match="has no size of its image, which its box needs: image not found"):
        load_dataset(tmp_path / "llava_sample.json")


def test_llava_boxes_are_those_of_the_padded_square(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "wide.jpg")
    ask = "<image>\nPlease provide the bounding box coordinate of the region this sentence describes: bus"
    talk = [{"from": "human", "value": ask}, {"from": "gpt", "value": "[0.25, 0.375, 0.5, 0.75]"}]
    (tmp_path / "x.json").write_bytes(array([{"id": "1", "image": "wide.jpg", "conversations": talk}]))
    assert load_dataset(tmp_path / "x.json")[0].box == Box(160, 160, 320, 400)
    for answer, words in [
        ("[0.1, 0.1, 0.2, 0.2] and [0.3, 0.3, 0.4, 0.4]", "holds 2 boxes"),
        ("<ref>bus</ref><box>[[1, 2, 300, 400]]</box>", "thousandths"),
    ]:
        talk[1]["value"] = answer
        (tmp_path / "x.json").write_bytes(array([{"id": "1", "image": "wide.jpg", "conversations": talk}]))
        with pytest.raises(InputError, match=words):
            load_dataset(tmp_path / "x.json")
    talk[1]["value"] = "a bus"
    (tmp_path / "x.json").write_bytes(array([{"id": "1", "image": "wide.jpg", "conversations": talk}]))
    with pytest.raises(InputError, match="holds no expression with a box"):
        load_dataset(tmp_path / "x.json")


def test_coco_xywh_that_could_be_corners_is_warned_of(tmp_path):
    wide = [replace(r, box=(10, 10, 200, 200)) for r in ROWS]
    (tmp_path / "x.json").write_bytes(minigpt4(wide))
    with pytest.warns(UserWarning, match="would also be possible as x1, y1, x2, y2"):
        load_dataset(tmp_path / "x.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(TARGET / "minigpt4_sample.json")


@pytest.mark.slow
def test_the_command_line_gives_the_same_table_for_another_form(capsys, tmp_path):
    tables = []
    for name, options in (("refcoco_sample.jsonl", []), ("sample.csv", ["--columns", CSV_COLUMNS])):
        status, _, err = run(
            capsys, "evaluate", "--dataset", TARGET / name, *options, "--methods", "none,divprune", "--keep", "0.1",
            "--layer", "4", "--n", "6", "--out", tmp_path / name,
        )  # fmt: skip
        assert status == 0, err
        table = bl.Results.load(tmp_path / name).table.drop(columns=["dataset", "split", "prefill_ms", "decode_ms"])
        tables.append(table)
    pd.testing.assert_frame_equal(*tables)


def test_calibration_pictures_of_every_kind_of_source(tmp_path, tables):
    vlm = bl.load("grounder")
    for kind in ("zip", "tar"):
        shutil.make_archive(str(tmp_path / "sample"), kind, TARGET, IMAGES)
    folder = bl.calibration(vlm, TARGET / IMAGES, n=3)
    for source, options in [
        (tmp_path / "sample.zip", {}),
        (tmp_path / "sample.tar", {}),
        (TARGET / "REC_refcoco_sample.jsonl", {}),
        (tables["lmms-lab"], {}),
        (TARGET / "refcoco", {"split": "testA", "images": tmp_path / "sample.zip"}),
    ]:
        chosen = bl.calibration(vlm, source, n=3, **options)
        assert [image_name(a).split("/")[-1] for a in chosen.images] == [image_name(b) for b in folder.images], source
        assert all(
            np.array_equal(np.asarray(load_image(a)), np.asarray(load_image(b)))
            for a, b in zip(chosen.images, folder.images, strict=True)
        )
        is_pictures = source.suffix in (".zip", ".tar")
        assert isinstance(chosen.prompts, str) == is_pictures
        assert source_folder(source, **options) == (source if is_pictures else None)
    with pytest.raises(InputError, match="is no data set: leave split out"):
        bl.calibration(vlm, TARGET / IMAGES, split="testA")


def test_an_extra_that_is_missing_is_named(monkeypatch, tables):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'biaslab\[data\]'"):
        load_dataset(tables["lmms-lab"])
