"""Data sets of referring expressions and of questions: by name, from annotations of any form, of the hub."""

from __future__ import annotations

from biaslab.datasets.base import DATASETS, Dataset, content_hash, register
from biaslab.datasets.loading import load_dataset
from biaslab.datasets.question import Question
from biaslab.datasets.reader import READERS, Reader, Referral, register_reader
from biaslab.datasets.referring import ReferringExpressions

__all__ = [
    "DATASETS",
    "READERS",
    "Dataset",
    "Question",
    "Reader",
    "Referral",
    "ReferringExpressions",
    "content_hash",
    "load_dataset",
    "register",
    "register_reader",
]
