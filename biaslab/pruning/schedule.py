"""Schedules: several cuts in one prefill, each among the tokens that the one before has left."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from biaslab.errors import InputError
from biaslab.pruning.base import Method, check_keep
from biaslab.pruning.citation import Citation
from biaslab.pruning.registry import from_record, parse

__all__ = ["Schedule", "Stage", "is_schedule", "own_schedule", "parse_schedule", "schedule_in"]

_JOINT = re.compile(r"(?:(?<=@\d)|(?<=@\d\d)|(?<=@\d\d\d))\s*\+")  # behind a layer: options may hold a + too
_HOW = "write method@keep@layer, such as divprune@0.4@2+d2pruner@0.06@4"


@dataclass(frozen=True, eq=False)
class Stage:
    """One cut of a schedule.

    Parameters
    ----------
    layer : int
        K: tokens are dropped just before this decoder layer; 0 drops them before the decoder.
    method : Method or str
        What to keep, a word with options as on the command line ("fastv:score=no_rope").
    keep : float or int, optional
        Share of the image's ORIGINAL N tokens in (0, 1], or a count; default: the method's own.

    Raises
    ------
    InputError
        A layer that is no whole number from 0 on, no method, or a bad keep.

    Examples
    --------
    >>> Stage(layer=4, method="fastv:score=no_rope", keep=0.06)
    Stage(fastv:score=no_rope@0.06@4)
    """

    layer: int
    method: Method | str
    keep: float | int | None = None

    def __post_init__(self) -> None:
        layer: Any = self.layer
        if isinstance(layer, bool) or not isinstance(layer, Integral) or layer < 0:
            raise InputError(f"the layer of a stage must be a decoder layer index, 0 or more; got {layer!r}")
        method = parse(self.method) if isinstance(self.method, str) else self.method
        if not isinstance(method, Method):
            raise InputError(f"a stage needs a pruning method such as divprune, got {self.method!r}")
        keep = method.keep if self.keep is None else check_keep(self.keep)
        object.__setattr__(self, "layer", int(layer))
        same = keep == method.keep and type(keep) is type(method.keep)
        object.__setattr__(self, "method", method if same else method.with_keep(keep))
        object.__setattr__(self, "keep", keep)

    @property
    def rule(self) -> Method:
        """The method, at the stage's keep."""
        assert isinstance(self.method, Method)
        return self.method

    @property
    def profile(self) -> Any:
        """Profile that the method reads, or None."""
        return getattr(self.rule, "profile", None) if "profile" in self.rule.needs else None

    @property
    def label(self) -> str:
        """The stage as `parse_schedule` reads it."""
        return f"{self.rule.label}@{json.dumps(self.keep)}@{self.layer}"

    def __repr__(self) -> str:
        return f"Stage({self.label})"


