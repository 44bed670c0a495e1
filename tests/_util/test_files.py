"""Files are whole or not there, readable like others, and written by one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from biaslab._util.files import atomic_write, locked
from biaslab.errors import RunFolderError


@pytest.mark.parametrize("content", ["ü\n", b"\x00\xff", lambda path: path.write_text("x")])
def test_what_is_written(tmp_path, content):
    path = tmp_path / "file.txt"
    path.write_text("old, and longer than the new one")
    assert atomic_write(path, content) == path
    expected = {str: "ü\n".encode(), bytes: b"\x00\xff"}.get(type(content), b"x")
    assert path.read_bytes() == expected and os.listdir(tmp_path) == ["file.txt"]


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def torn(draft):
        draft.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, torn)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]
    with pytest.raises(OSError):
        atomic_write(tmp_path / "none" / "file.txt", "text")


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("content")
    with locked(path):
        with pytest.raises(RunFolderError, match="another process is writing .*log.jsonl"), locked(path):
            pass
        with locked(tmp_path / "other.jsonl"):
            pass
    with locked(path):
        assert path.read_text() == "content"


def test_a_lock_holds_between_processes_and_ends_with_them(tmp_path):
    path = tmp_path / "log.jsonl"
    script = (
        "import sys; from biaslab._util.files import locked\n"
        f"with locked({str(path)!r}):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="another process"), locked(path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(path):
        pass


def test_where_nothing_can_be_locked_work_goes_on(tmp_path):
    with locked(tmp_path / "none" / "log.jsonl"):
        pass
