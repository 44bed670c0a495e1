"""No worker outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time

from biaslab._util.processes import usable_cores

CODE = """
import time
from multiprocessing import get_context
from biaslab._util.processes import end_with_parent

def work(connection):
    end_with_parent()
    connection.send(None)
    time.sleep(600)

if __name__ == "__main__":
    here, there = get_context("spawn").Pipe()
    worker = get_context("spawn").Process(target=work, args=(there,))
    worker.start()
    here.recv()
    print(worker.pid, flush=True)
    time.sleep(600)
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(CODE)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while alive(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(worker)


def alive(pid):
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cores_are_those_of_this_process():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
