"""What ``--dataset`` and the options beside it open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from biaslab.datasets.base import Dataset

__all__ = ["open_data_set"]


def open_data_set(
    dataset: str, *, n: int | None, split: str | None, columns: str | None, image_root: str | Path | None,
    data_root: str | Path | None,
) -> Dataset:  # fmt: skip
    """Open a data set: of one known by name the first n samples, a file whole, which whoever reads it cuts."""
    from biaslab.datasets.base import DATASETS
    from biaslab.datasets.loading import load_dataset

    size = n if dataset in DATASETS else None
    return load_dataset(dataset, split=split, columns=columns, images=image_root, n=size, data_root=data_root)
