"""What a run consists of: every method at every keep ratio and layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

from biaslab.errors import InputError
from biaslab.evaluation.schema import record_key
from biaslab.models.prune_layer import DefaultLayer, check_layer, layer_count
from biaslab.pruning import Method, Schedule, Stage, parse, parse_schedule
from biaslab.pruning.budgets import check_keep
from biaslab.pruning.schedule import is_schedule, schedule_in

if TYPE_CHECKING:
    from biaslab.profiles import Profile

UNPRUNED = "none"
_DEEP = 32  # layers of a decoder that holds any method's stages
_KINDS = {  # of profiles -> its name, how to make one
    "positional": ("profile", "`biaslab fit-bias`"),
    "conditional": ("conditional profile", "`biaslab fit-bias --estimator lookahead`"),
    "heads": ("head profile", "`biaslab fit-bias --estimator localization_heads`"),
}
#: for the methods that need a profile and have none: one, or one of each kind
Profiles: TypeAlias = "Profile | Sequence[Profile] | None"


@dataclass(frozen=True, eq=False)
class Config:
    """One way to run the model: a method with its keep, at a layer; ``method=None`` is the unpruned model.

    A schedule stands in the place of the method, with ``layer`` that of its first stage.
    """

    method: Method | Schedule | None
    layer: int | None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The cuts of a prefill: one of a method, none of the unpruned model, or of a layer that is not known yet."""
        if isinstance(self.method, Schedule):
            return tuple(self.method)
        return () if self.method is None or self.layer is None else (Stage(self.layer, self.method),)

    @property
    def keeps(self) -> list[float | int]:
        """What is kept at each cut."""
        if isinstance(self.method, Schedule):
            return [stage.rule.keep for stage in self.method]
        return [] if self.method is None else [self.method.keep]

    @property
    def label(self) -> str:
        """Name with options; of a schedule its word."""
        return UNPRUNED if self.method is None else self.method.label

    @property
    def profiles(self) -> list[Profile]:
        """Profiles that are read."""
        if isinstance(self.method, Schedule):
            return self.method.profiles
        if self.method is None or "profile" not in self.method.needs:
            return []
        profile = getattr(self.method, "profile", None)
        return [] if profile is None else [profile]

    @property
    def profile(self) -> Profile | None:
        """Profile that the method reads, or None; of a schedule's the first."""
        return next(iter(self.profiles), None)

    @property
    def engagement(self) -> dict[str, Any]:
        """What `biaslab.pruning.engine.prune.engaged` is to be given for it, beside model, positions and seed."""
        if isinstance(self.method, Schedule):
            return {"schedule": self.method}
        return {"method": self.method, "layer": self.layer}

    def kept(self, tokens: int) -> list[int]:
        """Count the visual tokens that each cut leaves of an image's, where methods keep what their keeps say."""
        if isinstance(self.method, Schedule):
            return self.method.kept(tokens)
        return [] if self.method is None else [self.method.budget_of(tokens)]

    def describe(self) -> dict[str, Any]:
        """List the fields that name this configuration in every sample line and table row."""
        if self.method is None:
            return {"method": UNPRUNED, "options_hash": "", "profile_hash": "", "keep": 1.0, "layer": None}
        if isinstance(self.method, Schedule):
            read = self.method.profile_hash
        else:
            read = "".join(profile.hash for profile in self.profiles)
        return {
            "method": self.method.name,
            "options_hash": self.method.options_hash,
            "profile_hash": read,
            "keep": self.method.keep,
            "layer": self.layer,
        }

    @property
    def key(self) -> str:
        """Unique among the configurations of a run, and the same when read back from a log."""
        return record_key(self.describe())


