"""Every method at equal cost on the grounder: chosen on validation, measured once on test expressions.

A cost is a mean share of visual tokens over the layers, or the FLOPs of the prefill (what "5, 10, 20 % before K = 2"
cost). Under each cost every method runs at every layer from which it can still be had for it, at the keep that costs
just that, and by its own schedule where it has one. Which of a method's places is the best is chosen on validation;
test expressions are then run once: each method at its best place, and at its published layers scaled to the depth.

Three steps, each of which goes on where it was interrupted:

    python -m benchmarks.fair choose --profiles p.safetensors heads.safetensors lh.safetensors la.safetensors
    python -m benchmarks.fair time --profiles ...
    python -m benchmarks.fair test --profiles ...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import biaslab as bl
from benchmarks import fair_report, fair_times
from benchmarks.common import arguments, evaluation_arguments
from benchmarks.fair_methods import ABLATIONS, COMBINED, METHODS, OWN, Ablation
from benchmarks.lookahead import costs
from benchmarks.scene_pool import Expressions, expressions
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.matching import PromptSizes, matched_share
from biaslab.evaluation.schema import KEY_FIELDS
from biaslab.pruning import Schedule, parse
from biaslab.pruning.schedule import schedule_in

__all__ = ["Candidate", "candidates", "hits", "published_layer"]

LAYERS = (1, 2, 3)
SHARES = (0.156,)
BEFORE_2 = (0.05, 0.1, 0.2)
_DEPTH = 32  # of the decoders that layers are published for


@dataclass(frozen=True)
class Candidate:
    """A method under a cost, at one place; ``word`` says layers and keeps, ``place`` is its layer K or "own"."""

    cost: str
    method: str
    place: str
    word: str


def published_layer(layer: int, n_layers: int) -> int:
    """Scale a layer K of 32 to a depth: before the decoder stays there, others stay behind the first layer.

    Examples
    --------
    >>> published_layer(0, 10), published_layer(2, 10), published_layer(16, 10)
    (0, 1, 5)
    """
    return 0 if layer == 0 else max(1, round(layer * n_layers / _DEPTH))


def candidates(
    vlm: bl.VLM, data: Expressions, profiles: Sequence[Any], *, methods: Iterable[str] | None = None,
    shares: Sequence[float] | None = None, before: Sequence[float] | None = None, layers: Sequence[int] = LAYERS,
) -> list[Candidate]:  # fmt: skip
    """List what every method can be under every cost.

    Raises
    ------
    InputError
        A method can be nowhere under any cost, and why: a profile is missing, or is another model's.
    """
    shares, before = SHARES if shares is None else shares, BEFORE_2 if before is None else before
    keeps_of = costs(vlm, data, layers, shares=shares, before=before)
    sizes = PromptSizes(vlm, data.samples)
    found: list[Candidate] = []
    methods = list(METHODS if methods is None else methods)
    for cost, keeps in keeps_of.items():
        what = "flops" if "FLOPs" in cost else "mean-share"
        aim = sizes.cost(what)(keeps[0], 0)
        for method in methods:
            found += _single(vlm, cost, method, keeps, profiles)
            found += _own(vlm, sizes, cost, method, (aim, what), profiles)
        found += [
            candidate
            for name, (method, change) in COMBINED.items()
            for candidate in _own(vlm, sizes, cost, method, (aim, what), profiles, name=name, change=change)
        ]
    if missing := [method for method in methods if method not in {candidate.method for candidate in found}]:
        word = f"{missing[0]}@0.5@2"
        raise InputError(f"{', '.join(missing)} can stand nowhere: {_why_not(vlm, word, profiles) or 'too dear'}")
    return found


def _single(
    vlm: bl.VLM, cost: str, method: str, keeps: dict[int, float | int], profiles: Sequence[Any]
) -> Iterable[Candidate]:
    """Make a method's single cuts, wherever it can stand."""
    for layer, keep in keeps.items():
        word = f"{method}@{json.dumps(keep)}@{layer}"
        if _why_not(vlm, word, profiles) is None:
            yield Candidate(cost, method, str(layer), word)


