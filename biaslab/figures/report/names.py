"""What methods are called in a report, and how a command line spells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from biaslab.evaluation.recorded_methods import label_of, place_of
from biaslab.evaluation.results import Results
from biaslab.figures.frames import UNPRUNED, label_rows
from biaslab.pruning.display_names import display_name

__all__ = ["PrintNames"]


class PrintNames:
    """Names of the configurations of one run, or of two that are compared: as figures and LaTeX tables have them.

    Parameters
    ----------
    *runs : Results
    labels : mapping of str, optional
        Method, its label with options, options hash or name in print -> name; default as papers name them.

    Attributes
    ----------
    labels : dict of str to str
        As given.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.figures.report.names import PrintNames
    >>> results = bl.evaluate(
    ...     bl.load("grounder"), bl.load_dataset("scenes", n=1), methods=["fastv", "fastv@0.4@2+random@0.1@4"],
    ...     keep=0.1, layer=4, progress=False,
    ... )
    >>> names = PrintNames(results)
    >>> [names.configuration(row) for row in results.run["identity"]["configurations"]]
    ['FastV keep 0.1 layer 4', 'FastV 40 % at 2 + random 10 % at 4']
    >>> [names.spelled(row) for row in results.run["identity"]["configurations"]]
    ['fastv keep 0.1 layer 4', 'fastv@0.4@2+random@0.1@4']
    """

    def __init__(self, *runs: Results, labels: Mapping[str, str] | None = None) -> None:
        self.labels = dict(labels or {})
        self._words: dict[tuple[str, str], str] = {}
        for results in runs:
            for config in results.run["identity"]["configurations"]:
                word = results.labels.get(config["options_hash"], config["method"])
                self._words[config["method"], config["options_hash"]] = word
        table = pd.DataFrame(
            {
                "method": [method for method, _ in self._words],
                "options_hash": [code for _, code in self._words],
                "spelled": list(self._words.values()),
            }
        )
        self._names = dict(zip(self._words, label_rows(table, labels), strict=True))

    def method(self, row: Mapping[Any, Any]) -> str:
        """Name the method of a configuration, or of a row of a table: "D2Pruner (theta 0.7)"."""
        return self._names[row["method"], row["options_hash"]]

    def word(self, row: Mapping[Any, Any]) -> str:
        """Spell the method of a configuration as a command line does: "d2pruner:theta=0.7"."""
        return self._words[row["method"], row["options_hash"]]

    def place(self, row: Mapping[Any, Any]) -> str:
        """Say keep and layer of a configuration; nothing of a schedule, or where nothing is pruned."""
        return "" if row["method"] == UNPRUNED else place_of(row, self.word(row))

    def configuration(self, row: Mapping[Any, Any]) -> str:
        """Name a configuration: method, keep and layer."""
        return f"{self.method(row)} {self.place(row)}".strip()

    def spelled(self, row: Mapping[Any, Any]) -> str:
        """Name a configuration by how it is spelled, as `Results.name_of` does."""
        return f"{self.word(row)} {place_of(row, self.word(row))}".strip()

    def both(self, row: Mapping[Any, Any]) -> str:
        """Name a configuration, and how it is spelled behind it where that is something else."""
        name, spelled = self.configuration(row), self.spelled(row)
        return name if name == spelled else f"{name} ({spelled})"

    def reference(self, method: str) -> str:
        """Name a method by whose name the others are compared with it, whatever its options."""
        named = {name for (own, _), name in self._names.items() if own == method}
        return next(iter(named)) if len(named) == 1 else self.labels.get(method, display_name(method))

    def stage(self, stage: Mapping[str, Any]) -> str:
        """Name a stage of a schedule as ``run.json`` records it: "FastV, layer 4"."""
        word = label_of({"options": {}, "options_hash": "", **stage}).removesuffix(":")
        name = next((self.labels[key] for key in (word, stage["method"]) if key in self.labels), display_name(word))
        return f"{name}, layer {stage['layer']}"

    def spellings(self, results: Results) -> dict[str, str]:
        """List the methods of one of the runs: name -> how it is spelled, where these differ."""
        words = {self.method(config): self.word(config) for config in results.run["identity"]["configurations"]}
        return {name: word for name, word in words.items() if name != word}
