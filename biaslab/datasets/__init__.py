"""Referring-expression data sets, by name."""

from __future__ import annotations

from biaslab.datasets.base import DATASETS, Dataset, content_hash, load_dataset, register
from biaslab.datasets.refcoco_jsonl import RefCocoJsonl

__all__ = [
    "DATASETS",
    "Dataset",
    "RefCocoJsonl",
    "content_hash",
    "load_dataset",
    "register",
]
