"""How much of its teacher's attention a student explains, beside position alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
import torch

from biaslab.profiles.lookahead.student import Student, places
from biaslab.profiles.lookahead.teacher import Teacher
from biaslab.profiles.lookahead.training import Lessons

__all__ = ["explained_shares", "explained_table"]


def explained_table(found: Mapping[str, float]) -> pd.DataFrame:
    """Make the table of `LookaheadProfile.explained`."""
    names = ["position", "position, content, question"]
    return pd.DataFrame({"explained by": names, "r2": [found["position"], found["all"]]})


def explained_shares(teacher: Teacher, student: Student, lessons: Lessons, images: Iterable[int]) -> dict[str, float]:
    """Shares of the variance of the teacher's log attention; the student's map is scaled once for all images."""
    total = left = cross = size = 0.0
    maps = lessons.maps
    for i in images:
        record = maps.record(i)
        rest = teacher.log(maps, i)
        total += float(rest @ rest)
        rest = rest - teacher.expected_log(record.layout)
        left += float(rest @ rest)
        visual, text = (torch.from_numpy(f(record.id)) for f in (lessons.features.visual, lessons.features.text))
        with torch.no_grad():
            scores = (
                student(visual[None], torch.from_numpy(places(record.layout))[None], text[None])[0].double().numpy()
            )
        scores = scores - scores.mean()
        cross += float(scores @ rest)
        size += float(scores @ scores)
    gained, scale = (cross**2 / size, cross / size) if size > 0 else (0.0, 1.0)
    if not total > 0:
        return {"position": float("nan"), "all": float("nan"), "scale": 1.0}
    return {"position": round(1 - left / total, 4), "all": round(1 - (left - gained) / total, 4), "scale": scale}
