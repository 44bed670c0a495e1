"""Referring-expression data sets, by name."""

from __future__ import annotations

from biaslab.datasets.base import DATASETS, Dataset, content_hash, dataset_by_name, load_dataset, register
from biaslab.datasets.refcoco_jsonl import RefCocoJsonl

dataset = load_dataset  # the short name that biaslab itself offers

__all__ = [
    "dataset",
    "DATASETS",
    "Dataset",
    "RefCocoJsonl",
    "content_hash",
    "dataset_by_name",
    "load_dataset",
    "register",
]
