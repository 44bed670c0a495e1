"""What a run consists of: every method at every keep ratio and layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

from biaslab.errors import InputError
from biaslab.evaluation.schema import record_key
from biaslab.pruning import Method, parse

if TYPE_CHECKING:
    from biaslab.profiles import Profile

UNPRUNED = "none"
#: for the methods that need a profile and have none: one, or one of each kind
Profiles: TypeAlias = "Profile | Sequence[Profile] | None"


@dataclass(frozen=True, eq=False)
class Config:
    """One way to run the model: a method with its keep, at a layer; ``method=None`` is the unpruned model."""

    method: Method | None
    layer: int | None

    @property
    def profile(self) -> Profile | None:
        """Profile that the method reads, or None."""
        return getattr(self.method, "profile", None) if self.method and "profile" in self.method.needs else None

    def describe(self) -> dict[str, Any]:
        """List the fields that name this configuration in every sample line and table row."""
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
    layers: int | Sequence[int | None] | None,
    profile: Profiles = None,
) -> list[Config]:
    """List every method at every layer and keep; ``"none"`` once, and at its own layer what can be run at no other.

    Parameters
    ----------
    methods : str, Method or sequence of these
        Strings as :func:`biaslab.pruning.parse` reads them.
    keep : float, int or sequence of these
        Ratios in (0, 1] or counts of visual tokens.
    layers : int, sequence of int, or None
        Prune layers K; None stands for the default of a model that is not known yet.
    profile : Profile or sequence of these, optional
        For the methods that need one and have none: a positional one, a conditional one, or both.

    Returns
    -------
    list of Config

    Raises
    ------
    InputError
        Unknown method, bad keep or layer, a profile that is needed and missing, or the same thing twice.
    """
    methods, keep, layers, profiles = (_many(value) for value in (methods, keep, layers, profile))
    if not methods or not keep or not layers:
        raise InputError("evaluate needs at least one method, one keep ratio and one layer")
    configs: dict[str, Config] = {}
    for method in methods:
        for config in _configurations(method, keep, layers, profiles):
            if config.key in configs:
                name = config.describe()
                where = "" if name["layer"] is None else f", layer {name['layer']}"
                raise InputError(f"{name['method']} at keep {name['keep']}{where} is given twice: drop one")
            configs[config.key] = config
    return list(configs.values())


def _configurations(
    method: Any, keep: list[float | int], layers: list[int | None], profiles: list[Any]
) -> Iterable[Config]:
    method = parse(method) if isinstance(method, str) else method
    if method == UNPRUNED:
        yield Config(None, None)
        return
    if not isinstance(method, Method):
        raise InputError(f"methods must be names or Method instances, got {method!r}")
    if "profile" in method.needs and getattr(method, "profile", None) is None:
        options: dict[str, Any] = {
            "profile": _profile_for(method, profiles)
        }  # a field of these methods, not of every one
        method = dataclasses.replace(method, **options)
    method.validate()
    for layer in layers if method.prune_layer is None else [method.prune_layer]:
        if layer is not None and (isinstance(layer, bool) or not isinstance(layer, Integral)):
            raise InputError(f"layer must be a whole number, got {layer!r}")
        for ratio in keep:
            yield Config(method.with_keep(ratio), None if layer is None else int(layer))


def _profile_for(method: Method, profiles: list[Any]) -> Any:
    """Find the profile of the kind that a method needs."""
    known = [p for p in profiles if p is not None]
    fitting = [p for p in known if getattr(p, "conditional", False) == method.conditional]
    if len(fitting) == 1:
        return fitting[0]
    kind = "conditional profile" if method.conditional else "profile"
    if fitting:
        raise InputError(f"method {method.name!r} needs one {kind}, {len(fitting)} are given: leave out the others")
    how = "`biaslab fit-bias --estimator lookahead`" if method.conditional else "`biaslab fit-bias`"
    other = " (the one given is of another kind)" if known else ""
    raise InputError(
        f"method {method.name!r} needs a {kind}{other}: pass profile= ({how} makes one), or leave the method out"
    )


def _many(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple, range)) else [value]
