"""Fits the student of the conditional profile to its teacher, on mini-batches read from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from biaslab._util.ahead import ahead
from biaslab._util.progress import progress_bar
from biaslab.errors import InputError
from biaslab.maps.base import fold_of
from biaslab.maps.stored import StoredMaps
from biaslab.profiles.lookahead.student import Student, places
from biaslab.profiles.lookahead.teacher import Teacher

__all__ = ["Lessons", "Options", "fit_student"]

_HELD_OUT = 10  # one image of so many is held out
_SHAPE = 0.02  # weight of the squared difference of standardised maps beside the cross entropy
_READERS = 2  # threads that read for a GPU; each holds a batch
_LEAST = 1e-3  # added to a standard deviation over an image that is divided by


@dataclass(frozen=True)
class Options:
    """How a student is fitted; see `biaslab.profiles.LookaheadProfile`."""

    rank: int
    reads: bool
    sharpness: float
    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True, eq=False)
class Batch:
    """B images with their questions, padded: what `Student.forward` takes, and the teacher's maps (B, N).

    Features are in half precision, as they are kept: half as much goes to a GPU, where they become float32.
    """

    visual: Tensor
    place: Tensor
    text: Tensor
    shown: Tensor
    said: Tensor
    target: Tensor

    def pinned(self) -> Batch:
        """Copy to memory that a GPU reads by itself, but for what stays on the host."""
        moved = {f.name: getattr(self, f.name).pin_memory() for f in fields(self) if f.name != "said"}
        return replace(self, **moved)


class Lessons:
    """Images of stored maps, with the features and the teacher's maps that go with them; read when asked for.

    Parameters
    ----------
    maps : StoredMaps
        With features.
    teacher : Teacher
    targets : (values,) array
        The teacher's maps one after the other (`prepared` makes them).
    """

    def __init__(self, maps: StoredMaps, targets: np.ndarray, starts: np.ndarray) -> None:
        self.maps, self.features = maps, maps.features
        self._targets, self._starts = targets, starts
        self._places: dict[str, np.ndarray] = {}

    @classmethod
    @contextmanager
    def prepared(cls, maps: StoredMaps, teacher: Teacher, *, debiased: bool, show: bool) -> Iterator[Lessons]:
        """Make the teacher's maps of all images, in a file beside the maps that is gone after the block."""
        records = [maps.record(i) for i in range(maps.n)]
        starts = np.concatenate([[0], np.cumsum([record.layout.n for record in records])])
        with tempfile.TemporaryFile(dir=maps.folder) as file:
            targets = np.memmap(file, dtype=np.float32, mode="w+", shape=(int(starts[-1]),))
            with progress_bar("teacher", total=maps.n, show=show) as advance:
                for i in range(maps.n):
                    targets[starts[i] : starts[i + 1]] = teacher.target(maps, i, debiased=debiased)
                    advance(1)
            yield cls(maps, targets, starts)

    def split(self) -> tuple[list[int], list[int]]:
        """Images to learn from, and those of held-out *pictures*: a hash of the pixels decides.

        Raises
        ------
        InputError
            Fewer than two images.
        """
        pictures = [self.picture(i) for i in range(self.maps.n)]
        held = {picture for picture in set(pictures) if fold_of(picture, _HELD_OUT) == 0}
        unique = sorted(set(pictures), key=lambda picture: fold_of(picture, 2**64))
        if len(unique) < 2:
            raise InputError("a conditional profile is checked on held-out images: collect maps of several images")
        if not held or held == set(unique):
            held = {unique[0]}
        learned = [i for i, picture in enumerate(pictures) if picture not in held]
        return learned, [i for i, picture in enumerate(pictures) if picture in held]

    def picture(self, index: int) -> str:
        """Identify an image: a hash of its pixels."""
        return self.features.place(self.maps.record(index).id).picture

    def batch(self, indices: Sequence[int]) -> Batch:
        """Read some images."""
        records = [self.maps.record(i) for i in indices]
        visual = [self.features.visual(record.id) for record in records]
        text = [self.features.text(record.id) for record in records]
        n, t = max(map(len, visual)), max(map(len, text))
        targets = [self._targets[self._starts[i] : self._starts[i + 1]] for i in indices]
        return Batch(
            _padded(visual, n),
            _padded([self._places_of(record.layout) for record in records], n),
            _padded(text, t),
            torch.arange(n)[None] < torch.tensor([len(x) for x in visual])[:, None],
            torch.tensor([len(x) for x in text]),
            _padded(targets, n),
        )

    def _places_of(self, layout: Any) -> np.ndarray:
        if layout.key not in self._places:
            self._places[layout.key] = places(layout)
        return self._places[layout.key]


