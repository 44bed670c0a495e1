"""What a run consists of: every method at every keep ratio and layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError
from biaslab.evaluation.schema import record_key
from biaslab.pruning import Method, make

if TYPE_CHECKING:
    from biaslab.profiles import Profile

UNPRUNED = "none"


@dataclass(frozen=True, eq=False)
class Config:
    """One way to run the model: a method with its keep, at a layer; ``method=None`` is the unpruned model."""

    method: Method | None
    layer: int | None

    @property
    def profile(self) -> Profile | None:
        """The profile the method reads."""
        return self.method.profile if self.method is not None and "profile" in self.method.needs else None

    def describe(self) -> dict[str, Any]:
        """The fields that name this configuration in every sample line and table row."""
        if self.method is None:
            return {"method": UNPRUNED, "options_hash": "", "profile_hash": "", "keep": 1.0, "layer": None}
        profile = self.profile
        return {
            "method": self.method.name,
            "options_hash": self.method.options_hash,
            "profile_hash": "" if profile is None else profile.hash,
            "keep": self.method.keep,
            "layer": self.layer,
        }

    @property
    def key(self) -> str:
        """Unique among the configurations of a run, and the same when read back from a log."""
        return record_key(self.describe())


def configurations(
    methods: Sequence[str | Method] | str | Method,
    keep: float | int | Sequence[float | int],
    layers: int | Sequence[int],
    profile: Profile | None = None,
) -> list[Config]:
    """Every method at every layer and keep; ``"none"`` once.

    Raises
    ------
    InputError
        Unknown method, bad keep or layer, a profile that is needed and missing, or the same thing twice.
    """
    methods, keep, layers = (_many(value) for value in (methods, keep, layers))
    if not methods or not keep or not layers:
        raise InputError("evaluate needs at least one method, one keep ratio and one layer")
    found: dict[str, Config] = {}
    for given in methods:
        for config in _configurations(given, keep, layers, profile):
            if config.key in found:
                name = config.describe()
                raise InputError(
                    f"{name['method']} at keep {name['keep']}, layer {name['layer']} is given twice: drop one"
                )
            found[config.key] = config
    return list(found.values())


def _configurations(
    given: Any, keep: list[float | int], layers: list[int], profile: Profile | None
) -> Iterable[Config]:
    if isinstance(given, str) and given == UNPRUNED:
        yield Config(None, None)
        return
    method = make(given) if isinstance(given, str) else given
    if not isinstance(method, Method):
        raise InputError(f"methods must be names or Method instances, got {method!r}")
    if "profile" in method.needs and method.profile is None:
        if profile is None:
            raise InputError(f"method {method.name!r} needs a profile: pass profile=, or leave the method out")
        method = dataclasses.replace(method, profile=profile)
    method.validate()
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, Integral):
            raise InputError(f"layer must be a whole number, got {layer!r}")
        for ratio in keep:
            yield Config(method.with_keep(ratio), int(layer))


def _many(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple, range)) else [value]
