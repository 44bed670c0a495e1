"""What lmms-eval 0.7.3 publishes of its models and requests, for machines where it is not installed."""

from __future__ import annotations

import abc
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

INSTALLED = importlib.util.find_spec("lmms_eval") is not None


class CacheHook:
    def __init__(self, cachinglm=None) -> None:
        self.parts: list[tuple] = []

    def add_partial(self, attr, req, res) -> None:
        self.parts.append((attr, req, res))


class Base(abc.ABC):
    """Of ``lmms_eval.api.model.lmms``: what a model has from it, and what it has to define."""

    is_simple: bool = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook, self.task_dict = CacheHook(), {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    def clean(self) -> None:
        self.cleaned = True


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Instance:
    """A request: of a chat model a tuple of six."""

    args: tuple[Any, ...]


def published(monkeypatch) -> None:
    """Put the interface where the package would be."""
    names = ["lmms_eval", *(f"lmms_eval.{name}" for name in ("api", "api.model", "models", "models.registry_v2"))]
    modules = {name: ModuleType(name) for name in names}
    modules["lmms_eval.api.model"].lmms = Base
    modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
