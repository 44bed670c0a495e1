"""The images of ``biaslab check``: eleven photographs and a silhouette, with boxes drawn by hand."""

from __future__ import annotations

import importlib.resources
import json
from functools import partial
from pathlib import Path

from PIL import Image

from biaslab.core.boxes import Box
from biaslab.core.images import load_image
from biaslab.datasets.sample import Sample, object_size

__all__ = ["check_samples", "pictures_folder"]


def pictures_folder() -> Path:
    """Name the folder of the images; its LICENSE says where they come from."""
    return Path(str(importlib.resources.files("biaslab"))) / "diagnostics" / "pictures"


def check_samples() -> list[Sample]:
    """List the expressions, 43 on 12 images of at most 640 pixels.

    They are for checking a set-up and are no data set: too few, and too easy, to compare anything by.

    Returns
    -------
    list of Sample

    Examples
    --------
    >>> from biaslab.diagnostics.check_pictures import check_samples
    >>> samples = check_samples()
    >>> len(samples), len({sample.image_id for sample in samples}), samples[0].expression
    (43, 12, 'the woman in the orange suit')
    """
    folder = pictures_folder()
    rows = [json.loads(line) for line in (folder / "expressions.jsonl").read_text(encoding="utf-8").splitlines()]
    samples = []
    for index, row in enumerate(rows):
        box = Box(*row["box"])
        samples.append(
            Sample(
                id=f"check-{index:02d}",
                image_id=row["image"],
                expression=row["expression"],
                box=box,
                expression_type="",
                object_size=object_size(box, row["width"], row["height"]),
                width=row["width"],
                height=row["height"],
                loader=partial(_open, folder / row["image"]),
            )
        )
    return samples


def _open(path: Path) -> Image.Image:
    return load_image(path)
