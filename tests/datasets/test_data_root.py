"""Where data are looked for: as they are named, below the data root, and what is said when they are nowhere."""

import json
import pickle
from pathlib import Path

import pytest
from commands import run
from PIL import Image

import biaslab as bl
from biaslab.datasets import DATASETS, load_dataset
from biaslab.datasets.calibration import calibration
from biaslab.datasets.data_root import VARIABLE, find_file, find_folder, places, resolve_data_root
from biaslab.datasets.opening import open_annotations
from biaslab.errors import InputError

ROW = {"image": "coco/train2014/a.jpg", "sent": "left cat", "bbox": [0, 0, 10, 10], "width": 64, "height": 48}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Another working directory than the data's, and no variable of the user's."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def root(tmp_path):
    """A data root with RefCOCO and COCO as ``data/README.md`` lays them out."""
    folder = tmp_path / "root"
    (folder / "coco" / "train2014").mkdir(parents=True)
    Image.new("RGB", (64, 48), (200, 0, 0)).save(folder / "coco" / "train2014" / "a.jpg")
    annotations(folder, ROW)
    return folder


def annotations(folder, *rows):
    path = folder / "refcoco" / "refcoco_mini.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


NAME = "refcoco/refcoco_mini.jsonl"


def test_as_given_comes_before_the_data_root(tmp_path, root):
    assert places(NAME, None) == [Path(NAME)]
    assert places(root / NAME, root) == [root / NAME]  # absolute: nowhere else
    assert find_file(NAME, None) is None and find_file("refcoco", root) is None
    assert find_file(NAME, root) == root / NAME and find_folder("refcoco", root) == root / "refcoco"
    here = annotations(tmp_path / "work", ROW, ROW)
    assert find_file(NAME, root).samefile(here)
    assert len(load_dataset(NAME, data_root=root)) == 2


def test_the_argument_comes_before_the_variable(root, tmp_path, monkeypatch):
    assert resolve_data_root() is None
    monkeypatch.setenv(VARIABLE, "")
    assert resolve_data_root() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other"))
    assert resolve_data_root() == tmp_path / "other" and resolve_data_root(root) == root
    with pytest.raises(InputError, match="other/refcoco"):
        load_dataset(NAME)
    assert len(load_dataset(NAME, data_root=root)) == 1
    monkeypatch.setenv(VARIABLE, str(root))
    assert len(load_dataset(NAME)) == len(bl.load_dataset("refcoco-jsonl", path=NAME)) == 1


def test_the_reader_itself_knows_no_variable(root, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(root))
    with pytest.raises(InputError, match="cannot read"):
        open_annotations(NAME)
    with pytest.raises(InputError, match="image not found"):
        open_annotations(root / NAME)[0].image()


@pytest.mark.parametrize("image", ["coco/train2014/a.jpg", "data/coco/train2014/a.jpg"])
def test_pictures_are_found_below_the_data_root(root, image):
    annotations(root, {**ROW, "image": image})
    data = bl.load_dataset("refcoco-jsonl", path=NAME, data_root=root)
    assert pickle.loads(pickle.dumps(data))[0].image().size == (64, 48)
    assert data.recipe == {"path": str(root / NAME), "data_root": str(root)}
    assert bl.load_dataset("refcoco-jsonl", **data.recipe)[0].image().size == (64, 48)


def test_an_explicit_image_folder_wins_and_is_the_only_one(root, tmp_path):
    Image.new("RGB", (64, 48), (0, 200, 0)).save(tmp_path / "work" / "a.jpg")
    data = load_dataset(NAME, images=tmp_path / "work", data_root=root)
    assert data[0].image().getpixel((9, 9))[1] > 150
    assert data.recipe == {"path": str(root / NAME), "images": str(tmp_path / "work")}
    (tmp_path / "work" / "a.jpg").unlink()
    with pytest.raises(InputError, match="image not found"):
        data[0].image()  # though the data root has it
    assert load_dataset(NAME, images="coco/train2014", data_root=root)[0].image().getpixel((9, 9))[0] > 150


def test_messages_name_every_place_and_the_fix(root, grounder):
    """In one line each."""
    annotations(root, {**ROW, "image": "coco/train2014/gone.jpg"})
    looks = {
        "data set": (lambda: load_dataset("no.jsonl", data_root=root), ["looked at no.jsonl,", root / "no.jsonl"]),
        "picture": (
            lambda: load_dataset(NAME, data_root=root)[0].image(),
            [root / "refcoco/coco/train2014/gone.jpg", root / "refcoco/gone.jpg", root / "coco/train2014/gone.jpg"],
        ),
        "image root": (
            lambda: load_dataset(NAME, images="vg", data_root=root)[0].image(),
            [root / "vg/gone.jpg", "at vg/coco/train2014/gone.jpg", "--image-root"],
        ),
        "calibration": (
            lambda: calibration(grounder, "photos", data_root=root),
            ["looked at photos,", root / "photos", "noise"],
        ),
    }
    for name, (look, words) in looks.items():
        with pytest.raises(InputError) as error:
            look()
        text = str(error.value)
        assert "\n" not in text and VARIABLE in text and "--data-root" in text, (name, text)
        assert all(str(word) in text for word in words), (name, text)


def test_calibration_pictures_are_found_below_the_data_root(root, grounder, monkeypatch):
    paths = calibration(grounder, "coco", data_root=root).images
    assert paths == [root / "coco" / "train2014" / "a.jpg"]
    monkeypatch.setenv(VARIABLE, str(root))
    assert calibration(grounder, "coco").images == paths
    assert calibration(grounder, "blank", n=2, data_root=root).name == "blank"  # names come first


def test_data_sets_without_files_need_no_data_root(root, monkeypatch):
    assert len(bl.load_dataset("scenes", n=2, data_root=root)) == len(load_dataset("scenes", n=2, data_root=root)) == 2
    monkeypatch.setitem(DATASETS._entries, "rooted", lambda data_root=None: data_root)
    assert bl.load_dataset("rooted", data_root=root) == root


def test_the_command_line_takes_the_option_or_the_variable(capsys, root, tmp_path, monkeypatch):
    plan = ["evaluate", "--dataset", NAME, "--methods", "none", "--dry-run", "--json", "--out", tmp_path / "run"]
    status, _, err = run(capsys, *plan)
    assert status == 2 and "--data-root" in err and len(err.splitlines()) == 1
    by_option = run(capsys, *plan, "--data-root", root)
    monkeypatch.setenv(VARIABLE, str(root))
    assert by_option[0] == 0 and run(capsys, *plan) == by_option
    status, _, err = run(capsys, *plan, "--data-root", tmp_path)
    assert status == 2 and str(tmp_path / NAME) in err  # the option wins over the variable
    status, out, _ = run(capsys, "fit-bias", "--images", "coco", "--dry-run", "--json")
    assert status == 0 and json.loads(out)
    for verb in ("evaluate", "fit-bias", "bench", "inspect"):
        assert VARIABLE in run(capsys, verb, "--help")[1]