def configurations(
    methods: Sequence[str | Method | Schedule] | str | Method | Schedule,
    keep: float | int | Sequence[float | int],
    layers: int | Sequence[int | None] | None,
    profile: Profiles = None,
    *,
    model: Any = None,
) -> list[Config]:
    """List every method at every layer and keep; ``"none"`` and schedules once, and at its own layers what has some.

    Parameters
    ----------
    methods : str, Method, Schedule or sequence of these
        Strings as :func:`biaslab.pruning.parse` and :func:`biaslab.pruning.parse_schedule` read them. A schedule has
        its own keeps and layers; one of a single stage is its method, at that keep and layer.
    keep : float, int or sequence of these
        Ratios in (0, 1] or counts of visual tokens.
    layers : int, sequence of int, or None
        Prune layers K; None stands for the default of a model that is not known yet, a `DefaultLayer` for that of one
        that is: methods that are made for it then run before the decoder.
    profile : Profile or sequence of these, optional
        For the methods that need one and have none: one of each kind (positional, also beside one of single heads,
        conditional, of heads).
    model : VLM or Geometry, optional
        Whose depth the layers of a method with a schedule of its own are scaled to; without one they are not known.

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
    _check_grid(keep, layers, model)
    configs: dict[str, Config] = {}
    for method in methods:
        for config in _configurations(method, keep, layers, profiles, model):
            if config.key in configs:
                name = config.describe()
                where = "" if name["layer"] is None else f", layer {name['layer']}"
                raise InputError(f"{name['method']} at keep {name['keep']}{where} is given twice: drop one")
            configs[config.key] = config
    return list(configs.values())


def _check_grid(keep: list[float | int], layers: list[int | None], model: Any) -> None:
    """Refuse bad keeps and layers even where no method takes them: `none` and schedules run without."""
    for ratio in keep:
        check_keep(ratio)
    for layer in layers:
        if layer is None:
            continue
        if isinstance(layer, bool) or not isinstance(layer, Integral):
            raise InputError(f"layer must be a whole number, got {layer!r}")
        if model is not None:
            check_layer(layer, layer_count(model))


def _configurations(
    method: Any, keep: list[float | int], layers: list[int | None], profiles: list[Any], model: Any
) -> Iterable[Config]:
    if isinstance(method, str):
        method = parse_schedule(method) if is_schedule(method) else parse(method)
    if method == UNPRUNED:
        yield Config(None, None)
        return
    if isinstance(method, Schedule):
        yield _scheduled(method.map(lambda rule: _with_profile(rule, profiles)))
        return
    if not isinstance(method, Method):
        raise InputError(f"methods must be names or Method instances, got {method!r}")
    method = _with_profile(method, profiles)
    method.validate()
    if method.own_stages(_DEEP) is not None:
        for ratio in keep:
            yield _by_itself(method.with_keep(ratio), model)
        return
    own = [layer.for_method(method) if isinstance(layer, DefaultLayer) else layer for layer in layers]
    for layer in own if method.prune_layer is None else [method.prune_layer]:
        for ratio in keep:
            yield Config(method.with_keep(ratio), None if layer is None else int(layer))


def _by_itself(method: Method, model: Any) -> Config:
    """Make the configuration of a method with a schedule of its own."""
    if model is None:
        method.own_stages(_DEEP)  # refuses its keep
        return Config(method, None)
    schedule = schedule_in(model, method)
    assert schedule is not None
    return Config(schedule, schedule.layer)


def _scheduled(schedule: Schedule) -> Config:
    """Make the configuration of a schedule."""
    schedule.validate()
    if len(schedule) == 1:
        return Config(schedule[0].rule, schedule.layer)
    return Config(schedule, schedule.layer)


def _with_profile(method: Method, profiles: list[Any]) -> Method:
    """Give a method that needs a profile and has none the one of its kind."""
    if "profile" not in method.needs or getattr(method, "profile", None) is not None:
        return method
    # a field of these methods, not of every one
    options: dict[str, Any] = {"profile": _profile_for(method, profiles)}
    return dataclasses.replace(method, **options)


def _profile_for(method: Method, profiles: list[Any]) -> Any:
    """Find the profile of the kind that a method needs."""
    known = [p for p in profiles if p is not None]
    fitting = [p for p in known if getattr(p, "kind", "positional") == method.profile_kind]
    if len(fitting) > 1:  # of the mean over heads, and of single ones
        per_head = [p for p in fitting if (p.provenance_.get("heads") != "mean") == method.reads_heads]
        fitting = per_head if len(per_head) == 1 else fitting
    if len(fitting) == 1:
        return fitting[0]
    kind, how = _KINDS[method.profile_kind]
    if method.profile_kind == "positional" and method.reads_heads:
        how = "`biaslab fit-bias --heads all --maps FOLDER`"
    if fitting:
        raise InputError(f"method {method.name!r} needs one {kind}, {len(fitting)} are given: leave out the others")
    other = " (the one given is of another kind)" if known else ""
    raise InputError(
        f"method {method.name!r} needs a {kind}{other}: pass profile= ({how} makes one), or leave the method out"
    )


def _many(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple, range)) else [value]  # a schedule is one thing
