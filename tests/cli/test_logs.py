"""What a command says while it works: on a terminal, without one, in a log file, when it is ended."""

import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
from commands import run

from biaslab._util import progress
from biaslab.cli.logs import Verbosity
from biaslab.errors import InputError
from biaslab.models import listing

LOGGER = logging.getLogger(progress.__name__)


@pytest.fixture
def slow_verb(monkeypatch):
    """``biaslab models`` in place of long work: it moves on by two of four steps and takes a tenth of a second."""

    def known_models():
        logging.getLogger("biaslab.models").info("reading the list")
        logging.getLogger("biaslab.models").warning("one is odd")
        with progress.progress_bar("collect", total=4, interval=0.03) as advance:
            advance(2)
            time.sleep(0.1)
        return []

    monkeypatch.setattr(listing, "known_models", known_models)


def test_without_a_terminal_there_are_plain_lines(capsys, slow_verb):
    status, out, err = run(capsys, "models", "--json")
    first, *lines = err.splitlines()
    assert status == 0 and first == "biaslab: one is odd" and len(lines) >= 2
    assert all(line.startswith("biaslab: collect: 2/4 (50 %), ") and line.endswith(" left") for line in lines)


def test_quiet_says_nothing_and_verbose_names_phases(capsys, slow_verb):
    before = [logging.getLogger(name).level for name in ("biaslab", progress.__name__, "transformers")]
    assert run(capsys, "models", "--json", "--quiet")[2] == ""
    assert "biaslab: reading the list\n" in run(capsys, "--verbose", "models", "--json")[2]
    assert "biaslab: collect\n" in run(capsys, "--verbose", "models", "--json")[2]
    assert run(capsys, "models", "--verbose", "--quiet")[::2] == (
        2, "biaslab: --quiet and --verbose exclude each other\n")  # fmt: skip
    assert [logging.getLogger(name).level for name in ("biaslab", progress.__name__, "transformers")] == before
    assert not logging.getLogger("biaslab").handlers


def test_a_log_file_gets_all_of_it(capsys, slow_verb, tmp_path):
    log = tmp_path / "new folder" / "run.log"
    assert run(capsys, "models", "--json", "--quiet", f"--log-file={log}")[::2] == (0, "")
    run(capsys, "models", "--nothing", "--log-file", log)  # a second command adds to it
    text = log.read_text()
    assert "INFO biaslab.models: reading the list" in text and "WARNING biaslab.models: one is odd" in text
    assert "ERROR biaslab: No such option: --nothing" in text
    assert run(capsys, "models", "--log-file", tmp_path)[0] == 2
    status, _, err = run(capsys, "models", "--log-file")
    assert (status, err) == (2, "biaslab: --log-file takes a file, as in --log-file run.log\n")


def test_a_warning_is_said_once(capsys, monkeypatch):
    monkeypatch.setattr(listing, "known_models", lambda: [warnings.warn(f"no {i % 2}", stacklevel=1) for i in range(6)])
    err = run(capsys, "models", "--json")[2]
    assert sorted(err.splitlines()[:2]) == ["biaslab: warning: no 0", "biaslab: warning: no 1"], err
    assert err.count("warning: no") == 2


@pytest.mark.parametrize("content", [b'{"identity": {}}\n', b"\x89PNG\r\n", b"a line of somebody else\n"])
def test_a_log_is_added_to_a_log_alone(capsys, slow_verb, tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    status, out, err = run(capsys, "models", "--log-file", tmp_path / "run.json")
    assert (status, out) == (2, "") and "is no log of biaslab: name another" in err and err.count("\n") == 1
    assert (tmp_path / "run.json").read_bytes() == content


def test_options_on_logging_stand_anywhere_but_behind_two_dashes():
    asked, others = Verbosity.taken_from(["--debug", "prune", "a.png", "--", "--quiet", "b"])
    assert asked == Verbosity(debug=True) and others == ["prune", "a.png", "--", "--quiet", "b"]
    with pytest.raises(InputError, match="takes a file"):
        Verbosity.taken_from(["--log-file", "--quiet"])


def test_a_bar_stands_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress_bar("collect", total=4, interval=0.01) as advance:
        advance(4)
        time.sleep(0.05)
    err = capsys.readouterr().err
    assert "4/4" in err and "left" not in err


def test_lines_go_to_stderr_where_nobody_set_up_logging(capsys):
    with progress.progress_bar("collect", total=None, interval=0.01) as advance:
        time.sleep(0.03)
        advance(1_500)
        time.sleep(0.03)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "collect: 0 s so far" and last == "collect: 1,500, 0 s so far"


@pytest.mark.parametrize(
    ("total", "before", "steps", "elapsed", "line"),
    [
        (8700, 0, 1740, 46, "evaluate: 1,740/8,700 (20 %), 37.8/s, 3 min left"),
        (100, 90, 5, 600, "evaluate: 95/100 (95 %), 0.5/min, 10 min left"),
        (10, 0, 0, 100, "evaluate: 0/10 (0 %), 2 min so far"),
        (60_000, 0, 1, 3600, "evaluate: 1/60,000 (0 %), 0.017/min, 59999 h 0 min left"),
    ],
)
def test_what_a_line_says(monkeypatch, total, before, steps, elapsed, line):
    lines = progress._Lines("evaluate", total, before)
    lines.advance(steps)
    lines.started = time.monotonic() - elapsed
    assert lines.line() == line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "verb", "said"),
    [
        (signal.SIGINT, 130, "evaluate", "what was finished is kept, the same command goes on from there"),
        (signal.SIGTERM, 143, "bench", "nothing is kept, the same command starts anew"),
    ],
)
def test_a_command_that_is_ended_says_what_is_kept(number, status, verb, said):
    code = (
        "import importlib, time\nfrom biaslab.cli import main\napp = importlib.import_module('biaslab.cli.app')\n"
        "def wait(*_, **__):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        f"app.import_verbs()\napp.app = wait\nmain(['{verb}'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        status, f"biaslab: interrupted: {said}\n")  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_log_file_that_becomes_unwritable_is_said_once_and_the_work_goes_on(capsys, slow_verb):
    status, out, err = run(capsys, "models", "--json", "--log-file", "/dev/full")
    first, *others = [line for line in err.splitlines() if "collect" not in line]
    assert status == 0 and out.startswith("{") and "biaslab: one is odd" in others + [first]
    assert sum("cannot be written any more" in line for line in err.splitlines()) == 1 and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_stdout_that_takes_nothing():
    command = f"{sys.executable} -m biaslab models"
    code = f"{command} | true; echo ${{PIPESTATUS[0]}}; {command} > /dev/full; echo $?"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"], "the reader has seen enough; the disk is full"
    assert done.stderr.count("\n") == 1 and "biaslab: stdout cannot be written (No space left" in done.stderr


def test_the_package_runs_as_a_module():
    shown = subprocess.run([sys.executable, "-m", "biaslab", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip().count(".") == 2
