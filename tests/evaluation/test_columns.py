"""Results from columns, beginnings of lines and samples.parquet equal those of the plain way, to the digit."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import slow_results

from benchmarks.log_generator import write_run
from biaslab._util import jsonl
from biaslab._util.jsonl import JsonLines
from biaslab.errors import RunFolderError
from biaslab.evaluation.kept_tokens import kept_tokens
from biaslab.evaluation.line_heads import read_heads
from biaslab.evaluation.line_store import PARQUET_FILE, read_store
from biaslab.evaluation.results import Results, read_samples
from biaslab.evaluation.run_folder import read_run
from biaslab.evaluation.verdicts import read_verdicts, verdicts_of

EXPRESSIONS, IMAGES = 240, 160  # some 120 have an expression: percentile intervals too


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "run"
    write_run(folder, expressions=EXPRESSIONS, images=IMAGES, tokens=24)
    _disturb(folder)
    return folder


def _disturb(folder):
    """What a real log has: second tries, lines of other configurations, other names and orders, a torn end."""
    path = folder / "samples-0.jsonl"
    lines = path.read_text().splitlines()
    early = json.loads(lines[5])
    early["kind"], early["size_class"] = early.pop("expression_type"), early.pop("object_size")
    for name in ("sample_hash", "truncated", "kept"):
        early.pop(name)
    lines[5] = json.dumps(early)
    other = json.loads(lines[7])
    again = json.loads(lines[9])
    failed = next(json.loads(line) for line in lines if '"error": "' in line)
    fresh = json.loads(lines[11]) | {name: failed[name] for name in ("index", "id", "image_id", *slow_results.KEYS)}
    more = [
        other | {"keep": 0.31}, again | {"error": "late", "hit": None, "iou": None}, fresh | {"error": "late"}, fresh,
        again | {"answer": 'quotes " and {"index": 1', "iou": 0.123, "hit": False},
    ]  # fmt: skip
    path.write_text("\n".join([*lines, *map(json.dumps, more)]) + '\n{"index": 3, "id": "torn')


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def configs_of(folder):
    return read_run(folder)["identity"]["configurations"]


def same_numbers(frame, slow):
    assert len(frame) == len(slow) > 0
    for name in slow:
        text = name in ("expression_type", "method", "options_hash", "profile_hash")
        a, b = (
            part[name].to_numpy(object if text else float, na_value=None if text else np.nan) for part in (frame, slow)
        )
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.slow
def test_tables_are_those_of_the_plain_way_to_the_digit(folder):
    results, configs = Results.load(folder, n_resamples=300), configs_of(folder)
    same_numbers(results.table, slow_results.table(folder, configs, 300))
    same_numbers(results.differences("none"), slow_results.differences(folder, configs, "none", 300))


@pytest.mark.slow
def test_verdicts_are_the_samples_without_texts(folder, monkeypatch):
    run = read_run(folder)
    found, plain = read_verdicts(folder, run), verdicts_of(read_samples(folder, run))
    shared = [name for name in plain if name in found]
    assert set(plain) <= set(found) and len(plain) == EXPRESSIONS * 29
    as_text = dict.fromkeys(plain.select_dtypes("category").columns, object)
    pd.testing.assert_frame_equal(
        found[shared].astype(as_text), plain.astype(as_text), check_dtype=False, check_index_type=False
    )
    monkeypatch.setattr(jsonl, "orjson", None)
    pd.testing.assert_frame_equal(read_verdicts(folder, run), found)


def test_beginnings_of_lines_tell_what_whole_lines_tell(folder):
    run = read_run(folder)
    heads, whole = read_heads(folder, run), read_verdicts(folder, run)

    def told(frame):
        return {(i, k, e if isinstance(e, str) else None) for i, k, e in frame[["id", "key", "error"]].to_numpy()}

    assert len(heads) == len(whole) and told(heads) == told(whole)


@pytest.mark.parametrize("damage", ['{"index": 1, "id": "a', "[1]", '{"index": 3}'])
def test_a_damaged_line_is_named_by_every_reader(folder, damage):
    path = folder / "samples-1.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = damage + lines[3] if damage.endswith("a") else damage  # the first: a torn line joined with the next
    path.write_text("\n".join(lines) + "\n")
    for read in (read_heads, read_verdicts, read_samples):
        with pytest.raises(RunFolderError, match="samples-1.jsonl, line 4 is no sample record: delete that line"):
            read(folder, read_run(folder))


@pytest.mark.slow
class TestParquet:
    @pytest.fixture(autouse=True)
    def written(self, folder):
        pytest.importorskip("pyarrow")
        path = folder / "samples-0.jsonl"
        path.write_text(path.read_text().rsplit("\n", 1)[0] + "\n")
        self.run, self.folder = read_run(folder), folder
        results = Results.load(folder, n_resamples=20)
        assert results.complete
        results.save()
        assert (folder / PARQUET_FILE).is_file()

    def test_it_is_read_in_place_of_the_logs_and_equals_them(self):
        stored, read = read_store(self.folder, self.run), read_verdicts(self.folder, self.run)
        as_text = dict.fromkeys(stored.select_dtypes("category").columns, object)
        pd.testing.assert_frame_equal(stored.astype(as_text), read[list(stored)].astype(as_text))
        heads = read_heads(self.folder, self.run)
        assert len(heads) == len(read) and list(heads) == ["id", "error", "key"]

    def test_it_holds_every_field_in_order(self):
        frame = pd.read_parquet(self.folder / PARQUET_FILE)
        samples = read_samples(self.folder, self.run)
        assert frame["id"].tolist() == samples["id"].tolist()
        rows = [0, 5, 333, len(frame) - 1]
        for i in rows:
            assert json.loads(frame["info"][i]) == samples["info"][i]
            assert (frame["box"][i] is None and samples["box"][i] is None) or list(frame["box"][i]) == samples["box"][i]
            assert frame["answer"][i] == samples["answer"][i] and list(frame["target"][i]) == samples["target"][i]
        assert "note" not in frame and frame["kept"].notna().sum() == samples["kept"].notna().sum() > 0

    def test_what_is_not_made_of_these_logs_is_passed_over(self):
        path = self.folder / "samples-1.jsonl"
        os.utime(path, ns=(1, 1))
        assert read_store(self.folder, self.run) is not None, "touched, but of the same content"
        text = path.read_bytes()
        path.write_bytes(text.replace(b'"iou": 0.', b'"iou": 1.', 1))
        assert read_store(self.folder, self.run) is None, "of the same size, but changed"
        path.write_bytes(text)
        more = json.loads(text.splitlines()[0])
        with JsonLines(path) as log:
            log.append(more)
        assert read_store(self.folder, self.run) is None, "grown"
        Results.load(self.folder, n_resamples=20).save()
        assert read_store(self.folder, self.run) is not None, "written anew"
        fewer = json.loads(json.dumps(self.run))
        fewer["identity"]["configurations"].pop()
        assert read_store(self.folder, fewer) is None, "other configurations"
        (self.folder / PARQUET_FILE).write_bytes(b"PAR1 no more")
        assert read_store(self.folder, self.run) is None, "damaged"
        shutil.copy(self.folder / "samples-1.jsonl", self.folder / "samples-2.jsonl")
        assert read_store(self.folder, self.run) is None, "one log more"

    def test_an_incomplete_run_has_none(self, tmp_path):
        part = shutil.copytree(self.folder, tmp_path / "part")
        (part / PARQUET_FILE).unlink()
        (part / "samples-1.jsonl").unlink()
        Results.load(part, n_resamples=20).save()
        assert not (part / PARQUET_FILE).exists()

    def test_lines_that_came_while_the_results_were_read_are_not_claimed(self):
        (self.folder / PARQUET_FILE).unlink()
        results = Results.load(self.folder, n_resamples=20)
        line = json.loads((self.folder / "samples-1.jsonl").read_text().splitlines()[0])
        with JsonLines(self.folder / "samples-1.jsonl") as log:
            log.append(line)
        results.save()
        assert not (self.folder / PARQUET_FILE).exists()


def test_kept_tokens_of_lines(folder):
    for line in slow_results.lines_of(folder, configs_of(folder))[:200]:
        kept = kept_tokens(line)
        if line["error"] is not None or "kept" not in line and line["tokens_kept"] < line["tokens"]:
            assert kept is None
        else:
            assert kept.sum() == line["tokens_kept"] and len(kept) == line["tokens"]
