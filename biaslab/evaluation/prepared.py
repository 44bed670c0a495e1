"""Batches of an evaluation before the model sees them: images opened and cut, prompts tokenized, failures kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from biaslab.core.images import load_image
from biaslab.datasets.sample import Sample
from biaslab.evaluation.prompts import prompt_of
from biaslab.evaluation.run_once import check_text
from biaslab.models.preparing import Preparers

if TYPE_CHECKING:
    from PIL import Image

    from biaslab.evaluation.worker import WorkItem
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["PreparedBatch", "prepare", "prepare_batch"]

Ready = list[tuple["WorkItem", "Image.Image"]]


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """A batch that is ready for the model.

    Attributes
    ----------
    ready : list of (WorkItem, PIL image)
        The tasks whose image could be opened and whose text the model takes.
    failed : list of (WorkItem, Exception)
        The others, in the order of their lines.
    prompts : Encoded or Exception
        Of the ready ones, not yet sent to the device, or why they could not be made as one batch.
    """

    ready: Ready
    failed: list[tuple[WorkItem, Exception]]
    prompts: Encoded | Exception


def prepare_batch(preparers: Preparers, batch: Sequence[WorkItem]) -> PreparedBatch:
    """Prepare a batch, in whatever thread; nothing is written and nothing raised for a bad sample.

    Neighbours that show the same image have it opened once.

    Parameters
    ----------
    preparers : Preparers
    batch : sequence of WorkItem

    Returns
    -------
    PreparedBatch
    """
    with preparers.one() as vlm:
        opened: Ready = []
        failed: list[tuple[WorkItem, Exception]] = []
        for task in batch:
            try:
                opened.append((task, _picture(task.sample, opened)))
            except Exception as error:
                failed.append((task, error))
        ready: Ready = []
        for item in opened:
            try:  # found out for each by itself: a text that is too long must not pad its whole batch
                check_text(vlm, prompt_of(vlm.family, item[0].sample))
                ready.append(item)
            except Exception as error:
                failed.append((item[0], error))
        try:
            return PreparedBatch(ready, failed, prepare(vlm, ready))
        except Exception as error:
            return PreparedBatch(ready, failed, error)


def prepare(vlm: VLM, ready: Ready) -> Encoded:
    """Make the prompts of tasks, not yet sent to the device."""
    samples = [task.sample for task, _ in ready]
    prompts = [prompt_of(vlm.family, sample) for sample in samples]
    return vlm.prepare([image for _, image in ready], prompts, sample_ids=[sample.id for sample in samples])


def _picture(sample: Sample, opened: Ready) -> Image.Image:
    if opened:
        task, image = opened[-1]
        if task.sample.image_id == sample.image_id and _same(task.sample, sample):
            return image
    return load_image(sample)


def _same(a: Sample, b: Sample) -> bool:
    """Whether two samples say that they open the same image in the same way; a loader need not know an answer."""
    try:
        return bool(_parts(a.loader) == _parts(b.loader))
    except Exception:
        return False


def _parts(loader: Any) -> Any:
    """Return what makes two loaders equal: a function with some of its arguments given is each time a new object."""
    return (loader.func, loader.args, loader.keywords) if isinstance(loader, partial) else loader
