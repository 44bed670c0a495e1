"""The lines that others add to the logs of a folder, read without what was there before."""

from __future__ import annotations

import pickle
import warnings

import pytest

from biaslab._util.jsonl import JsonLines
from biaslab.evaluation.log_growth import LogGrowth, heard
from biaslab.evaluation.sample_log import log_path


def records(*names):
    return [{"id": name} for name in names]


def test_new_lines_of_all_logs_are_counted_once_and_can_be_read(tmp_path):
    with JsonLines(log_path(tmp_path, 0)) as a:
        a.append({"id": "old"})
        growth = LogGrowth(tmp_path)
        assert growth.advanced() == 0
        with JsonLines(log_path(tmp_path, "host-1")) as b:
            for log, name in ((a, "a"), (b, "b"), (b, "c")):
                log.append({"id": name})
            assert growth.advanced() == 3 and growth.advanced() == 0
            elsewhere = pickle.loads(pickle.dumps(growth))
            b.append({"id": "d"})
            assert growth.advanced() == 1
            assert list(elsewhere.records()) == list(growth.records()) == records("a", "b", "c", "d")


@pytest.mark.parametrize("half", [b'{"id": "to', b'{"id": "' + b"x" * 200_000], ids=["short", "long"])
def test_a_torn_line_counts_when_it_is_written_again(tmp_path, half):
    path = log_path(tmp_path, 0)
    path.write_bytes(b'{"id": "old"}\n' + half)
    growth = LogGrowth(tmp_path)
    assert growth.advanced() == 0 and not list(growth.records())
    with JsonLines(path) as log:  # cuts the torn line
        log.append({"id": "torn"})
    assert list(growth.records()) == records("torn") and growth.advanced() == 1


def test_a_hearer_hears_to_the_end_and_what_it_raises_is_not_lost(tmp_path):
    counted = []
    with heard(LogGrowth(tmp_path), advance=counted.append), JsonLines(log_path(tmp_path, 0)) as log:
        log.append({"id": "a"})
    assert sum(counted) == 1

    def warn():
        warnings.warn("in doubt", FutureWarning, stacklevel=1)

    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(FutureWarning, match="in doubt"),
        heard(LogGrowth(tmp_path), warn, advance=counted.append),
    ):
        pass
