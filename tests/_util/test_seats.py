"""Ranks of one command share a run folder, two commands do not."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest

from biaslab._util import seats
from biaslab._util.files import locked
from biaslab._util.launch import Launch
from biaslab._util.seats import party_of, seat, turn
from biaslab.errors import RunFolderError


def test_a_party_shares_the_folder(tmp_path):
    with ExitStack() as stack:
        for name in ("host-0", "host-1", "other-host-2"):
            stack.enter_context(seat(tmp_path, "aa", name))
        for party, name in (("aa", "host-1"), ("bb", "host-0"), ("bb", "host-7")):
            with pytest.raises(RunFolderError, match="another command is at work in .*: wait for it"):
                stack.enter_context(seat(tmp_path, party, name))
    with seat(tmp_path, "bb", "host-0"):
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == [".seat-bb-host-0.lock"]  # those that nobody holds are gone
        with pytest.raises(RunFolderError):
            stack.enter_context(seat(tmp_path, "aa", "host-0"))


def test_a_seat_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), seat(tmp_path, "aa", "0"):
        raise ZeroDivisionError
    with seat(tmp_path, "aa", "0"):
        pass


def test_turns_are_waited_for_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(seats, "_TURN_SECONDS", 0.1)
    with turn(tmp_path):
        pass
    with locked(tmp_path / "run.json"), pytest.raises(RunFolderError, match="is writing .*run.json"), turn(tmp_path):
        pass


def test_who_is_of_one_party():
    work = {"options": {"seed": 0}}, 3
    launch = Launch(rank=0, world_size=2, id="a")
    party = party_of(launch, *work)
    assert party == party_of(replace(launch, rank=1, local_rank=1, restart=3), *work)
    others = [
        (replace(launch, id="b"), *work),
        (replace(launch, world_size=3), *work),
        (launch, {"options": {"seed": 1}}, 3),
        (launch, {"options": {"seed": 0}}, 4),
    ]
    assert len({party, *(party_of(*other) for other in others)}) == 5