@dataclass(frozen=True, eq=False)
class Schedule(Sequence[Stage]):
    """Stages of one prefill, in the order of their layers.

    Parameters
    ----------
    stages : sequence of Stage
        Layers ascend, keeps do not grow. A count and a share are compared when the image is known: a stage keeps all
        that the one before has left where it would keep more.
    of : Method, optional
        The method whose own schedule it is (`own_schedule`), which then gives name and label.

    Raises
    ------
    InputError
        No stage, layers that do not ascend, keeps that grow, or a method that cannot be behind another.

    Examples
    --------
    >>> schedule = Schedule([Stage(2, "divprune", 0.4), Stage(4, "fastv", 0.06)])
    >>> schedule.label, schedule.name, schedule.keep, schedule.layer
    ('divprune@0.4@2+fastv@0.06@4', 'divprune+fastv', 0.06, 2)
    """

    stages: Sequence[Stage]
    of: Method | None = None

    def __post_init__(self) -> None:
        given: Any = self.stages
        stages = tuple(given) if isinstance(given, (list, tuple, Schedule)) else ()
        if not stages or not all(isinstance(stage, Stage) for stage in stages):
            raise InputError(f"a schedule is a list of stages such as bl.Stage(2, 'divprune', 0.4), got {given!r}")
        object.__setattr__(self, "stages", stages)
        for number, stage in enumerate(stages):
            _check_place(stage, number)
        _check_restoring(stages)
        for before, after in zip(stages, stages[1:], strict=False):
            if after.layer <= before.layer:
                raise InputError(f"layers of a schedule must ascend: {after.label} comes after layer {before.layer}")
            if type(before.keep) is type(after.keep) and after.keep > before.keep:  # type: ignore[operator]
                raise InputError(
                    f"keeps of a schedule are shares of the whole image and cannot grow: {after.label} comes after "
                    f"keep {before.keep}"
                )

    @property
    def name(self) -> str:
        """Names of the methods, joined by +; that of the method whose own schedule it is."""
        return self.of.name if self.of is not None else "+".join(stage.rule.name for stage in self)

    @property
    def label(self) -> str:
        """The schedule as one word, which `parse_schedule` reads; of a method's own schedule the method's."""
        return self.word if self.of is None else self.of.label

    @property
    def word(self) -> str:
        """All stages as one word, which `parse_schedule` reads."""
        return "+".join(stage.label for stage in self)

    @property
    def layer(self) -> int:
        """Layer of the first stage."""
        return self.stages[0].layer

    @property
    def keep(self) -> float | int:
        """Keep of the last stage."""
        return self.stages[-1].rule.keep

    @property
    def needs(self) -> frozenset[str]:
        """What the methods need together."""
        return frozenset().union(*(stage.rule.needs for stage in self))

    @property
    def profiles(self) -> list[Any]:
        """Profiles that the stages read, each once."""
        return list({id(s.profile): s.profile for s in self if s.profile is not None}.values())

    def citations(self) -> tuple[Citation, ...]:
        """List the works to cite, stage after stage."""
        return tuple(work for stage in self for work in stage.rule.citations())

    def kept(self, n: int) -> list[int]:
        """Count the tokens that each stage leaves of an image's ``n``.

        Examples
        --------
        >>> Schedule([Stage(2, "random", 0.5), Stage(4, "random", 60)]).kept(100)
        [50, 50]
        """
        counts = [n]
        for stage in self:
            counts.append(min(stage.rule.budget_of(n), counts[-1]))
        return counts[1:]

    def options(self) -> dict[str, Any]:
        """Describe the stages as JSON-ready values: what ``run.json`` records and `from_options` reads."""
        found = []
        for stage in self:
            record = {"layer": stage.layer, "method": stage.rule.name, "keep": stage.keep}
            own = {} if stage.profile is None else {"profile_hash": stage.profile.hash}
            found.append({**record, "options": stage.rule.options(), **own})
        own = {} if self.of is None else {"of": {"method": self.of.name, "options": self.of.options()}}
        return {"stages": found, **own}

    @property
    def options_hash(self) -> str:
        """12 hex digits over layers, keeps and methods with their options; equal on every machine.

        Of a method's own schedule without the keeps, which follow from the last one: the same at every keep.
        """
        parts: list[Any] = [
            [s.layer, s.keep if self.of is None else None, s.rule.name, s.rule.options_hash] for s in self
        ]
        parts += [] if self.of is None else [self.of.name, self.of.options_hash]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def profile_hash(self) -> str:
        """Hash of the profile that is read, of several one over all of them; empty for none."""
        return _joined([profile.hash for profile in self.profiles])

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Schedule:
        """Make the schedule that `options` describes; profiles are recorded apart and left out."""
        made = [Stage(s["layer"], from_record(s["method"], s.get("options", {})), s["keep"]) for s in options["stages"]]
        own = options.get("of")
        if own is None:
            return cls(made)
        return cls(made, from_record(own["method"], own["options"]).with_keep(made[-1].rule.keep))

    def map(self, change: Callable[[Method], Method]) -> Schedule:
        """Copy the schedule with other methods: what ``change`` makes of each."""
        return Schedule([replace(stage, method=change(stage.rule)) for stage in self], self.of)

    def validate(self) -> None:
        """Refuse, before any work, a method that cannot run as it is configured."""
        for stage in self:
            stage.rule.validate()

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.stages[index]

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __repr__(self) -> str:
        return f"Schedule({self.word})"


