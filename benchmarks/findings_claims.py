"""Which conclusions of the first embedded model the second one shares.

    python -m benchmarks.findings_claims --first-profiles p.safetensors heads.safetensors ahead.safetensors \
        --profiles positional.safetensors heads.safetensors ahead.safetensors

Pairs of words that differ in one thing (`benchmarks.findings_methods.taken_apart`) run at equal FLOPs on both models:
the grounder on the test expressions of `benchmarks.fair`, the observer on the expressions and questions of
`benchmarks.findings test`, whose run is gone on with. The order of the methods is compared where `benchmarks.fair`
(its committed results say where) and `benchmarks.findings` have chosen their places.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

import biaslab as bl
from benchmarks.common import RESULTS, arguments, evaluation_arguments
from benchmarks.fair import LAYERS, hits
from benchmarks.findings import measured
from benchmarks.findings_methods import taken_apart
from benchmarks.findings_report import TwoTasks, pair_rows
from benchmarks.gallery_pool import TASKS, tasks
from benchmarks.lookahead import costs
from benchmarks.report import Report, Table, percent
from benchmarks.scene_pool import expressions
from biaslab.stats.resampling import ImageBootstrap, max_t

__all__ = ["order_agreement", "paired_rows"]

COST = "FLOPs of 10% before K = 2"
_RESAMPLES = 2_000
_COLUMNS: dict[str, tuple[str, str]] = {
    "what": ("claim: it buys accuracy", ""), "first": ("grounder, boxes", ""), "p_first": ("p", ".4f"),
    "boxes": ("observer, boxes", ""), "p_boxes": ("p", ".4f"), "questions": ("observer, questions", ""),
    "p_questions": ("p", ".4f"), "survives": ("survives", ""),
}  # fmt: skip


def paired_rows(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], images: np.ndarray) -> list[dict[str, Any]]:
    """List differences of accuracy with intervals and p, family-wise over the pairs (max-T)."""
    bootstrap = ImageBootstrap(images, n_resamples=_RESAMPLES)
    p = max_t(np.stack([with_ - without for with_, without in pairs.values()], 1), images).p_adjusted
    return [
        {"what": what, "first": percent(bootstrap.difference(*pair), "+"), "p_first": float(value),
         "first_value": float(np.mean(pair[0] - pair[1]))}
        for (what, pair), value in zip(pairs.items(), p, strict=True)
    ]  # fmt: skip


def verdict(first: float, p_first: float, second: float, p_second: float) -> str:
    """Say whether a difference that one model shows stands on the other.

    Examples
    --------
    >>> verdict(0.1, 0.001, 0.05, 0.01), verdict(0.1, 0.001, -0.05, 0.01), verdict(0.1, 0.001, 0.01, 0.6)
    ('yes', 'no: reversed', 'not significant on the second')
    >>> verdict(0.01, 0.4, 0.05, 0.01), verdict(0.01, 0.4, 0.0, 0.9)
    ('significant on the second only', 'not significant on either')
    """
    if p_first >= 0.05:
        return "significant on the second only" if p_second < 0.05 else "not significant on either"
    if p_second >= 0.05:
        return "not significant on the second"
    return "yes" if first * second > 0 else "no: reversed"


def order_agreement(
    first: Mapping[str, np.ndarray],
    first_images: np.ndarray,
    second: Mapping[str, np.ndarray],
    second_images: np.ndarray,
) -> tuple[float, float, float]:
    """Correlate the ranks of methods by accuracy on two models (Spearman), with a 95 % interval over images of both.

    Parameters
    ----------
    first, second : mapping of str to (n,) array
        Method -> hits; methods of both are compared.
    first_images, second_images : (n,) array

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> hits = {f"m{k}": (rng.random(400) < 0.5 + k / 20).astype(float) for k in range(10)}
    >>> images = np.arange(400)
    >>> [round(v, 1) for v in order_agreement(hits, images, hits, images)][0]
    1.0
    """
    names = [name for name in first if name in second]
    sides = [
        (np.stack([of[name] for name in names], 1), images)
        for of, images in ((first, first_images), (second, second_images))
    ]
    rng = np.random.default_rng(0)
    draws = []
    for values, images in sides:
        of_image = pd.DataFrame(values).groupby(np.asarray(images)).agg(["sum", "count"])
        sums, counts = (of_image.xs(what, axis=1, level=1).to_numpy(float) for what in ("sum", "count"))
        weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_RESAMPLES)
        draws.append((weights @ sums) / (weights @ counts))
    replicates = [spearmanr(a, b).statistic for a, b in zip(*draws, strict=True)]
    value = spearmanr(*(values.mean(0) for values, _ in sides)).statistic
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(value), float(low), float(high)


def _best(choice: Path) -> dict[str, str]:
    """Read where `benchmarks.findings choose` has every method stand: method -> word."""
    table = pd.DataFrame(json.loads(choice.read_text(encoding="utf-8"))["candidates"])
    best = table[table["best"] & (table["cost"] == COST)]
    return dict(zip(best["method"], best["word"], strict=True))


def best_of_fair(results: Path) -> dict[str, str]:
    """Read where `benchmarks.fair` has every method stand: method -> word.

    Examples
    --------
    >>> words = best_of_fair(RESULTS / "fair.json")
    >>> words["divprune"], words["d2pruner"]
    ('divprune@0.3046@0', 'd2pruner@0.2149@1')
    """
    tables = json.loads(results.read_text(encoding="utf-8"))["tables"]
    rows = next(table["rows"] for table in tables if table["caption"] == COST)
    return {row["method"]: row["word"] for row in rows}


def _hits(lines: Mapping[str, pd.DataFrame], words: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {method: lines[word]["hit"].to_numpy(float) for method, word in words.items()}


def main(argv: list[str] | None = None) -> None:
    """Run what is missing of both models and write the table."""
    parser = arguments("benchmarks.findings_claims", __doc__ or "", repeats=1)
    parser.add_argument("--first-profiles", type=Path, nargs="+", default=[])
    parser.add_argument("--profiles", type=Path, nargs="+", default=[])
    parser.add_argument("--images", type=int, default=420, help="images of the observer's test split")
    parser.add_argument("--n", type=int, default=1000, help="test expressions of the grounder, from 7,101 on")
    parser.add_argument("--model", default="observer")
    evaluation_arguments(parser, batch_size=16, runs=Path("runs/findings"))
    parser.add_argument("--fair", type=Path, default=RESULTS / "fair.json", help="results of benchmarks.fair")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    first_data = expressions("test", 7100, options.n, options.processes)
    first_images = np.array([str(sample.image_id) for sample in first_data])
    rows, first_order = _first(first_data, first_images, options)
    vlm = bl.load(options.model, device=options.device, dtype="float32")
    options.loaded = [bl.load_profile(path) for path in options.profiles]
    data = tasks("test", range(options.images))
    pairs, best = _pairs(vlm, data["boxes"]), _best(options.runs / "choice.json")
    words = [*(word for pair in pairs.values() for word in pair), *best.values()]
    lines = measured(vlm, data, words, options, "test")
    both = TwoTasks.from_lines(lines, data)
    taken = {
        what: tuple(both.column(task, word) for task in TASKS for word in pair) for what, pair in pairs.items()
    }  # fmt: skip
    for row, other in zip(rows, pair_rows(taken, both), strict=True):
        row |= other
        difference = float(np.nanmean(taken[row["what"]][0] - taken[row["what"]][1]))
        row["survives"] = verdict(row["first_value"], row["p_first"], difference, row["p_boxes"])
    orders = [
        {"what": f"order of the methods, grounder boxes and observer {task} (Spearman)",
         "value": "{:.2f} [{:.2f}, {:.2f}]".format(
             *order_agreement(first_order, first_images, _hits(lines[task], best), both.images[both.of[task]])
         )}
        for task in TASKS
    ]  # fmt: skip
    Report(
        name="findings_claims", title="Which conclusions the second model shares",
        settings={
            "grounder": f"{len(first_data)} boxes", "observer": ", ".join(f"{len(data[t])} {t}" for t in TASKS),
            "cost": COST, "device": options.device,
        },
        tables=[
            Table("what is worth how much, in points of accuracy", _COLUMNS, rows),
            Table("order of the methods at their chosen places", {"what": ("", ""), "value": ("", "")}, orders),
        ],
        notes=["p: family-wise over the lines, each column by itself (max-T); survives: by the boxes of both models"],
    ).publish(options.out)  # fmt: skip


def _pairs(vlm: bl.VLM, data: Any) -> dict[str, tuple[str, str]]:
    return taken_apart(next(iter(costs(vlm, data, LAYERS, shares=(), before=(0.1,)).values())))


def _first(data: Any, images: np.ndarray, options: argparse.Namespace) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Run the pairs, and every method at its chosen place, on the grounder."""
    own = copy(options)
    own.loaded = [bl.load_profile(path) for path in options.first_profiles]
    vlm = bl.load("grounder", device=options.device, dtype="float32")
    pairs, best = _pairs(vlm, data), best_of_fair(options.fair)
    words: Sequence[str] = ["none", *(word for pair in pairs.values() for word in pair), *best.values()]
    lines = hits(vlm, data, list(dict.fromkeys(words)), own, options.runs / "first")
    of = {what: (_hits(lines, {"a": a})["a"], _hits(lines, {"b": b})["b"]) for what, (a, b) in pairs.items()}
    return paired_rows(of, images), _hits(lines, best)


if __name__ == "__main__":
    main()