def _own(
    vlm: bl.VLM, sizes: PromptSizes, cost: str, method: str, aim: tuple[float, str], profiles: Sequence[Any],
    name: str | None = None, change: Any = None,
) -> Iterable[Candidate]:  # fmt: skip
    """Make a method's own schedule at the cost, if it has one and the cost can be had."""
    for option in OWN.get(method, ("",)):
        rule = parse(method + option)
        if rule.own_stages(_DEPTH) is None:
            return
        try:
            schedule = schedule_in(vlm, rule.with_keep(matched_share(sizes, vlm, rule, *aim)))
            assert schedule is not None
            word = schedule.word if change is None else change(schedule)
        except InputError:
            continue  # its layers before the first cut cost more
        if _why_not(vlm, word, profiles) is None:
            yield Candidate(cost, name or method, f"own{option}", word)


def _why_not(vlm: bl.VLM, word: str, profiles: Sequence[Any]) -> str | None:
    """Say why a method cannot stand where a word puts it (the layer it reads, its profile); None where it can."""
    try:
        (config,) = configurations(word, 1.0, None, profiles, model=vlm)
        with bl.prune(vlm, **config.engagement):
            return None
    except BiaslabError as error:
        return str(error)


def hits(
    vlm: bl.VLM, data: Expressions, words: Iterable[str], options: argparse.Namespace, out: Path, **more: Any
) -> dict[str, pd.DataFrame]:
    """Run words (or ``"none"``) and list for each of them hit, overlap and AUROC of every sample, by id."""
    config_of = {word: configurations(word, 1.0, None, options.loaded, model=vlm)[0] for word in words}
    once = {config.key: word for word, config in config_of.items()}  # a default may be said or not
    results = bl.evaluate(
        vlm, data, methods=list(once.values()), keep=1.0, profile=options.loaded, out=out, reference=None,
        batch_size=options.batch_size, progress=True, processes=options.processes, retry_errors=True, **more,
    )  # fmt: skip
    lines = results.verdicts.astype({"id": str})
    lines["hit"] = lines["hit"].fillna(False).astype(float)  # a failed line is a miss
    lines["iou"] = lines["iou"].fillna(0.0)
    by = lines.groupby(list(KEY_FIELDS), dropna=False, observed=True)
    groups = {_key(dict(zip(KEY_FIELDS, key, strict=True))): own for key, own in by}
    order = [sample.id for sample in data]
    return {
        word: groups[_key(config.describe())].set_index("id")[["hit", "iou", "error", "target_auroc"]].loc[order]
        for word, config in config_of.items()
    }


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    layer = -1 if pd.isna(record["layer"]) else int(record["layer"])
    keep = record["keep"]
    return (*(str(record[name] or "") for name in KEY_FIELDS[:3]), round(float(keep), 9), layer)


