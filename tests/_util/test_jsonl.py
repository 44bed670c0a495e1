"""The log: every line survives, a torn one is cut, nothing damaged is read over."""

from __future__ import annotations

import errno
import json

import pytest

from biaslab._util import jsonl
from biaslab._util.jsonl import JsonLines, read_lines, whole_lines
from biaslab.errors import RunFolderError

RECORDS = [{"id": f"s{i}", "answer": "left\ncat \u2028 ü", "box": [1.0, 2.5, 3.0, 4.0]} for i in range(3)]


def write(path, records):
    with JsonLines(path) as log:
        for record in records:
            log.append(record)


def test_lines_are_there_as_soon_as_they_are_appended(tmp_path):
    path = tmp_path / "samples-0.jsonl"
    with JsonLines(path) as log:
        for i, record in enumerate(RECORDS):
            log.append(record)
            assert list(read_lines(path)) == RECORDS[: i + 1]  # without close or flush


def test_appending_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "samples-0.jsonl"
    write(path, RECORDS[:1])
    write(path, RECORDS[1:])
    assert list(read_lines(path)) == RECORDS


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_ignored_and_then_cut(tmp_path, cut):
    path = tmp_path / "samples-0.jsonl"
    write(path, RECORDS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert list(read_lines(path)) == RECORDS[:2]
    write(path, RECORDS[2:])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\x00\x00\x00\n", b"\n", b'{"id": \n', b"[1]\n", b"7\n"])
def test_a_last_line_that_is_no_record_is_cut_too(tmp_path, tail):
    path = tmp_path / "samples-0.jsonl"
    write(path, RECORDS)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(read_lines(path)) == RECORDS
    write(path, [])
    assert path.read_bytes() == whole


def test_a_log_of_nothing_but_a_torn_line(tmp_path):
    path = tmp_path / "samples-0.jsonl"
    path.write_bytes(b'{"id"')
    assert list(read_lines(path)) == []
    write(path, RECORDS)
    assert list(read_lines(path)) == RECORDS


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "samples-0.jsonl"
    write(path, RECORDS)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"oops", *lines[2:]]))
    with pytest.raises(RunFolderError, match="line 2 is no sample record"):
        list(read_lines(path, kind="sample record"))
    path.write_bytes(b"\n".join(lines[:1]) + b"\noops\n{torn")
    assert list(read_lines(path)) == RECORDS[:1]  # both go when writing resumes
    write(path, RECORDS[1:])
    assert list(read_lines(path)) == RECORDS


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    path = tmp_path / "samples-0.jsonl"
    write(path, [{"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": float("-inf")}}])
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 1.0], "c": {"d": None}}


def test_two_writers_are_refused(tmp_path):
    path = tmp_path / "samples-0.jsonl"
    with JsonLines(path) as log:
        log.append(RECORDS[0])
        with pytest.raises(RunFolderError, match="another process is writing"):
            JsonLines(path)
        log.append(RECORDS[1])
    write(path, RECORDS[2:])
    assert list(read_lines(path)) == RECORDS


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(RunFolderError, match="choose another run folder"):
        JsonLines(tmp_path / "none" / "samples-0.jsonl")


@pytest.mark.parametrize("length", [1, 7, 64])
def test_a_long_last_line_is_looked_at_in_pieces(tmp_path, monkeypatch, length):
    monkeypatch.setattr(jsonl, "_TAIL", length)
    path = tmp_path / "log.jsonl"
    lines = [{"id": 0}, {"text": "x" * 500}, {"id": 2}]
    write(path, lines)
    with path.open("ab") as file:
        file.write(b'{"text": "' + b"y" * 300)
    write(path, [])
    assert list(read_lines(path)) == lines
    write(path, [{"text": "z" * 900}])
    assert len(list(read_lines(path))) == 4


def test_whole_lines_say_where_they_end(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\noops\n{"b": 2}\n{"c"')
    assert list(whole_lines(path)) == [({"a": 1}, 9), (None, 14), ({"b": 2}, 23)]
    with JsonLines(path) as log:
        log.cut(9)
        log.append({"b": 3})
    assert list(read_lines(path)) == [{"a": 1}, {"b": 3}]


def test_a_name_that_is_no_unicode_is_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, [{"id": "caf\udce9.png"}, {"id": "ü"}])
    assert list(read_lines(path)) == [{"id": "caf\udce9.png"}, {"id": "ü"}]
    assert "ü".encode() in path.read_bytes()


class _FullDisk:
    """An open file on a disk with room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_is_named_and_leaves_whole_lines(tmp_path):
    path = tmp_path / "samples-0.jsonl"
    with JsonLines(path) as log:
        log.append({"id": "a"})
        log._file = _FullDisk(log._file, room=5)
        with pytest.raises(RunFolderError, match="samples-0.jsonl: disk full; make room and run the same command"):
            log.append({"id": "b"})
        assert path.read_bytes() == b'{"id": "a"}\n'
        log._file.room = 100  # somebody made room
        log.append({"id": "c"})
    assert [record["id"] for record in read_lines(path)] == ["a", "c"]
