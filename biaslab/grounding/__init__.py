"""Localization under pruning: referring-expression data sets, metrics, statistics, the evaluation runner."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "DATASETS": "datasets",
    "Dataset": "datasets",
    "ImageBootstrap": "statistics",
    "Interval": "statistics",
    "RankingValues": "ranked",
    "RefCocoJsonl": "datasets",
    "Results": "results",
    "Sample": "sample",
    "best_heads": "ranking",
    "evaluate": "runner",
    "locate_pruned": "one_image",
    "max_t": "statistics",
    "named_dataset": "datasets",
    "open_dataset": "datasets",
    "paired_p_value": "statistics",
    "ranking_table": "ranked",
    "ranking_values": "ranking",
    "score_ranking": "ranking",
    "size_class": "sample",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "dataset":  # the short name that biaslab itself offers
        return __getattr__("open_dataset")
    if name in _HOME:  # lazily: reading a data set needs no torch
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
