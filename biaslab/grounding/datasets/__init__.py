"""Referring-expression data sets, by name."""

from __future__ import annotations

from . import refcoco_jsonl, scenes  # noqa: F401 - they register themselves
from .base import DATASETS, Dataset, content_hash, named_dataset, open_dataset, register
from .refcoco_jsonl import RefCocoJsonl

__all__ = ["DATASETS", "Dataset", "RefCocoJsonl", "content_hash", "named_dataset", "open_dataset", "register"]
