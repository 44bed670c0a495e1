"""Look-ahead against its rivals at equal cost, on test expressions of the scenes that nothing was chosen on.

Three costs are shares of the visual tokens that a decoder layer sees on average (5, 10, 15.6 %), three are FLOPs of the
prefill (what "5, 10, 20 % before K = 2" cost). Methods that read no attention run before the decoder, the others at
every layer that can be had for the cost; of a rival's layers the best is taken on these very expressions, which is in
its favour; an oracle that knows the target's place is the bound. Differences are paired, their intervals by bootstrap
over images, their p-values family-wise over all rivals and costs (max-T).

    python -m benchmarks.lookahead --profile la.safetensors --positional p600.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import biaslab as bl
from benchmarks.common import arguments
from benchmarks.oracle import Oracle
from benchmarks.report import Report, Table, percent
from benchmarks.scene_pool import Expressions, expressions
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError
from biaslab.evaluation.matching import PromptSizes, matched_keeps
from biaslab.stats.resampling import ImageBootstrap, max_t

LAYERS = (2, 1, 3)  # of methods that read attention, where the cost can be had
SHARES = (0.05, 0.1, 0.156)
BEFORE_2 = (0.05, 0.1, 0.2)
BLIND = ("uniform", "random", "divprune")
READING = ("fastv", "relative", "layer_ratio", "d2pruner", "d2pruner:pivots_suppress=true")
FIRST = {"layer_ratio": 2}  # the lowest layer that a method can be had for, where it is not 1
OURS, BOUND = "lookahead", "oracle"
Columns = dict[str, tuple[str, str]]
COLUMNS: Columns = {
    "method": ("method", ""), "layer": ("before layer", "d"), "keep": ("tokens kept", ".1%"),
    "accuracy": ("Acc@0.5", ""), "kept": ("of the unpruned", ""), "ours_minus_it": ("look-ahead minus it", ""),
    "p": ("p", ".4f"), "at_other_layers": ("Acc@0.5 at other layers", ""),
}  # fmt: skip
_RESAMPLES = 10_000


def costs(
    vlm: bl.VLM,
    data: Expressions,
    layers: Sequence[int] = LAYERS,
    shares: Sequence[float] = SHARES,
    before: Sequence[float] = BEFORE_2,
) -> dict[str, dict[int, float | int]]:
    """List the costs, each with the keep that every layer has for it, layer 0 first."""
    sizes = PromptSizes(vlm, data.samples)
    found: dict[str, dict[int, float | int]] = {}
    for name, match, keep, at in [
        *((f"mean share {share:.1%}", "mean-share", share, 0) for share in shares),
        *((f"FLOPs of {keep:.0%} before K = 2", "flops", keep, 2) for keep in before),
    ]:
        aim = sizes.cost(match)(keep, at)
        found[name] = {}
        for layer in (0, *layers):
            try:
                ((of_layer,),) = matched_keeps(sizes, [keep], [layer], f"{match}={aim!r}").values()
            except InputError:
                continue  # the layers before it cost more than that
            found[name][layer] = of_layer
    return found


def measured(vlm: bl.VLM, data: Expressions, costs_: dict, profiles: list, options: argparse.Namespace) -> pd.DataFrame:
    """Run what is compared, a folder for each layer, and return hits: expressions x (method, layer, keep)."""
    columns = []
    for layer in dict.fromkeys(layer for keeps in costs_.values() for layer in keeps):
        keeps = list(dict.fromkeys(keeps[layer] for keeps in costs_.values() if layer in keeps))
        reading = [method for method in READING if layer >= FIRST.get(method, 1)]
        methods = ["none", *BLIND, OURS, Oracle.of(data)] if layer == 0 else ["divprune", *reading]
        results = bl.evaluate(
            vlm, data, methods=methods, keep=keeps, layer=layer, profile=profiles, out=options.runs / f"layer-{layer}",
            batch_size=options.batch_size, progress=False,
        )  # fmt: skip
        lines = results.samples
        lines["hit"] = lines["hit"].fillna(False).astype(float)  # a failed line is a miss
        names = lines["options_hash"].astype(str).map(results.labels).fillna("none")
        names = names.where(lines["method"].astype(str) != BOUND, BOUND)  # which is known to no registry
        for (method, keep), own in lines.groupby([names, lines["keep"].fillna(1)], sort=False):
            columns.append(own.set_index("id")["hit"].rename((str(method), layer, float(keep))))
    described = pd.DataFrame([_described(sample) for sample in data]).set_index("id")
    return pd.concat([described, *columns], axis=1)


def _described(sample: Sample) -> dict[str, Any]:
    """Say of an expression what accuracy may depend on."""
    box = sample.box
    x, y = (box.x0 + box.x1) / 2 / sample.width, (box.y0 + box.y1) / 2 / sample.height
    third = [min(int(3 * z), 2) for z in (y, x)]
    place = f"{('top', 'middle', 'bottom')[third[0]]} {('left', 'centre', 'right')[third[1]]}"
    return {
        "id": sample.id, "image_id": sample.image_id, "kind": sample.expression_type, "size": sample.object_size,
        "place": place, "area": box.area / (sample.width * sample.height),
    }  # fmt: skip


def compared(lines: pd.DataFrame, costs_: dict) -> pd.DataFrame:
    """Compare by cost: of each method the best layer, accuracy, retention, our difference from it and its p-value."""
    images = lines["image_id"].to_numpy(str)
    bootstrap = ImageBootstrap(images, n_resamples=_RESAMPLES)
    full = lines[("none", 0, 1.0)].to_numpy()
    rows, differences = [], []
    for cost, keeps in costs_.items():
        ours = lines[OURS, 0, float(keeps[0])].to_numpy()
        for method in (OURS, BOUND, *BLIND, *READING):
            of_method = [(method, layer, float(keep)) for layer, keep in keeps.items()]
            of_method = [key for key in of_method if key in lines]
            if not of_method:
                continue
            best = max(of_method, key=lambda key: lines[key].mean())
            hits = lines[best].to_numpy()
            rows.append({
                "cost": cost, "method": method, "layer": best[1], "keep": best[2],
                "accuracy": bootstrap.mean(hits), "kept": bootstrap.ratio(hits, full),
                "ours_minus_it": None if method in (OURS, BOUND) else bootstrap.difference(ours, hits),
                "at_other_layers": {key[1]: round(100 * lines[key].mean(), 1) for key in of_method if key != best},
            })  # fmt: skip
            if method not in (OURS, BOUND):
                differences.append(ours - hits)
    p = iter(max_t(np.stack(differences, 1), images).p_adjusted)
    return pd.DataFrame([{**row, "p": None if row["ours_minus_it"] is None else next(p)} for row in rows])


def by_kind(lines: pd.DataFrame, costs_: dict) -> list[dict[str, Any]]:
    """List accuracy by kind of expression, size and place of object: ours, in brackets DivPrune before the decoder."""
    smallest = lines["area"] <= lines["area"].quantile(0.1)
    rows = []
    for column in ("kind", "size", "smallest", "place"):
        groups: Any = [("smallest tenth", lines[smallest])] if column == "smallest" else lines.groupby(column)
        for value, own in groups:
            row: dict[str, Any] = {"of": str(value), "n": len(own), "none": 100 * own["none", 0, 1.0].mean()}
            for cost, keeps in costs_.items():
                ours, blind = (100 * own[method, 0, float(keeps[0])].mean() for method in (OURS, "divprune"))
                row[cost] = f"{ours:.1f} ({blind:.1f})"
            rows.append(row)
    return rows


def report(lines: pd.DataFrame, costs_: dict, options: argparse.Namespace) -> Report:
    """Lay out a table for each cost, and one by kind."""
    table = compared(lines, costs_)
    full = ImageBootstrap(lines["image_id"].to_numpy(str), n_resamples=_RESAMPLES).mean(lines["none", 0, 1.0])
    kinds: Columns = {"of": ("", ""), "n": ("n", "d"), "none": ("none", ".1f"), **{cost: (cost, "") for cost in costs_}}
    return Report(
        name="lookahead",
        title="Look-ahead at equal cost",
        settings={"model": "grounder", "split": options.split, "first": options.first + 1, "expressions": len(lines),
                  "unpruned": percent(full), "device": _device(options.device)},
        tables=[
            *(Table(cost, COLUMNS, _cells(own)) for cost, own in table.groupby("cost", sort=False)),
            Table("look-ahead (DivPrune) before the decoder, by kind, size and place", kinds, by_kind(lines, costs_)),
        ],
        notes=[
            "percent, with 95 % intervals (bootstrap over images, paired)",
            "of every method the best layer for the cost, taken on these very expressions",
            "p: family-wise over all lines (max-T)",
            "oracle: knows the target's place, keeps its tokens and those around it, evenly spread: a bound, no method",
        ],
    )  # fmt: skip


def main() -> None:
    """Run, print and write the tables."""
    parser = arguments("benchmarks.lookahead", __doc__ or "", repeats=1)
    parser.add_argument("--profile", type=Path, required=True, help="conditional profile of the grounder")
    parser.add_argument("--positional", type=Path, required=True, help="positional profile of the grounder")
    parser.add_argument("--first", type=int, default=3100, help="test expressions before the first one")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="that render the scenes")
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--runs", type=Path, default=Path("runs/look-ahead"))
    parser.add_argument("--before-decoder", action="store_true", help="leave out methods that read attention")
    options = parser.parse_args()
    data = expressions(options.split, options.first, options.n, options.processes)  # forks: before the model is there
    vlm = bl.load("grounder", device=options.device, dtype="float32")
    profiles = [bl.load_profile(options.positional), bl.load_profile(options.profile)]
    found = costs(vlm, data, () if options.before_decoder else LAYERS)
    lines = measured(vlm, data, found, profiles, options)
    report(lines, found, options).publish(options.out)


def _cells(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "method": row.method, "layer": row.layer, "keep": row.keep, "accuracy": percent(row.accuracy),
            "kept": percent(row.kept), "p": row.p if row.ours_minus_it else None,
            "ours_minus_it": percent(row.ours_minus_it, "+") if row.ours_minus_it else None,
            "at_other_layers": ", ".join(f"{k}: {v}" for k, v in row.at_other_layers.items()) or None,
        }
        for row in rows.itertuples()
    ]  # fmt: skip


def _device(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else name


if __name__ == "__main__":
    main()
