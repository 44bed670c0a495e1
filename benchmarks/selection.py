"""D2Pruner's selection against a lazy sequential greedy that must keep the same tokens.

The greedy (benchmarks/greedy.py) is the obvious loop at its best: of its two ways the quicker one counts. Ours is
``D2Pruner.select`` as the pruning engine calls it. Two graphs: in the sparse one the independent set
lasts for the whole budget or nearly, in the dense one it soon ends and the rest is filled by score.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.pruning import D2Pruner, TokenContext, budget
from biaslab.pruning.algorithms.graph import HybridGraph, SpatialPlane
from biaslab.pruning.algorithms.mis import greedy_mis
from biaslab.pruning.base import descending
from biaslab.pruning.budgets import share

from . import inputs
from .common import Timing, arguments, measured_clock, numbers, side_by_side
from .greedy import WAYS, Stopwatch, lazy_d2pruner
from .report import Report, Table, Target

SIZES = [256, 576, 1024, 2048, 4096]
KEEPS = [0.1, 0.5]
#: correlation length of the features, as a share of the image's diagonal
GRAPHS = {"sparse": 0.04, "dense": 0.15}
LAYER = 2


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.selection", __doc__, repeats=9)
    parser.add_argument("--sizes", type=numbers(int), default=SIZES, help="visual tokens, e.g. 256,1024")
    parser.add_argument("--keep", type=numbers(float), default=KEEPS, help="keep ratios, e.g. 0.1,0.5")
    parser.add_argument("--dim", type=int, default=1024, help="width of the features")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(options.sizes, options.keep, options.dim, options.repeats, options.threads).publish(options.out)


def report(sizes: list[int], keeps: list[float], dim: int, repeats: int, threads: int) -> Report:
    """Measure every combination."""
    clock = measured_clock(threads)
    rows = []
    for case in (Case.of(n, kind, dim) for n in sizes for kind in GRAPHS):
        rows += [measure(case, keep, suppress, repeats, clock) for keep in keeps for suppress in (False, True)]
    about = {
        "n": ("N", "d"),
        "graph": ("graph", ""),
        "edge_density": ("edges", ".2%"),
        "keep": ("keep", ".0%"),
        "suppress": ("pivots suppress", ""),
        "mis_size": ("MIS", "d"),
        "filled": ("filled", "d"),
    }
    total = {
        "ours_ms": ("ours ms", ".2f"),
        "greedy_ms": ("greedy ms", ".2f"),
        "ratio": ("ours / greedy", ".2f"),
        "way": ("greedy's way", ""),
        "diagnosed_ms": ("ours + diagnosis ms", ".2f"),
    }
    parts = {
        "ours_products_ms": ("ours: products ms", ".2f"),
        "ours_mis_ms": ("ours: MIS ms", ".2f"),
        "ours_rest_ms": ("ours: rest ms", ".2f"),
        "greedy_products_ms": ("greedy: products ms", ".2f"),
        "greedy_mis_ms": ("greedy: MIS ms", ".2f"),
        "greedy_rest_ms": ("greedy: rest ms", ".2f"),
    }
    short = {key: about[key] for key in ("n", "graph", "keep", "suppress")}
    return Report(
        name="selection",
        title="D2Pruner selection against a lazy sequential greedy",
        settings={"sizes": sizes, "keep": keeps, "dim": dim, "repeats": repeats, "threads": threads},
        tables=[
            Table(f"Whole selection, {clock} time, median", {**about, **total}, rows),
            Table("Where it goes, wall time, median", {**short, **parts}, rows),
        ],
        targets=[
            Target(f"N = {n}: ours / greedy, the worst case", max(r["ratio"] for r in rows if r["n"] == n), 1.0)
            for n in sizes
        ],
        notes=[
            "both keep the same tokens in every row (checked before the clock starts)",
            "products: ours is everything HybridGraph.edges does (gathering, normalising, distances and "
            "comparison included), greedy's the bare matrix-vector products",
            "rest: scoring, sorting, filling and what the selection reports about itself",
        ],
    )


def measure(case: Case, keep: float, suppress: bool, repeats: int, clock: str) -> dict[str, Any]:
    """One row of the tables; raises if the two do not keep the same tokens."""
    ctx = TokenContext(
        case.layout,
        budget(keep, case.layout.n),
        layer=LAYER,
        attention=case.attention,
        features=case.features,
    )
    options = {"keep": keep, "profile": case.profile, "theta": case.theta, "pivots_suppress": suppress}
    ours, full = D2Pruner(**options), D2Pruner(**options, diagnose=True)
    tasks = {"ours": lambda: ours.select(ctx), "diagnosed": lambda: full.select(ctx)}
    tasks |= {way: lambda way=way: lazy_d2pruner(ours, ctx, way) for way in WAYS}
    with torch.inference_mode():
        found = full.select(ctx)
        for kept in (tasks["ours"]().indices, *(tasks[way]() for way in WAYS)):
            if not torch.equal(kept, found.indices):
                raise RuntimeError(f"the selections differ at N = {ctx.n}, {case.kind}, {options}")
        times = side_by_side(tasks, repeats)
        best = min(WAYS, key=lambda way: times[way].median(clock))
        parts = {
            "ours": split(lambda watch: _independent_set(ours, ctx, watch), times["ours"], repeats),
            "greedy": split(lambda watch: lazy_d2pruner(ours, ctx, best, watch), times[best], repeats),
        }
    return {
        "n": ctx.n,
        "graph": case.kind,
        "keep": keep,
        "suppress": "yes" if suppress else "no",
        **{key: found.info[key] for key in ("edge_density", "mis_size", "filled", "degenerate")},
        "ratio": times["ours"].ratio_to(times[best], clock),
        "way": best,
        "ours_ms": times["ours"].median(clock) * 1e3,
        "greedy_ms": times[best].median(clock) * 1e3,
        "diagnosed_ms": times["diagnosed"].median(clock) * 1e3,
        **{f"{name}_{part}_ms": ms for name, three in parts.items() for part, ms in three.items()},
        "times_s": {name: timing.summary() for name, timing in times.items()},
    }


def split(run: Callable[[Stopwatch], Any], whole: Timing, repeats: int) -> dict[str, float]:
    """Milliseconds of wall time in matrix products, in the rest of the independent set, and in the rest."""
    rounds = []
    for _ in range(repeats):
        watch = Stopwatch()
        run(watch)
        rounds.append((watch.products, watch.total - watch.products))
    products, mis = (statistics.median(values) * 1e3 for values in zip(*rounds, strict=True))
    return {"products": products, "mis": mis, "rest": max(0.0, whole.median("wall") * 1e3 - products - mis)}


def _independent_set(method: D2Pruner, ctx: TokenContext, watch: Stopwatch) -> None:
    """Do the part of ``method.select(ctx)`` that the greedy's loop is to be compared with."""
    graph, order = method.graph(ctx), descending(method.importance(ctx))
    first = share(method.pivot_ratio, ctx.budget)
    blockers = order[:first] if method.pivots_suppress else None

    def edges(rows: Tensor, cols: Tensor) -> Tensor:
        return watch.product(graph.edges, rows, cols)

    start = time.perf_counter()
    greedy_mis(order[first:], edges, limit=ctx.budget - first, blockers=blockers)
    watch.total += time.perf_counter() - start


