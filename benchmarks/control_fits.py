"""What controls of look-ahead are fitted on: some of the maps of a folder, questions turned, parts joined."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import biaslab as bl
from biaslab.evaluation.metrics import auroc, target_tokens
from biaslab.maps.features import Features
from biaslab.maps.stored import StoredMaps

__all__ = ["Chosen", "Control", "fit", "join", "teacher_auroc"]


@dataclass(frozen=True)
class Control:
    """One way to fit the profile.

    Attributes
    ----------
    name : str
    maps : str
        Which set of maps, of `benchmarks.controls.SETS`.
    n : int
        Its first n prompts.
    without : tuple of str
        Names that no expression may say.
    rotated : bool
        Whether the embeddings of the question are turned by a random rotation before the student sees them.
    options : dict
        Of the estimator.
    """

    name: str
    maps: str = "answer"
    n: int = 3000
    without: tuple[str, ...] = ()
    rotated: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Name of its files."""
        return "".join(c if c.isalnum() else "-" for c in self.name)


class Chosen(StoredMaps):
    """Stored maps, of some images alone, the embeddings of their questions turned where a rotation is given."""

    def __init__(self, folder: Path, ids: Collection[str], rotation: np.ndarray | None = None) -> None:
        self._chosen, self._rotation = set(ids), rotation
        super().__init__(folder)

    def _take(self, record: Any, n_heads: int) -> None:
        if record.id in self._chosen:
            super()._take(record, n_heads)
        else:
            self._end += n_heads * record.layout.n

    @property
    def features(self) -> Features:
        """Features, rotated."""
        if self._features is None:
            kept = self.settings["features"]
            self._features = _Turned(self.folder, int(kept["width"]), shared=kept["layer"] == 0)
            self._features.rotation = self._rotation
        return self._features


class _Turned(Features):
    rotation: np.ndarray | None = None

    def text(self, name: str) -> np.ndarray:
        rows = super().text(name)
        return rows if self.rotation is None else rows.astype(np.float32) @ self.rotation


def join(parts: Sequence[Path], out: Path) -> None:
    """Put the maps of several folders into one."""
    first = StoredMaps(parts[0])
    with StoredMaps.create(out, first.settings).writing() as joined:
        for part in parts:
            maps = StoredMaps(part)
            for i in range(maps.n):
                record = maps.record(i)
                place = maps.features.place(record.id)
                joined.features.add(
                    record.id, place.picture, maps.features.visual(record.id), maps.features.text(record.id)
                )
                joined.add(record, maps.values(i))


def rotation(width: int, seed: int = 0) -> np.ndarray:
    """Draw a random orthogonal matrix."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def fit(control: Control, folder: Path, ids: Collection[str], device: str) -> bl.LookaheadProfile:
    """Fit a control; one of rotated embeddings is turned back, so that it serves the model as it is."""
    width = int(StoredMaps(folder).settings["features"]["width"])
    turn = rotation(width) if control.rotated else None
    profile = bl.LookaheadProfile(**control.options).fit(Chosen(folder, ids, turn), device=device)
    if turn is not None:
        student = next(iter(profile.arrays_.values()))["student"]
        for name in ("word.weight", "reader.weight_ih_l0", "reader.weight_ih_l0_reverse"):
            student[name] = np.ascontiguousarray(student[name] @ turn.T)  # (e R) W' = e (R W')
    return profile


def teacher_auroc(profile: bl.LookaheadProfile, maps: StoredMaps, boxes: dict[str, Any]) -> tuple[float, float]:
    """Measure how well the student, and its teacher, tell the target's tokens from the others (means over images)."""
    student, teacher = [], []
    for i in range(maps.n):
        record = maps.record(i)
        target = target_tokens(record.layout, boxes[record.id])
        if not 0 < target.sum() < target.size:
            continue
        visual, text = (torch.from_numpy(f(record.id)) for f in (maps.features.visual, maps.features.text))
        student.append(auroc(profile.relevance(visual, text, record.layout).numpy(), target))
        teacher.append(auroc(profile.teacher.target(maps, i), target))
    return float(np.mean(student)), float(np.mean(teacher))
