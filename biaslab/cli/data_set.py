"""What ``--dataset`` and the options beside it open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from biaslab.datasets.base import Dataset

__all__ = ["open_data_set"]


def open_data_set(
    dataset: str | None, *, n: int | None, split: str | None, columns: str | None, image_root: str | Path | None,
    data_root: str | Path | None, model: str = "", drawn_split: str | None = None,
) -> Dataset:  # fmt: skip
    """Open a data set: of one known by name the first n samples, a file whole, which whoever reads it cuts.

    None stands for the images that the model is tried on: an embedded model knows its own only. Of images that biaslab
    draws itself ``drawn_split`` is the split where none is named.
    """
    from biaslab.datasets.drawn import DRAWN, embedded_data
    from biaslab.datasets.loading import known, load_dataset

    dataset = embedded_data(model) if dataset is None else dataset
    split = drawn_split if split is None and known(dataset) in DRAWN else split
    size = None if known(dataset) is None else n
    return load_dataset(dataset, split=split, columns=columns, images=image_root, n=size, data_root=data_root)