@dataclass
class Case:
    """One image: what a selection looks at."""

    kind: str
    layout: TokenLayout
    features: Tensor
    attention: Tensor
    profile: Any
    theta: float

    @classmethod
    def of(cls, n: int, kind: str, dim: int) -> Case:
        """Make an image of ``n`` visual tokens with one kind of graph."""
        layout = inputs.layout_of(n)
        features = inputs.features(layout, dim, length=GRAPHS[kind])
        graph = HybridGraph(features, SpatialPlane.of(layout))
        attention, profile = inputs.attention(layout), inputs.profile(layout, LAYER - 1)
        return cls(kind, layout, features, attention, profile, _clear_of_rounding(graph))


def _clear_of_rounding(graph: HybridGraph, reach: float = 0.01) -> float:
    """Find a threshold within ``reach`` of the graph's where no pair of tokens is near.

    A product of matrices and one of a matrix and a vector round differently; a pair just at the threshold would
    then be an edge for one side only, and the two selections could not be compared token by token.
    """
    nodes = torch.arange(len(graph.features))
    close = [graph.theta + torch.tensor([-reach, reach])]
    for rows in nodes.split(512):
        found = graph.similarity(rows, nodes).flatten()
        close.append(found[(found - graph.theta).abs() < reach])
    values = torch.cat(close).double().sort().values
    widest = int(values.diff().argmax())
    return float(values[widest : widest + 2].mean())


if __name__ == "__main__":
    main()
