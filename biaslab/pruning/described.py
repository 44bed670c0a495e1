"""How a method says what it is: its options, its label, its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

__all__ = ["Described"]


@dataclass(frozen=True, eq=False)
class Described:
    """The part of `biaslab.pruning.Method`, a dataclass of its hyper-parameters, that names a configuration of it."""

    name: ClassVar[str]

    @classmethod
    def option_names(cls) -> list[str]:
        """List the names of the hyper-parameters, ``keep`` first."""
        return [f.name for f in dataclasses.fields(cls) if f.init]

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters as JSON-ready values, without ``keep`` and the profile (reported apart).

        Those that came as an `added_option` are left out at their defaults, those that only report always.
        """
        apart = {"keep", "profile", *self._report_options()}
        fields = {f.name: f for f in dataclasses.fields(self) if f.init and f.name not in apart}
        values = {n: getattr(self, n) for n in fields}
        values = {n: v for n, v in values.items() if v != fields[n].default or "added" not in fields[n].metadata}
        # 1 and 1.0 are the same option
        return {n: float(v) if isinstance(v, Integral) and not isinstance(v, bool) else v for n, v in values.items()}

    @property
    def label(self) -> str:
        """The name, with the options that are not at their defaults, as `parse` reads it."""
        default = {f.name: f.default for f in dataclasses.fields(self)}
        changed = {n: v for n, v in self.options().items() if v != default[n]}
        return ":".join([self.name, *(f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in changed.items())])

    @property
    def options_hash(self) -> str:
        """12 hex digits over the method's name and :meth:`options`; equal on every machine."""
        options = {**self._hashed_options(), **self._report_options()}
        text = json.dumps([self.name, options], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _hashed_options(self) -> dict[str, Any]:
        """List what the hash is over: the options, unless some stand for the content of a file."""
        return self.options()

    def _report_options(self) -> dict[str, Any]:
        return {f.name: f.metadata["hashed"] for f in dataclasses.fields(self) if "hashed" in f.metadata}
