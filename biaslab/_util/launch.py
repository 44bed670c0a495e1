"""Which process of how many this one is, as torchrun, accelerate and Slurm tell it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from biaslab.errors import InputError

__all__ = ["Launch"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The place of this process among those that one command started.

    Attributes
    ----------
    rank, world_size : int
        Which process of how many, over all machines.
    local_rank, local_world_size : int
        The same on this machine.
    id : str
        What the launcher calls this start; the same for all of its processes, empty where the variables were set by
        hand.
    restart : int
        How often the launcher has started these processes again.
    own_devices : bool
        Whether the launcher shows each process of a machine other devices (``srun --gpus-per-task``).

    Examples
    --------
    >>> from biaslab._util.launch import Launch
    >>> Launch().alone
    True
    >>> second = Launch.from_environment({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    >>> second.rank, second.world_size, second.alone
    (1, 2, False)
    >>> [name for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg") if second.takes(name)]
    ['a.jpg', 'd.jpg']
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    id: str = ""
    restart: int = 0
    own_devices: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Launch:
        """Read what the launcher set; the only place where it is read.

        ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` of torchrun and ``accelerate launch`` come before the variables of
        ``srun``. A batch script of Slurm that calls a command without srun is one process, however many tasks its
        job has.

        Parameters
        ----------
        environ : mapping of str to str, optional
            Default: ``os.environ``.

        Raises
        ------
        InputError
            Variables that are no numbers, or no rank of that many.
        """
        environ = os.environ if environ is None else environ
        if "WORLD_SIZE" in environ and "RANK" in environ:
            return cls._of(
                environ, "RANK", "WORLD_SIZE", "LOCAL_RANK",
                local_world_size=_number(environ, "LOCAL_WORLD_SIZE", _number(environ, "WORLD_SIZE", 1)),
                id=environ.get("TORCHELASTIC_RUN_ID", ""),
                restart=_number(environ, "TORCHELASTIC_RESTART_COUNT", 0),
            )  # fmt: skip
        if "SLURM_PROCID" not in environ or "SLURM_NTASKS" not in environ:
            return cls()
        if "SLURM_JOB_ID" in environ and not {"SLURM_STEP_ID", "SLURM_STEPID"} & environ.keys():
            if _number(environ, "SLURM_NTASKS", 1) > 1:
                warnings.warn(
                    "this process was not started by srun and works alone: `srun biaslab ...` uses all "
                    f"{environ['SLURM_NTASKS']} tasks",
                    stacklevel=2,
                )
            return cls()
        size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        return cls._of(
            environ, "SLURM_PROCID", size, "SLURM_LOCALID",
            local_world_size=_tasks_here(environ, _number(environ, size, 1)),
            id=".".join(environ[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if name in environ),
            own_devices="SLURM_GPUS_PER_TASK" in environ,
        )  # fmt: skip

    @classmethod
    def _of(cls, environ: Mapping[str, str], rank: str, size: str, local: str, **others: object) -> Launch:
        index, world = _number(environ, rank, 0), _number(environ, size, 1)
        if not 0 <= index < world:
            raise InputError(
                f"{rank}={index} is no process of {size}={world}: start it with torchrun or srun, or unset both"
            )
        return cls(rank=index, world_size=world, local_rank=_number(environ, local, index), **others)  # type: ignore[arg-type]

    @property
    def alone(self) -> bool:
        """Whether no other process was started with this one."""
        return self.world_size == 1

    @property
    def writer(self) -> str:
        """Name what this process writes by itself: no other process of the launch, on any machine, has the name."""
        host = re.sub(r"[^\w-]", "-", platform.node()) or "host"
        return "0" if self.alone else f"{host}-{self.rank}"

    def takes(self, name: str) -> bool:
        """Whether a thing of this name is this process's work: every name is that of exactly one rank."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.world_size == self.rank

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit():
        raise InputError(f"{name} must be a whole number, got {text!r}: start with torchrun or srun, or unset it")
    return int(text)


def _tasks_here(environ: Mapping[str, str], world: int) -> int:
    """Read the tasks of this node from Slurm's ``4(x2),3``."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or str(world)
    counts: list[int] = []
    for part in text.split(","):
        if found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip()):
            counts += [int(found[1])] * int(found[2] or 1)
    node = _number(environ, "SLURM_NODEID", 0)
    return counts[node] if node < len(counts) else min(world, max(counts, default=world))
