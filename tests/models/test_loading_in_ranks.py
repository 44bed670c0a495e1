"""Where a rank of a launcher loads its model: on its own device, whole, never as a part of one."""

from __future__ import annotations

import pytest
import torch

from biaslab.errors import InputError
from biaslab.models import load
from biaslab.models.devices import chosen_device


@pytest.fixture
def rank(monkeypatch):
    def set_to(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


def test_a_map_over_all_devices_is_refused_where_ranks_share_them(rank):
    rank(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")
    with pytest.raises(InputError, match="device_map='auto' would put the models of all 2 processes .* leave it out"):
        load("grounder", device_map="auto")
    with pytest.raises(InputError, match="one process per machine, or srun with --gpus-per-task"):
        load("grounder", device_map="balanced")


def test_the_only_rank_of_a_machine_may_map_and_its_model_is_whole(rank, grounder):
    rank(RANK="1", WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    vlm = load("grounder", device_map="auto")
    assert not torch.distributed.is_initialized()  # no tensor parallelism, for which ranks would wait for each other
    assert [p.shape for p in vlm.model.parameters()] == [p.shape for p in grounder.model.parameters()]


def test_each_rank_has_the_device_of_its_place_among_those_it_sees(rank, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    seen = [4, 1, 8]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen[0])
    assert chosen_device(None) == torch.device("cuda", 0)
    rank(RANK="7", WORLD_SIZE="8", LOCAL_RANK="3", LOCAL_WORLD_SIZE="4")
    assert chosen_device(None) == torch.device("cuda", 3)
    seen.pop(0)  # srun --gpus-per-task=1 shows a task its own alone
    assert chosen_device(None) == torch.device("cuda", 0)
