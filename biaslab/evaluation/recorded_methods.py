"""The methods that a run names in its configurations, made again: what they are called, what to cite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from biaslab.errors import InputError
from biaslab.evaluation.configurations import UNPRUNED
from biaslab.pruning import budget
from biaslab.pruning.citation import bibtex
from biaslab.pruning.registry import from_record
from biaslab.pruning.schedule import Schedule, is_schedule

if TYPE_CHECKING:
    from biaslab.pruning.base import Method

__all__ = ["budget_of", "citations_of", "label_of", "place_of"]


def label_of(config: Mapping[str, Any]) -> str:
    """Name a configuration as `Method.label` does; a method that is not known here any more by name and hash.

    Examples
    --------
    >>> label_of({"method": "fastv", "options": {"queries": "text"}, "options_hash": "1f"})
    'fastv:queries=text'
    >>> label_of({"method": "of_a_plug_in", "options": {}, "options_hash": "1f"})
    'of_a_plug_in:1f'
    >>> stages = [{"layer": 2, "method": "random", "keep": 0.5, "options": {}}]
    >>> label_of({"method": "random", "options": {"stages": stages}, "options_hash": "1f"})
    'random@0.5@2'
    """
    method = _method(config)
    return f"{config['method']}:{config['options_hash']}" if method is None else method.label


def place_of(config: Mapping[Any, Any], label: str) -> str:
    """Say how much a configuration keeps and from which layer on; nothing of a schedule, whose label says both.

    Examples
    --------
    >>> place_of({"keep": 0.1, "layer": 4}, "fastv"), place_of({"keep": 1.0, "layer": None}, "none")
    ('keep 0.1 layer 4', 'keep 1')
    >>> place_of({"keep": 0.06, "layer": 2}, "divprune@0.4@2+fastv@0.06@4")
    ''
    """
    if is_schedule(label):
        return ""
    where = "" if pd.isna(config["layer"]) else f" layer {config['layer']}"
    return f"keep {config['keep']:g}{where}"


def citations_of(configs: Iterable[Mapping[str, Any]]) -> str:
    """Write the works that the methods of configurations are from as BibTeX, each once.

    Examples
    --------
    >>> text = citations_of([{"method": "none"}, {"method": "fastv", "options": {"score": "no_rope"}}])
    >>> [line for line in text.splitlines() if line.startswith("@")]
    ['@misc{fastv2024,', '@inproceedings{feather2025,']
    """
    methods = [_method(config) for config in configs if config["method"] != UNPRUNED]
    return bibtex([work for method in methods if method is not None for work in method.citations()])


def budget_of(stage: Mapping[str, Any]) -> Callable[[int], int]:
    """Tell how a recorded stage of a schedule counts what it keeps of n tokens; a method not known here as most do.

    Examples
    --------
    >>> kept = budget_of({"method": "divprune", "keep": 0.1, "options": {"rounding": "published"}})
    >>> kept(256), budget_of({"method": "of_a_plug_in", "keep": 0.1})(256)
    (26, 25)
    """
    keep = stage["keep"]
    try:
        return from_record(stage.get("method", ""), stage.get("options", {})).with_keep(keep).budget_of
    except InputError:
        return lambda n: budget(keep, n)


def _method(config: Mapping[str, Any]) -> Method | Schedule | None:
    try:
        if "stages" in config["options"]:
            return Schedule.from_options(config["options"])
        return from_record(config["method"], config["options"])
    except InputError:  # a plug-in that is not installed, or a value that this version refuses
        return None
