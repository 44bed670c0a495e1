"""What `benchmarks.fair` compares: methods with their published layers, combinations, and the ablation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from biaslab.pruning import Schedule

__all__ = ["ABLATIONS", "COMBINED", "METHODS", "OWN", "Ablation"]

#: method -> layer K of 32 that it is published for, "own" for its own schedule, None where it is not published alone
METHODS: dict[str, str | None] = {
    "uniform": None, "random": None, "divprune": "0",
    # features and question
    "cdpruner": "0", "flashvlm": "0", "greedyprune": None, "dart": "2",
    # attention
    "fastv": "2", "pore": "2", "priortr": "2", "priortr:rule=ratio": None, "layer_ratio": None, "direction_only": None,
    "sparsevlm": "own", "pyramiddrop": "own", "feather": "own", "swiftvlm": "own", "localization_heads": None,
    "adatp": None, "quota:by=blocks": None,
    # attention, debiased or diverse
    "relative": None, "relative:heads=quality": None, "d2pruner": "2", "d2pruner:pivots_suppress=true": "2",
    "mmr": None, "scope": None, "scope:by=vision": "0", "idselection": "2", "ivc": "16", "protected": None,
    # the vision tower
    "vispruner": "0", "hiprune": "0", "visionzip": None, "visionzip:merge=added": "0", "vscan": "own",
    # ours
    "stagewise": "own", "lookahead": "0",
}  # fmt: skip

#: method -> options under which its own schedule is tried
OWN = {"stagewise": ("", ":at=1")}


def _foreseen(schedule: Schedule) -> str:
    """Put look-ahead in the place of the first cut."""
    first, *others = schedule
    return "+".join([f"lookahead@{json.dumps(first.keep)}@{first.layer}", *(stage.label for stage in others)])


#: name -> the method with a schedule of its own, and what is made of that
COMBINED: dict[str, tuple[str, Callable[[Schedule], str]]] = {"lookahead+stagewise": ("stagewise", _foreseen)}

Keeps: TypeAlias = dict[int, Any]
Own: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Ablation:
    """A comparison in which one thing changes: ``words(keeps, own)`` gives a word for each line of it.

    ``keeps`` has the keep of every layer at equal cost, ``own`` the schedules of `stagewise` at it.
    """

    name: str
    words: Callable[[Keeps, Own], dict[str, str]]
    positions: str = "original"


def _cut(method: str, keep: float, layer: int) -> str:
    return f"{method}@{json.dumps(keep)}@{layer}"


def _layer(keeps: Keeps, own: Own) -> dict[str, str]:
    return {
        f"{method}, K = {layer}": _cut(method, 0.1, layer)
        for method in ("fastv", "relative", "divprune")
        for layer in (1, 2, 3, 4, 6, 8)
    }


def _score(keeps: Keeps, own: Own) -> dict[str, str]:
    scores = (
        "fastv", "fastv:queries=text", "fastv:queries=null", "fastv:reads_layer=own", "fastv:score=value_norm",
        "fastv:score=no_rope", "sparsevlm", "priortr", "relative", "relative:heads=quality", "localization_heads",
    )  # fmt: skip
    found = {f"{score}, K = {layer}": _cut(score, keeps[layer], layer) for layer in (1, 2) for score in scores}
    return {
        **found,
        "cdpruner without relevance, K = 0": _cut("cdpruner:theta=0", keeps[0], 0),
        "flashvlm, relevance alone, K = 0": _cut("flashvlm:beta=1:diverse=0", keeps[0], 0),
        "lookahead, top, K = 0": _cut("lookahead:rule=top", keeps[0], 0),
    }


def _diversity(keeps: Keeps, own: Own) -> dict[str, str]:
    rules = ("fastv", "mmr:lam=0.8", "mmr", "mmr:lam=0.2", "mmr:lam=0", "greedyprune:by=attention",
             "d2pruner", "d2pruner:pivots_suppress=true", "divprune")  # fmt: skip
    found = {f"{rule}, K = 1": _cut(rule, keeps[1], 1) for rule in rules}
    foreseen = ("top", "proportional", "diverse", "graph", "mmr")
    return found | {f"lookahead, {rule}, K = 0": _cut(f"lookahead:rule={rule}", keeps[0], 0) for rule in foreseen}


def _merging(keeps: Keeps, own: Own) -> dict[str, str]:
    words = ("visionzip", "visionzip:merge=true", "visionzip:merge=added", "vscan:merge=false", "vscan")
    return {f"{word}, K = 0": _cut(word, keeps[0], 0) for word in words}


def _positions(keeps: Keeps, own: Own) -> dict[str, str]:
    cuts = (("divprune", 0), ("lookahead", 0), ("fastv", 2), ("d2pruner", 1), ("vispruner", 0))
    return {f"{method}, K = {layer}": _cut(method, keeps[layer], layer) for method, layer in cuts}


def _parts(keeps: Keeps, own: Own) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, schedule in own.items():
        _, second, third = schedule
        n0, n1, n2 = (stage.keep for stage in schedule)

        def stages(rule: str, start: str = "divprune", n0: float = n0, n1: float = n1, n2: float = n2,
                   k: tuple[int, int] = (second.layer, third.layer)) -> str:  # fmt: skip
            return "+".join([_cut(start, n0, 0), _cut(rule, n1, k[0]), _cut(rule, n2, k[1])])

        rule = f"stagewise:below={second.layer}"
        between = (n1 * (third.layer - second.layer) + n2 * (10 - third.layer)) / (10 - second.layer)
        found |= {
            f"{name}": stages(rule),
            f"{name}, attention not debiased": stages(f"{rule}:debias=false"),
            f"{name}, no relevance": stages(f"{rule}:gamma=0"),
            f"{name}, next to no diversity": stages(f"{rule}:gamma=20"),
            f"{name}, mean over heads in the place of chosen ones": stages("fastv"),
            f"{name}, localization heads in their place": stages("localization_heads"),
            f"{name}, random first cut": stages(rule, "random"),
            f"{name}, look-ahead as the first cut": stages(rule, "lookahead"),
            f"{name}, one later cut": f"{_cut('divprune', n0, 0)}+{_cut(rule, between, second.layer)}",
        }
    return {
        **found,
        "first cut alone": _cut("divprune", keeps[0], 0),
        "look-ahead alone": _cut("lookahead", keeps[0], 0),
    }


ABLATIONS = (
    Ablation("layer, 10 % kept at each (their costs differ)", _layer),
    Ablation("score", _score),
    Ablation("diversity", _diversity),
    Ablation("merging", _merging),
    Ablation("original positions", _positions),
    Ablation("renumbered positions", _positions, "renumber"),
    Ablation("positions stretched over the image's", _positions, "remap"),
    Ablation("parts of stagewise", _parts),
)
