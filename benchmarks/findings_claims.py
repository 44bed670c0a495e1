"""Which conclusions of the first embedded model the second one shares.

    python -m benchmarks.findings_claims --first-profiles positional.safetensors heads.safetensors \
        localization-heads.safetensors look-ahead.safetensors

Behind `benchmarks.findings test`, whose run is gone on with. Pairs of words that differ in one thing
(`benchmarks.findings_methods.taken_apart`), and methods at their chosen places, run at equal FLOPs on both models: the
grounder on the test expressions of `benchmarks.fair`, the observer on the expressions and questions of
`benchmarks.findings`. The grounder's places are those of `benchmarks.fair`, as its committed results have them. The
profiles of the grounder are fitted as there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from copy import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import biaslab as bl
from benchmarks.common import RESULTS, arguments, evaluation_arguments
from benchmarks.fair import LAYERS, hits
from benchmarks.findings import FIRST, chosen, measured, renumbered, stamp_of
from benchmarks.findings_fit import explained, folder_of_profiles, loaded
from benchmarks.findings_methods import DEPTHS, at_depths, chosen_pairs, taken_apart
from benchmarks.findings_report import MIDDLE
from benchmarks.findings_rows import TwoTasks, pair_rows
from benchmarks.gallery_pool import TASKS, tasks
from benchmarks.lookahead import costs
from benchmarks.paired import paired_differences
from benchmarks.report import Report, Table, percent
from benchmarks.scene_pool import expressions
from biaslab.stats.resampling import ImageBootstrap, max_t

__all__ = ["best_of_fair", "order_agreement", "paired_rows"]

_RESAMPLES = 2_000
_COLUMNS: dict[str, tuple[str, str]] = {
    "what": ("claim: it buys accuracy", ""), "first": ("grounder, boxes", ""), "p_first": ("p", ".4f"),
    "boxes": ("observer, boxes", ""), "p_boxes": ("p", ".4f"), "survives_boxes": ("survives", ""),
    "questions": ("observer, questions", ""), "p_questions": ("p", ".4f"), "survives_questions": ("survives", ""),
}  # fmt: skip
_DEPTH: dict[str, tuple[str, str]] = {
    "model": ("model", ""), "k": ("K", "d"), "explained": ("explained by position", ".2f"),
    "auroc": ("AUROC of the target, %", ""), "gain": ("debiasing, boxes", ""), "p": ("p", ".4f"),
}  # fmt: skip


def paired_rows(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], images: np.ndarray) -> list[dict[str, Any]]:
    """List differences of accuracy with intervals and p, family-wise over the pairs (max-T)."""
    bootstrap = ImageBootstrap(images, n_resamples=_RESAMPLES)
    found = paired_differences([with_ - without for with_, without in pairs.values()], images, bootstrap)
    return [
        {"what": what, "first": one.text, "p_first": one.p, "first_value": one.value}
        for what, one in zip(pairs, found, strict=True)
    ]


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
) -> tuple[int, float, float, float, int]:
    """Hold the order of pairs of methods that one model tells apart against another model's.

    Ranks of methods that hardly differ are noise; of pairs that differ significantly on the first model (sign flips,
    family-wise over all pairs) the order is known, and either is that of the second or is not.

    Parameters
    ----------
    first, second : mapping of str to (n,) array
        Method -> hits; methods of both are compared.
    first_images, second_images : (n,) array

    Returns
    -------
    pairs : int
        That the first model orders significantly.
    share, lo, hi : float
        Of these, ordered alike by the second's accuracies; 95 % interval over its images.
    reversed : int
        Of these, significantly the other way round on the second, family-wise over them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> hits = {f"m{k}": (rng.random(400) < 0.2 + k / 8).astype(float) for k in range(6)}
    >>> images = np.arange(400)
    >>> order_agreement(hits, images, hits, images)[1:]
    (1.0, 1.0, 1.0, 0)
    """
    names = [name for name in first if name in second]
    every = list(combinations(names, 2))
    differences = np.stack([first[a] - first[b] for a, b in every], 1)
    known = np.flatnonzero(np.asarray(max_t(differences, first_images).p_adjusted) < 0.05)
    if not len(known):
        return 0, float("nan"), float("nan"), float("nan"), 0
    sign = np.sign(differences[:, known].mean(0))
    others = np.stack([second[a] - second[b] for a, b in (every[i] for i in known)], 1) * sign
    p = np.asarray(max_t(others, second_images).p_adjusted)
    of_image = pd.DataFrame(others).groupby(np.asarray(second_images)).sum().to_numpy()
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(of_image), np.full(len(of_image), 1 / len(of_image)), size=_RESAMPLES)
    low, high = np.quantile(((weights @ of_image) > 0).mean(1), [0.025, 0.975])
    mean = others.mean(0)
    share = float((mean > 0).mean())
    return len(known), share, float(low), float(high), int(((p < 0.05) & (mean < 0)).sum())


def best_of_fair(results: Path) -> dict[str, str]:
    """Read where `benchmarks.fair` has every method stand: method -> word.

    Examples
    --------
    >>> words = best_of_fair(RESULTS / "fair.json")
    >>> words["divprune"], words["d2pruner"]
    ('divprune@0.3046@0', 'd2pruner@0.2149@1')
    """
    tables = json.loads(results.read_text(encoding="utf-8"))["tables"]
    rows = next(table["rows"] for table in tables if table["caption"] == MIDDLE)
    return {row["method"]: row["word"] for row in rows}


def _first(options: argparse.Namespace) -> dict[str, Any]:
    """Run on the grounder: differences of pairs, hits at chosen places, the depths of attention."""
    data = expressions("test", 7100, options.n, options.processes)
    images = np.array([str(sample.image_id) for sample in data])
    own = copy(options)
    own.loaded = [bl.load_profile(path) for path in options.first_profiles]
    vlm = bl.load("grounder", device=options.device, dtype="float32")
    keeps = next(iter(costs(vlm, data, LAYERS, shares=(), before=(0.1,)).values()))
    best = best_of_fair(options.fair)
    pairs, depths = taken_apart(keeps) | chosen_pairs(best), _depth_words()
    words = ["none", *(word for pair in pairs.values() for word in pair), *best.values(), *depths]
    lines = hits(vlm, data, list(dict.fromkeys(words)), own, options.runs / "first")
    again = hits(vlm, data, renumbered(keeps), own, options.runs / "first-renumbered", positions="renumber")
    hit = {word: of["hit"].to_numpy(float) for word, of in lines.items()}
    both = {what: (hit[a], hit[b]) for what, (a, b) in pairs.items()}
    both |= {_kept_positions(word): (hit[word], again[word]["hit"].to_numpy(float)) for word in renumbered(keeps)}
    return {
        "rows": paired_rows(both, images), "images": images, "n": len(data),
        "hits": {method: hit[word] for method, word in best.items()},
        "depth": _depth("grounder", lines, images, explained(own.loaded)),
    }  # fmt: skip


def _kept_positions(word: str) -> str:
    return f"positions kept, not renumbered (`{word.split('@')[0]}`, K = 0)"


def _depth_words() -> list[str]:
    return [word for method in ("fastv", "relative") for word in at_depths(method).values()]


def _depth(
    model: str, lines: Mapping[str, pd.DataFrame], images: np.ndarray, biased: Mapping[int, float]
) -> list[dict[str, Any]]:
    """List by layer K, 10 % kept before it, the bias, what attention knows, and what debiasing is worth (boxes)."""
    fastv, relative = at_depths("fastv"), at_depths("relative")
    bootstrap = ImageBootstrap(images, n_resamples=_RESAMPLES)
    differences = [(lines[relative[k]]["hit"] - lines[fastv[k]]["hit"]).to_numpy(float) for k in DEPTHS]
    return [
        {"model": model, "k": k, "explained": float(biased[k - 1]), "p": found.p, "gain": found.text,
         "auroc": percent(bootstrap.mean(lines[fastv[k]]["target_auroc"].to_numpy(float)))}
        for k, found in zip(DEPTHS, paired_differences(differences, images, bootstrap), strict=True)
    ]  # fmt: skip


def _second(options: argparse.Namespace) -> dict[str, Any]:
    """Run on the observer what `benchmarks.findings test` has not, boxes and questions."""
    vlm = bl.load(options.model, device=options.device, dtype="float32")
    options.loaded = loaded(vlm, folder_of_profiles(options))
    table, keeps = chosen(options.runs, stamp_of(vlm, options.loaded))
    own = table[table["best"] & (table["cost"] == MIDDLE)]
    best = dict(zip(own["method"], own["word"], strict=True))
    pairs = taken_apart(keeps) | chosen_pairs(best)
    data = tasks("test", range(FIRST["test"], FIRST["test"] + options.images))
    words = [*(word for pair in pairs.values() for word in pair), *best.values(), *_depth_words()]
    lines = measured(vlm, data, words, options, "test")
    both = TwoTasks.from_lines(lines, data)
    again = TwoTasks.from_lines(
        measured(vlm, data, renumbered(keeps), options, "renumbered", positions="renumber"), data
    )
    taken = {what: tuple(both.column(task, word) for task in TASKS for word in pair) for what, pair in pairs.items()}
    for word in renumbered(keeps):
        taken[_kept_positions(word)] = tuple(side.column(task, word) for task in TASKS for side in (both, again))
    images = {task: both.images[both.of[task]] for task in TASKS}
    return {
        "rows": {row["what"]: row for row in pair_rows(taken, both)}, "images": images, "data": data,
        "hits": {task: {method: both.hits[task][word] for method, word in best.items()} for task in TASKS},
        "depth": _depth("observer", lines["boxes"], images["boxes"], explained(options.loaded)),
    }  # fmt: skip


def claims(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Put both models side by side: what each thing is worth and whether it survives, and the order of the methods."""
    rows = [row | second["rows"][row["what"]] for row in first["rows"] if row["what"] in second["rows"]]
    for row in rows:
        for task in TASKS:
            values = (row["first_value"], row["p_first"], row[f"{task}_value"], row[f"p_{task}"])
            row[f"survives_{task}"] = verdict(*values)
    orders = []
    for task in TASKS:
        agreement = order_agreement(first["hits"], first["images"], second["hits"][task], second["images"][task])
        pairs, *share, turned = agreement
        orders.append({"task": task, "pairs": pairs, "alike": percent(tuple(share)), "reversed": turned})
    return rows, orders


