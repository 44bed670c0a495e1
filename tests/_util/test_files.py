"""Files are whole or not there, readable like others, and written by one process at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from biaslab._util import files
from biaslab._util.files import atomic_write, locked, writing_to
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


@pytest.mark.skipif(os.name == "nt", reason="processes of POSIX")
def test_drafts_of_killed_processes_go_and_those_of_others_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    start = f".card.md.{files._HOST}"
    left = [f"{start}.{ended.pid}.tmp", f"{start}.{os.getppid()}.tmp", f".card.md.elsewhere.{ended.pid}.tmp",
            f".other.md.{files._HOST}.{ended.pid}.tmp"]  # fmt: skip
    for name in left:
        (tmp_path / name).write_text("half")
    atomic_write(tmp_path / "card.md", "# Card")
    assert sorted(os.listdir(tmp_path)) == sorted(["card.md", *left[1:]])


def test_errors_name_the_file_and_the_fix(tmp_path):
    (tmp_path / "card.md").mkdir()
    with pytest.raises(OSError) as caught:
        atomic_write(tmp_path / "card.md", "# Card")
    assert caught.value.filename == str(tmp_path / "card.md") and caught.value.filename2 is None
    with pytest.raises(RunFolderError, match="cannot write runs/x .*: choose another folder"), writing_to("runs/x"):
        atomic_write(tmp_path / "card.md", "# Card")

    def full(draft):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFolderError, match="new.csv: disk full; make room and run"), writing_to("the table x"):
        atomic_write(tmp_path / "new.csv", full)
    assert os.listdir(tmp_path) == ["card.md"]


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
