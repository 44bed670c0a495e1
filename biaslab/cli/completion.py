"""What a shell offers for the values of options. A key press must not wait for torch: names are read, not imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from importlib.resources import files
from inspect import signature


def model_names(incomplete: str) -> list[str]:
    """Aliases that ``--model`` takes; folders are the shell's own business."""
    from biaslab.models.registry import aliases

    return _starting(incomplete, aliases())


def method_names(incomplete: str) -> list[str]:
    """Methods that ``--methods`` takes; what stands in front of the last comma stays and is not offered again."""
    before, comma, last = incomplete.rpartition(",")
    names = (name for name in ["none", *registered("pruning/methods")] if name not in before.split(","))
    return [before + comma + name for name in _starting(last, names)]


def estimator_names(incomplete: str) -> list[str]:
    """Estimators of a profile."""
    return _starting(incomplete, registered("profiles/estimators"))


def estimator_names_or_auto(incomplete: str) -> list[str]:
    """Estimators that ``fit-bias --estimator`` takes."""
    return _starting(incomplete, ["auto", *registered("profiles/estimators")])


def dataset_names(incomplete: str) -> list[str]:
    """Complete data sets that ``--dataset`` takes by name: those that need no file."""
    from biaslab.datasets import DATASETS

    without_file = (name for name, factory in DATASETS.items() if "path" not in signature(factory).parameters)
    return _starting(incomplete, without_file)


def registered(folder: str) -> list[str]:
    """Names of the classes under ``@register`` in the files of a folder of biaslab, read without running them."""
    names: list[str] = []
    for file in (files("biaslab") / folder).iterdir():
        if file.name.endswith(".py"):
            names += _names(ast.parse(file.read_text(encoding="utf-8")))
    return sorted(names)


def _names(module: ast.Module) -> Iterator[str]:
    for cls in module.body:
        if isinstance(cls, ast.ClassDef) and any(getattr(d, "id", None) == "register" for d in cls.decorator_list):
            for line in cls.body:
                if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
                    continue
                targets = [line.target] if isinstance(line, ast.AnnAssign) else line.targets
                if any(getattr(target, "id", None) == "name" for target in targets):
                    yield ast.literal_eval(line.value)


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