def own_schedule(method: Method, n_layers: int, lowest: int = 0) -> Schedule | None:
    """Make the schedule that a method stands for where no layer is named; None of one that cuts once.

    Examples
    --------
    >>> from biaslab.pruning import make
    >>> own_schedule(make("pyramiddrop", keep=0.125), 32).word
    'pyramiddrop@0.5@8+pyramiddrop@0.25@16+pyramiddrop@0.125@24'
    >>> own_schedule(make("fastv"), 32)
    """
    stages = method.own_stages(n_layers, lowest)
    return None if stages is None else Schedule([Stage(layer, rule) for layer, rule in stages], method)


def schedule_in(model: Any, method: Method) -> Schedule | None:
    """Make the schedule that a method stands for in a model (VLM or Geometry) where no layer is named."""
    from biaslab.models.prune_layer import lowest_prune_layer

    config: Any = getattr(model, "config", None) or model.model.config
    depth: int = config.get_text_config().num_hidden_layers
    return own_schedule(method, depth, lowest_prune_layer(config, model.family))


def is_schedule(word: Any) -> bool:
    """Whether a word says layers and keeps itself.

    Examples
    --------
    >>> is_schedule("divprune@0.4@2"), is_schedule("divprune"), is_schedule("mmr:by=external:a@b.safetensors")
    (True, False, False)
    """
    return isinstance(word, str) and re.search(r"@\s*-?[\d.]+%?\s*$", word) is not None


def parse_schedule(word: str) -> Schedule:
    """Make a schedule from one word, as written on a command line and as `Schedule.label` writes it.

    Parameters
    ----------
    word : str
        Stages joined by +, each ``method[:options]@keep@layer``: "divprune@0.4@2+d2pruner:theta=0.7@0.06@4". A keep is
        a share ("0.4", "40%") or a count ("64"; "1" is one token).

    Returns
    -------
    Schedule

    Raises
    ------
    InputError
        What `parse`, `Stage` and `Schedule` refuse, and a stage without keep or layer.

    Examples
    --------
    >>> parse_schedule("divprune@0.4@2+fastv:score=no_rope@16@4").stages
    (Stage(divprune@0.4@2), Stage(fastv:score=no_rope@16@4))
    """
    return Schedule([_stage(part, word) for part in _JOINT.split(word)])


def _stage(part: str, word: str) -> Stage:
    """Read one stage of a word."""
    method, *numbers = (piece.strip() for piece in part.rsplit("@", 2))
    if len(numbers) != 2:
        raise InputError(f"stage {part!r} of {word!r} lacks its keep or its layer: {_HOW}")
    try:
        keep: Any
        layer: Any
        keep, layer = (float(n[:-1]) / 100 if n.endswith("%") else json.loads(n) for n in numbers)
    except ValueError:
        raise InputError(f"keep and layer of {part!r} must be numbers: {_HOW}") from None
    return Stage(layer, method, keep)


def _check_place(stage: Stage, number: int) -> None:
    """Refuse a method behind another stage where it cannot be."""
    rule = stage.rule
    if number and rule.conditional:
        raise InputError(f"{stage.label}: method {rule.name!r} reads the whole image, make it the first stage")


def _check_restoring(stages: Sequence[Stage]) -> None:
    """Refuse schedules in which some tokens would come back and others not, or to where none had been."""
    names = {stage.rule.name for stage in stages if stage.rule.restores}
    if len(stages) < 2 or not names:
        return
    name = ", ".join(sorted(names))
    if not all(stage.rule.restores for stage in stages):
        raise InputError(
            f"{name} brings back what the stage before it has left out, and other methods drop for good: make every "
            "stage such a method, or write restore=false"
        )
    if stages[0].layer == 0:
        raise InputError(
            f"{stages[0].label}: before the decoder nothing can be brought back to: put the first stage of {name} at "
            "layer 1 or later"
        )


def _joined(hashes: Sequence[str]) -> str:
    """Make one hash of several; that of one, and none of none."""
    if len(hashes) < 2:
        return "".join(hashes)
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[: len(hashes[0])]