def main(argv: list[str] | None = None) -> None:
    """Run what is missing of both models and write the tables."""
    parser = arguments("benchmarks.findings_claims", __doc__ or "", repeats=1)
    parser.add_argument("--first-profiles", type=Path, nargs="+", default=[], help="of the grounder")
    parser.add_argument("--images", type=int, default=420, help="images of the observer's test split")
    parser.add_argument("--n", type=int, default=1000, help="test expressions of the grounder, from 7,101 on")
    parser.add_argument("--model", default="observer")
    parser.add_argument("--profiles", type=Path, help="of the observer: folder; default profiles in --runs")
    evaluation_arguments(parser, batch_size=16, runs=Path("runs/findings"))
    parser.add_argument("--fair", type=Path, default=RESULTS / "fair.json", help="results of benchmarks.fair")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    second, first = _second(options), _first(options)
    rows, orders = claims(first, second)
    Report(
        name="findings_claims", title="Which conclusions the second model shares",
        settings={
            "grounder": f"{first['n']} boxes", "observer": ", ".join(f"{len(second['data'][t])} {t}" for t in TASKS),
            "cost": MIDDLE, "device": options.device,
        },
        tables=[
            Table("what is worth how much, in points of accuracy", _COLUMNS, rows),
            Table("debiasing by layer, 10% kept before K", _DEPTH, [*first["depth"], *second["depth"]]),
            Table("pairs of methods that the grounder orders significantly, at their chosen places",
                  {"task": ("observer's", ""), "pairs": ("pairs", "d"), "alike": ("ordered alike", ""),
                   "reversed": ("significantly reversed", "d")}, orders),
        ],
        notes=[
            "p: family-wise over the lines of a table, each model and task by itself (max-T)",
            "survives: significant and of one sign on both; the grounder answers boxes alone",
        ],
    ).publish(options.out)  # fmt: skip


if __name__ == "__main__":
    main()
