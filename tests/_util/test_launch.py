"""What launchers set becomes the place of a process; what is no launch is one process."""

from __future__ import annotations

import pytest

from biaslab._util.launch import Launch
from biaslab.errors import InputError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x",
            "TORCHELASTIC_RESTART_COUNT": "2"}  # fmt: skip
JOB = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = {**JOB, "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "4,3"}  # fmt: skip


def test_torchrun():
    launch = Launch.from_environment(TORCHRUN)
    assert launch == Launch(rank=3, world_size=8, local_rank=1, local_world_size=2, id="x", restart=2)
    assert Launch.from_environment({**SRUN, **TORCHRUN}) == launch  # torchrun within srun
    assert str(launch) == "rank 3 of 8" and launch.writer.endswith("-3")


def test_srun():
    launch = Launch.from_environment(SRUN)
    assert launch == Launch(rank=5, world_size=7, local_rank=1, local_world_size=3, id="7.0")
    assert Launch.from_environment({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}).local_world_size == 4
    assert Launch.from_environment({**SRUN, "SLURM_GPUS_PER_TASK": "2"}).own_devices


def test_the_three_variables_alone_are_a_launch():
    for rank in (0, 1):
        launch = Launch.from_environment({"SLURM_PROCID": str(rank), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(rank)})
        assert launch == Launch(rank=rank, world_size=2, local_rank=rank, local_world_size=2)
        launch = Launch.from_environment({"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)})
        assert launch == Launch(rank=rank, world_size=2, local_rank=rank, local_world_size=2)


def test_a_batch_script_that_calls_no_srun_is_one_process(recwarn):
    with pytest.warns(UserWarning, match="`srun biaslab ...` uses all 8 tasks"):
        assert Launch.from_environment(JOB).alone
    assert Launch.from_environment({**JOB, "SLURM_NTASKS": "1"}).alone and not recwarn


def test_no_launcher():
    assert Launch.from_environment({}) == Launch() and Launch().alone and Launch().writer == "0"
    assert Launch.from_environment({"WORLD_SIZE": "4"}).alone


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is no process of WORLD_SIZE=2: start it with"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, got 'two'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK must be a whole number"),
        ({**TORCHRUN, "LOCAL_RANK": "x"}, "LOCAL_RANK must be a whole number"),
    ],
)
def test_bad_variables(environ, message):
    with pytest.raises(InputError, match=message):
        Launch.from_environment(environ)


def test_every_name_is_taken_by_one_rank_and_shares_are_even():
    names = [f"COCO_train2014_{i:012d}.jpg" for i in range(4000)] + ["bild \udcff"]
    for world in (1, 2, 3, 8):
        taken = [[name for name in names if Launch(rank=r, world_size=world).takes(name)] for r in range(world)]
        assert sorted(sum(taken, [])) == sorted(names)
        assert max(map(len, taken)) < 1.15 * len(names) / world
