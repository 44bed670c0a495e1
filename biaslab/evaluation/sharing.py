"""What a run still lacks, shared out image by image, and what one process does of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from biaslab._util.jsonl import JsonLines
from biaslab._util.processes import usable_cores
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sample_log import log_path
from biaslab.evaluation.schema import record_key
from biaslab.evaluation.worker import Worker, WorkItem, by_image

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Plan", "even_shares", "share_of_cores", "useful_processes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What the processes of one command have in common; it can go to another process.

    Attributes
    ----------
    folder : Path
        The run folder, where all of them can write.
    party : str
        Of :func:`biaslab._util.seats.party_of`.
    workers : int, optional
        Threads of each process that prepare images ahead of the model.
    """

    configs: Sequence[Config]
    options: GenerationOptions
    batch_size: int
    folder: Path
    party: str
    workers: int | None = None

    def run(self, vlm: VLM, tasks: Sequence[WorkItem], writer: str, advance: Callable[[int], None]) -> None:
        """Evaluate tasks in this process, into the log of this writer."""
        with JsonLines(log_path(self.folder, writer)) as log:

            def write(line: dict) -> None:
                log.append(line)
                advance(1)

            Worker(vlm, self.configs, self.options, write, self.workers).run(tasks, self.batch_size)

    def without(self, tasks: Iterable[WorkItem], records: Iterable[dict]) -> list[WorkItem]:
        """Leave out what has been done since the tasks were listed."""
        done = {(record["id"], record_key(record)) for record in records}
        keys = [config.key for config in self.configs]
        left = [
            WorkItem(task.index, task.sample, tuple(i for i in task.missing if (task.sample.id, keys[i]) not in done))
            for task in tasks
        ]
        return [task for task in left if task.missing]


def even_shares(tasks: Iterable[WorkItem], n: int) -> list[list[WorkItem]]:
    """Share tasks out to ``n`` processes: every image to one of them, each the next one to whom has least to do."""
    shares: list[list[WorkItem]] = [[] for _ in range(n)]
    lines = [0] * n
    for image in by_image(tasks):
        least = lines.index(min(lines))
        shares[least] += image
        lines[least] += sum(len(task.missing) for task in image)
    return shares


def useful_processes(asked: int, images: int, devices: int | None = None) -> int:
    """Limit the processes to what there is to do and to compute with, and say so.

    Parameters
    ----------
    asked, images : int
    devices : int, optional
        GPUs; None on the CPU, whose cores count.
    """
    limit, what = (usable_cores(), "cores") if devices is None else (devices, "GPUs")
    used = max(1, min(asked, images, limit))
    if used < asked and images:
        logger.warning("%d processes are used instead of %d: %d images to do, %d %s", used, asked, images, limit, what)
    return used


@contextmanager
def share_of_cores(device: torch.device, processes: int) -> Iterator[None]:
    """Compute on this process's share of the cores while the block lasts; on a GPU nothing is changed."""
    before = torch.get_num_threads()
    if device.type == "cpu" and processes > 1:
        torch.set_num_threads(max(1, usable_cores() // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)
