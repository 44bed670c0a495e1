"""The logs of a run folder: which they are, and their lines."""

from __future__ import annotations

import pytest

from biaslab._util.jsonl import JsonLines
from biaslab.errors import RunFolderError
from biaslab.evaluation.sample_log import log_files, log_path, sample_lines

CONFIG = {"method": "none", "options_hash": "", "profile_hash": "", "keep": 1.0, "layer": None}
RECORDS = [{"id": f"s{i}", "index": i, "error": None, **CONFIG} for i in range(3)]


def write(path, records):
    with JsonLines(path) as log:
        for record in records:
            log.append(record)


def test_lines_of_all_processes(tmp_path):
    write(log_path(tmp_path, 1), RECORDS[1:])
    write(log_path(tmp_path, 0), RECORDS[:1])
    assert log_files(tmp_path) == [tmp_path / "samples-0.jsonl", log_path(tmp_path, 1)]
    assert list(sample_lines(tmp_path)) == RECORDS
    log_path(tmp_path, 1).write_bytes(log_path(tmp_path, 0).read_bytes() + b'{"a": 1}\n')
    with pytest.raises(RunFolderError, match="samples-1.jsonl, line 2 is no sample record: delete that line"):
        list(sample_lines(tmp_path))
    log_path(tmp_path, 1).write_bytes(b'oops\n{"id": "s2"}\n')
    with pytest.raises(RunFolderError, match="samples-1.jsonl, line 1 is no sample record: delete that line"):
        list(sample_lines(tmp_path))
