"""File names that are no UTF-8, as of another system: what can be opened can be logged, on any terminal."""

from __future__ import annotations

import io
import json
import os
import sys

import pandas as pd
import pytest
from PIL import Image

import biaslab as bl
from biaslab._util.files import atomic_write
from biaslab._util.tables import write_table
from biaslab.cli import main
from biaslab.core.images import image_name, load_image
from biaslab.datasets.image_sources import find_images
from biaslab.datasets.opening import open_annotations
from biaslab.evaluation.results import read_samples
from biaslab.maps.base import fold_of

NAME = os.fsdecode(b"caf\xe9")


def on_a_terminal(monkeypatch, encoding, *arguments):
    """Exit status, and both streams, which refuse what their encoding lacks unless told otherwise."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as end:
            status = end.code or 0
    # click writes UTF-8 to a terminal that says ASCII, which such terminals mostly are
    encoding = "utf-8" if encoding == "ascii" else encoding
    return status, out.buffer.getvalue().decode(encoding), err.buffer.getvalue().decode(encoding)


@pytest.fixture
def data_set(tmp_path):
    rows = []
    for i, sample in enumerate(bl.load_dataset("scenes", n=2)):
        sample.image().save(tmp_path / f"{NAME}{i}.png")
        box = sample.box.as_tuple()
        row = {"image": f"{NAME}{i}.png", "sent": f"{sample.expression} \N{GRINNING FACE}", "bbox": box}
        rows.append({**row, "width": 224, "height": 224})
    path = tmp_path / f"{NAME}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_names_are_written_as_escapes(data_set, tmp_path):
    data = open_annotations(data_set)
    assert [s.image_id for s in data] == ["caf\\udce90.png", "caf\\udce91.png"] and data.split == "caf\\udce9"
    assert data[0].image().size == (224, 224) and len(data.hash) == 16
    pictures = find_images(tmp_path)
    assert [image_name(path) for path in pictures] == [s.image_id for s in data]
    assert load_image(pictures[0]).size == (224, 224) and 0 <= fold_of(image_name(pictures[0]), 5) < 5
    record = {"path": str(data_set)}
    text = atomic_write(tmp_path / "run.json", json.dumps(record, ensure_ascii=False)).read_text(encoding="utf-8")
    assert json.loads(text) == record  # the escape is JSON's own
    (table,) = write_table(pd.DataFrame({"image": [NAME]}, dtype=object), tmp_path / "t", None)
    assert "caf\\udce9" in table.read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_evaluation_logs_and_prints_them(data_set, tmp_path, monkeypatch):
    out = tmp_path / f"run-{NAME}"
    command = ["evaluate", "--dataset", data_set, "--methods", "none", "--out", out]
    status, printed, err = on_a_terminal(monkeypatch, "latin-1", *command)
    assert status == 0, err
    assert "wrote" in printed and "results.csv" in printed
    lines = read_samples(out, json.loads((out / "run.json").read_text(encoding="utf-8")))
    assert list(lines["image_id"]) == ["caf\\udce90.png", "caf\\udce91.png"] and lines["error"].isna().all()
    assert "caf\\udce9" in (out / "results.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_errors_print_on_any_terminal(encoding, data_set, tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "猫.png")
    (tmp_path / "猫.jsonl").write_text("{torn")
    cases = [
        (["prune", tmp_path / f"{NAME}7.png", "cat"], "image not found"),
        (["prune", tmp_path / "猫.png", NAME], "no UTF-8"),
        (["evaluate", "--dataset", tmp_path / "猫.jsonl", "--out", tmp_path / "o"], "line 1 is no JSON"),
        (["fit-bias", "--images", tmp_path / f"no-{NAME}"], "no calibration source"),
    ]
    for arguments, words in cases:
        status, _, err = on_a_terminal(monkeypatch, encoding, *arguments)
        assert status == 2 and words in err and len(err.splitlines()) == 1, err