def fit_student(
    lessons: Lessons, options: Options, *, device: torch.device | str = "cpu", show: bool = True
) -> tuple[Student, pd.DataFrame]:
    """Fit a student by cross entropy with the teacher's maps; the epoch that is best on held-out images is kept.

    The loss of an image is the cross entropy between ``softmax(sharpness * z)`` of the teacher's map z and the softmax
    of the student's, and 0.02 times the mean squared difference of the two maps, the student's standardised. AdamW, one
    cycle of the learning rate over all epochs; it stops early where ``patience`` epochs have brought nothing.

    Parameters
    ----------
    lessons : Lessons
    options : Options
    device : torch.device or str
    show : bool
        Whether to show progress.

    Returns
    -------
    Student
        On the CPU, in evaluation mode.
    DataFrame
        The learning curve: ``epoch``, ``train`` (loss), ``held_out`` (cross entropy), ``floor`` (the teacher's own
        entropy, which no student falls below).
    """
    if options.rank < 4 or options.rank % 4:
        raise InputError(f"rank must be a multiple of 4, got {options.rank}")
    learned, held = lessons.split()
    generator = torch.Generator().manual_seed(options.seed)
    student = _new(lessons.features.width, options).to(device)
    optimizer = torch.optim.AdamW(student.parameters(), options.learning_rate / 2, weight_decay=options.weight_decay)
    steps = -(-len(learned) // options.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.epochs * steps + 1
    )
    rows: list[dict[str, float]] = []
    best, kept = float("inf"), _copied(student)
    with progress_bar("fit", total=options.epochs, show=show) as advance, torch.enable_grad():
        for epoch in range(options.epochs):
            student.train()
            order = torch.randperm(len(learned), generator=generator).tolist()
            losses = []
            with _read(lessons, [learned[i] for i in order], options.batch_size, device) as batches:
                for batch in batches:
                    loss = _losses(student, batch, options.sharpness, device)[0].mean()
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    losses.append(loss.detach())
            held_out, floor = _held_out(student, lessons, held, options, device)
            rows.append(
                {"epoch": epoch, "train": float(torch.stack(losses).mean()), "held_out": held_out, "floor": floor}
            )
            advance(1)
            if not np.isfinite([rows[-1]["train"], held_out]).all():
                raise InputError(
                    f"the fit went astray in epoch {epoch}: its loss is no number. Fit again with a lower "
                    f"learning_rate than {options.learning_rate:g}"
                )
            if held_out < best:
                best, kept = held_out, _copied(student)
            elif epoch - min(rows, key=lambda row: row["held_out"])["epoch"] >= options.patience:
                break
    student.load_state_dict(kept)
    return student.cpu().eval(), pd.DataFrame(rows)


def _new(width: int, options: Options) -> Student:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return Student(width, options.rank, reads=options.reads)


def _losses(student: Student, batch: Batch, sharpness: float, device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each image the loss, the cross entropy, and the entropy of the teacher: (B,) each."""
    parts = (batch.visual, batch.place, batch.text, batch.shown, batch.target)
    visual, place, text, shown, target = (part.to(device, non_blocking=True) for part in parts)
    scores = student(visual, place, text, shown, batch.said)
    wanted = softmax((sharpness * target).masked_fill(~shown, -torch.inf), 1)
    logs = log_softmax(scores.masked_fill(~shown, -torch.inf), 1).masked_fill(~shown, 0)
    cross = -(wanted * logs).sum(1)
    count = shown.sum(1, keepdim=True)
    centred = (scores - scores.sum(1, keepdim=True) / count).masked_fill(~shown, 0)
    deviation = ((centred**2).sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt() + _LEAST
    shape = ((centred / deviation - target) ** 2).masked_fill(~shown, 0).sum(1) / count[:, 0]
    return cross + _SHAPE * shape, cross, torch.special.entr(wanted).sum(1)


@torch.no_grad()
def _held_out(
    student: Student, lessons: Lessons, held: Sequence[int], options: Options, device: Any
) -> tuple[float, float]:
    student.eval()
    cross, floor = [], []
    with _read(lessons, held, options.batch_size, device) as batches:
        for batch in batches:
            _, own, least = _losses(student, batch, options.sharpness, device)
            cross.append(own)
            floor.append(least)
    return float(torch.cat(cross).mean()), float(torch.cat(floor).mean())


def _read(
    lessons: Lessons, indices: Sequence[int], size: int, device: torch.device | str
) -> AbstractContextManager[Iterator[Batch]]:
    """Read images in batches; threads read on while a GPU works on the last one."""
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    if torch.device(device).type != "cuda":
        return ahead(lessons.batch, batches, workers=0)
    return ahead(lambda some: lessons.batch(some).pinned(), batches, workers=_READERS)


def _padded(parts: Sequence[np.ndarray], n: int) -> Tensor:
    """Put arrays of different lengths in one tensor, zeros behind them."""
    out = np.zeros((len(parts), n, *parts[0].shape[1:]), dtype=parts[0].dtype)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(out)


def _copied(student: Student) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in student.state_dict().items()}
