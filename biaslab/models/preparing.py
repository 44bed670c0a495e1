"""Preparing prompts in threads ahead of the model: how many, and a tokenizer of its own for each."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

import torch

from biaslab._util.arguments import whole_number
from biaslab._util.processes import usable_cores
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Preparers", "check_workers", "default_workers"]

_MOST = 4  # threads that keep up with a large model on 13 tiles (27 ms in its tower, some 70 ms to open and cut)

logger = logging.getLogger(__name__)


def check_workers(workers: int | None) -> None:
    """Refuse what is no number of threads.

    Raises
    ------
    InputError
        A negative number, or no whole one; None stands for the default.
    """
    if workers is not None and whole_number("workers", workers) < 0:
        raise InputError(f"workers must be 0 (none) or more, got {workers}")


def default_workers(device: torch.device, *, processes: int = 1) -> int:
    """Choose how many threads prepare images for a model on this device.

    Parameters
    ----------
    device : torch.device
    processes : int
        That share the cores of this machine.

    Returns
    -------
    int
        Up to 4, as the cores of this process allow, where the model is on a GPU; else 0: the model takes the cores
        itself, and threads beside it save nothing (``benchmarks/results/pictures.md``).
    """
    if device.type == "cpu":
        return 0
    return max(1, min(_MOST, usable_cores() // processes - 1))


class Preparers:
    """What threads prepare prompts with, while the model's own thread uses its tokenizer.

    A tokenizer holds the state of the call that it is in (padding, truncation): of 120 batches that three threads made
    with one, one lost its padding. Each thread has a copy. The image processor has no state, and is shared.

    Parameters
    ----------
    vlm : VLM
    workers : int, optional
        Threads that prepare at a time; 0: prepared in the thread that asks, with the model's own. Default: of
        :func:`default_workers`.
    processes : int
        That share the cores of this machine.

    Attributes
    ----------
    workers : int
        0 as well where the tokenizer cannot be copied.
    """

    def __init__(self, vlm: VLM, workers: int | None = None, *, processes: int = 1) -> None:
        self.workers = default_workers(vlm.device, processes=processes) if workers is None else workers
        self._free: SimpleQueue[VLM] = SimpleQueue()
        copies = [vlm]
        if self.workers:
            try:
                copies = [_with_its_own_tokenizer(vlm) for _ in range(self.workers)]
            except Exception as error:  # of a tokenizer that holds what cannot be copied
                logger.info("nothing is prepared ahead, the tokenizer cannot be copied: %s", error)
                self.workers = 0
        for each in copies:
            self._free.put(each)

    @contextmanager
    def one(self) -> Iterator[VLM]:
        """Lend one for the time of the block: `VLM.prepare` and `check_text` of it may be called beside the model."""
        vlm = self._free.get()
        try:
            yield vlm
        finally:
            self._free.put(vlm)


def _with_its_own_tokenizer(vlm: VLM) -> VLM:
    own = copy.copy(vlm)
    own.processor = copy.copy(vlm.processor)
    own.processor.tokenizer = copy.deepcopy(vlm.processor.tokenizer)
    return own