def choose(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run all candidates on validation and write down the best place of every method under every cost."""
    data = options.data
    found = candidates(vlm, data, options.loaded)
    measured = hits(vlm, data, ["none", *(c.word for c in found)], options, options.runs / "choose")
    rows = [
        {**asdict(c), "accuracy": float(measured[c.word]["hit"].mean()), "iou": float(measured[c.word]["iou"].mean())}
        for c in found
    ]
    table = pd.DataFrame(rows)
    table["best"] = False
    best = table.sort_values(["accuracy", "iou"], ascending=False, kind="stable").drop_duplicates(["cost", "method"])
    table.loc[best.index, "best"] = True
    shown = {"split": "validation", "first": options.first + 1, "n": len(data), "none": measured["none"]["hit"].mean()}
    (options.runs / "choice.json").write_text(
        json.dumps({"settings": shown, "candidates": table.to_dict("records")}, indent=1), encoding="utf-8"
    )


def test(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run on test what was chosen and what is published, and the ablation; write the tables."""
    data = options.data
    choice = json.loads((options.runs / "choice.json").read_text(encoding="utf-8"))
    table = pd.DataFrame(choice["candidates"])
    table["published"] = [_is_published(row.method, row.place, vlm.n_layers) for row in table.itertuples()]
    kept = table[table["best"] | table["published"]].reset_index(drop=True)
    measured = hits(vlm, data, ["none", *kept["word"]], options, options.runs / "test")
    times = options.runs / "times.json"
    timed = json.loads(times.read_text(encoding="utf-8")) if times.exists() else {}
    few = Expressions(data.split, data.samples[: options.ablation_n])
    for parts in ([], _ablation_parts(vlm, few, options)):  # the tables are there before the ablation is
        found = fair_report.report(kept, measured, data, choice["settings"], list(parts), timed, options)
        found.write(options.out)
    print(found.markdown())


def _is_published(method: str, place: str, n_layers: int) -> bool:
    at = METHODS.get(method)
    if at is None:
        return False
    return place.startswith("own") if at == "own" else place == str(published_layer(int(at), n_layers))


def _ablation_parts(
    vlm: bl.VLM, data: Expressions, options: argparse.Namespace
) -> Iterable[tuple[Ablation, dict[str, pd.DataFrame]]]:
    """Run the ablation: what has the same positions in one run."""
    keeps = next(iter(costs(vlm, data, LAYERS, shares=(), before=(0.1,)).values()))
    own = _schedules(vlm, data, keeps[0])
    words = {
        one.name: {
            name: word for name, word in one.words(keeps, own).items() if _why_not(vlm, word, options.loaded) is None
        }
        for one in ABLATIONS
    }
    measured = {}
    for positions in dict.fromkeys(ablation.positions for ablation in ABLATIONS):  # as much at once as can be shared
        asked = [w for one in ABLATIONS if one.positions == positions for w in words[one.name].values()]
        out = options.runs / f"ablation-{positions}"
        measured[positions] = hits(vlm, data, asked, options, out, positions=positions)
    for ablation in ABLATIONS:
        of_words = measured[ablation.positions]
        yield ablation, {name: of_words[word] for name, word in words[ablation.name].items()}


def _schedules(vlm: bl.VLM, data: Expressions, keep: float | int) -> dict[str, Schedule]:
    """Make the schedules of `stagewise` that cost as many FLOPs as a keep before the decoder."""
    sizes = PromptSizes(vlm, data.samples)
    aim = sizes.cost("flops")(keep, 0)
    found = {}
    for option in OWN["stagewise"]:
        rule = parse(f"stagewise{option}")
        schedule = schedule_in(vlm, rule.with_keep(matched_share(sizes, vlm, rule, aim, "flops")))
        assert schedule is not None
        found[f"stagewise{option}"] = schedule
    return found


def main(argv: list[str] | None = None) -> None:
    """Run one step."""
    parser = arguments("benchmarks.fair", __doc__ or "", repeats=7)
    parser.add_argument("step", choices=("choose", "time", "test"))
    about = "positional, per head with their quality, of localization heads, conditional"
    parser.add_argument("--profiles", type=Path, nargs="+", default=[], help=about)
    parser.add_argument("--first", type=int, help="expressions of the split before the first one")
    parser.add_argument("--n", type=int)
    parser.add_argument("--ablation-n", type=int, help="expressions of the ablation, the first ones; default all")
    evaluation_arguments(parser, batch_size=25, runs=Path("runs/fair"))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    split, first, n = ("test", 7100, 1000) if options.step == "test" else ("validation", 0, 300)
    options.split, options.first = split, first if options.first is None else options.first
    options.data = expressions(
        split, options.first, options.n or n, options.processes
    )  # forks before the model is there
    options.runs.mkdir(parents=True, exist_ok=True)
    vlm = bl.load("grounder", device=options.device, dtype="float32")
    options.loaded = [bl.load_profile(path) for path in options.profiles]
    {"choose": choose, "time": fair_times.measure, "test": test}[options.step](vlm, options)


if __name__ == "__main__":
    main()
