"""What a run lacks is shared out image by image, to no more processes than are of use."""

from __future__ import annotations

import torch
from toy_grounding import Toy

from biaslab.evaluation import sharing
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sharing import Plan, even_shares, share_of_cores, useful_processes
from biaslab.evaluation.worker import WorkItem, by_image

CONFIGS = configurations(("none", "random"), (0.5,), 2)
TASKS = [WorkItem(i, sample, (0, 1)) for i, sample in enumerate(Toy(14))]


def test_every_image_goes_to_one_process_and_none_has_much_more_to_do():
    for n in (1, 2, 3, 7, 9):
        shares = even_shares(TASKS, n)
        assert sorted(task.index for share in shares for task in share) == list(range(14))
        images = [{task.sample.image_id for task in share} for share in shares]
        assert sum(map(len, images)) == 7 and max(map(len, images)) - min(map(len, images)) <= 1
        assert all(len(group) == 2 for share in shares for group in by_image(share))


def test_shares_are_even_in_what_is_missing_not_in_images():
    tasks = [WorkItem(0, TASKS[0].sample, tuple(range(4))), *TASKS[2::2][:4]]
    heavy, light = even_shares([WorkItem(t.index, t.sample, t.missing) for t in tasks], 2)
    assert [task.index for task in heavy] == [0, 6] or len(heavy) < len(light)
    assert sum(len(task.missing) for task in heavy) == sum(len(task.missing) for task in light) == 6


def test_what_was_done_meanwhile_is_left_out(tmp_path):
    plan = Plan(CONFIGS, GenerationOptions(), 4, tmp_path, "party")
    first, second = (config.describe() for config in CONFIGS)
    left = plan.without(TASKS[:3], [{"id": "s0", **first}, {"id": "s0", **second}, {"id": "s2", **first}])
    assert [(task.sample.id, task.missing) for task in left] == [("s1", (0, 1)), ("s2", (1,))]


def test_no_more_processes_than_images_cores_or_gpus(caplog, monkeypatch):
    monkeypatch.setattr(sharing, "usable_cores", lambda: 4)
    assert [useful_processes(asked, images) for asked, images in ((6, 3), (99, 50), (2, 8), (3, 0))] == [3, 4, 2, 1]
    assert useful_processes(99, 50, devices=8) == 8
    assert caplog.messages == [
        "3 processes are used instead of 6: 3 images to do, 4 cores",
        "4 processes are used instead of 99: 50 images to do, 4 cores",
        "8 processes are used instead of 99: 50 images to do, 8 GPUs",
    ]


def test_a_process_computes_on_its_share_of_the_cores_and_gives_the_others_back(monkeypatch):
    monkeypatch.setattr(sharing, "usable_cores", lambda: 6)
    before = torch.get_num_threads()
    with share_of_cores(torch.device("cpu"), 3):
        assert torch.get_num_threads() == 2
    with share_of_cores(torch.device("cpu"), 8):
        assert torch.get_num_threads() == 1
    for device, processes in (("cpu", 1), ("cuda", 3)):
        with share_of_cores(torch.device(device), processes):
            assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
