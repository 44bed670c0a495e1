"""Three rankings of profile estimators side by side: held-out attention, the causal probe, accuracy under pruning.

    python -m benchmarks.estimators

Every estimator is fitted on the same calibration scenes. Each criterion is then computed twice, on validation and on
test material that shares nothing with the other or with the calibration: maps of other scenes, probe pairs of other
objects and backgrounds, other expressions. What is best on validation is the choice; what it is worth is read on test.
The work is kept in a folder and resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import biaslab as bl
from biaslab.datasets.calibration import calibration
from biaslab.diagnostics.probe import ProbeResult, compare, design_for, measure
from biaslab.errors import InputError
from biaslab.models.vlm import VLM
from biaslab.profiles import ESTIMATORS, Profile, make
from biaslab.profiles.variance import log_folds
from biaslab.stats.jackknife import half_width
from biaslab.stats.resampling import ImageBootstrap

from .common import RESULTS
from .report import Report, Table

SPLITS = ("validation", "test")
FLAT = "none"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=int, default=600, help="scenes that the profiles are fitted on")
    parser.add_argument("--maps", type=int, default=300, help="expressions of each split whose attention is explained")
    parser.add_argument("--pairs", type=int, default=12, help="probe pairs of each split")
    parser.add_argument("--grid", type=int, default=16, help="places of the probe along each side")
    parser.add_argument("--n", type=int, default=300, help="expressions of each split that are located")
    parser.add_argument("--layers", type=lambda t: [int(k) for k in t.split(",")], default=[2, 4], help="prune layers")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/estimators"), help="folder that the work is kept in")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.processes)
    study = Study(bl.load("grounder"), options)
    report(study, options).publish(options.out)


class Study:
    """The profiles and what every criterion says of them, per split."""

    def __init__(self, vlm: VLM, options: argparse.Namespace) -> None:
        self.vlm, self.options, self.work = vlm, options, options.work
        scenes = calibration(vlm, "scenes", n=options.calibration)
        maps = self._maps("calibration", scenes.images, scenes.prompts, scenes.ids)
        self.profiles: dict[str, Profile] = {}
        for name in sorted(ESTIMATORS):
            try:
                self.profiles[name] = make(name).fit(maps)
            except InputError as error:
                print(f"{name} left out: {error}")

    def _maps(self, name: str, images: Any, prompts: list[str], ids: list[str]) -> Any:
        return bl.collect(self.vlm, images, prompt=prompts, ids=ids, out=self.work / f"maps-{name}")

    def attention(self, split: str) -> pd.DataFrame:
        """Share of log attention that each profile explains on other images, per layer, with intervals."""
        samples = list(bl.load_dataset("scenes", split=split, n=self.options.maps))
        prompts = [self.vlm.family.grounding_prompt(s.expression) for s in samples]
        maps = self._maps(split, samples, prompts, [s.id for s in samples])
        rows = []
        for layer in maps.layers:
            folds = log_folds(maps, layer)
            for name, profile in self.profiles.items():
                sums = np.array([profile.sums_of_squares(parts, layer) for parts in folds])
                value = 1 - np.divide(*sums.sum(0))
                left_out = sums.sum(0) - sums
                half = half_width(1 - left_out[:, 0] / left_out[:, 1], confidence=0.95)
                rows.append({"layer": layer, "estimator": name, "value": value, "lo": value - half, "hi": value + half})
        return pd.DataFrame(rows)

    def probe(self, split: str) -> pd.DataFrame:
        """Share of the causal map's variance that division by each profile takes away, and r, per layer."""
        options = self.options
        design = design_for(self.vlm, grid=(options.grid, options.grid), pairs=2 * options.pairs)
        whole = measure(self.vlm, design, out=self.work / "probe")
        half = _pairs(whole, range(options.pairs) if split == "validation" else range(options.pairs, 2 * options.pairs))
        rows = []
        for name, profile in self.profiles.items():
            for found in compare(half, profile, n_resamples=999).to_dict("records"):
                ratio = found["profile_sd"] / found["probe_sd"]
                rows.append({"layer": found["layer"], "estimator": name, "value": 2 * found["r"] * ratio - ratio**2,
                             **{k: found[k] for k in ("r", "r_lo", "r_hi", "slope", "slope_lo", "slope_hi", "ceiling")},
                             "groups": found["groups"]})  # fmt: skip
        return pd.DataFrame(rows)

    def accuracy(self, split: str) -> pd.DataFrame:
        """Acc@0.5 at keep 10 % of debiased attention and of D2Pruner per profile, and its gain over ``mean``'s."""
        profiles = self.profiles.values()
        methods: list[Any] = ["random", "fastv", "divprune"]
        methods += [method(profile=p) for method in (bl.Relative, bl.D2Pruner) for p in profiles]
        results = bl.evaluate(
            self.vlm, bl.load_dataset("scenes", split=split, n=self.options.n),
            methods=methods, keep=0.1, layer=self.options.layers,
            out=self.work / f"accuracy-{split}", processes=self.options.processes,
        )  # fmt: skip
        names = {p.hash: name for name, p in self.profiles.items()}
        lines = results.samples
        lines = lines.assign(estimator=lines["profile_hash"].map(names).fillna(FLAT))
        images = lines.drop_duplicates("id").set_index("id")["image_id"]
        rows = []
        for layer in self.options.layers:
            hits = lines[lines["layer"] == layer].pivot(index="id", columns=["method", "estimator"], values="hit")
            hits = hits.astype(float)
            bootstrap = ImageBootstrap(images.reindex(hits.index))
            for method, estimator in hits.columns:
                found = bootstrap.mean(hits[method, estimator].to_numpy())
                row = {"layer": layer, "method": method, "estimator": estimator, "value": found.value,
                       "lo": found.lo, "hi": found.hi, "n": len(hits),
                       "errors": int(hits[method, estimator].isna().sum())}  # fmt: skip
                if estimator not in (FLAT, "mean"):
                    other = hits[method, "mean"].to_numpy()
                    gain = bootstrap.difference(hits[method, estimator].to_numpy(), other)
                    row |= {"gain": gain.value, "gain_lo": gain.lo, "gain_hi": gain.hi}
                rows.append(row)
        return pd.DataFrame(rows)


def _pairs(whole: ProbeResult, pairs: range) -> ProbeResult:
    """Take some pairs of a probe."""
    at = list(pairs)
    return replace(whole, log=whole.log[at], boxes=whole.boxes[at], groups=[whole.groups[i] for i in at])


def ranking(found: dict[str, dict[str, pd.DataFrame]], layer: int) -> list[dict[str, Any]]:
    """One row per estimator before prune layer ``layer``: each criterion on test, the validation's choice starred.

    ``found`` is criterion -> split -> table.
    """
    columns: dict[str, dict[str, pd.DataFrame]] = {}
    for criterion, tables in found.items():
        key = layer if criterion in METHODS else layer - 1
        columns[criterion] = {
            split: t[(t["layer"] == key) & (t.get("method", criterion) == criterion)].set_index("estimator")
            for split, t in tables.items()
        }
    names = list(columns["attention"]["test"].index)
    rows = []
    for name in names:
        row: dict[str, Any] = {"layer": layer, "estimator": name}
        for criterion, tables in columns.items():
            one, tried = tables["test"].loc[name], tables["validation"].loc[names, "value"].round(_TIE)
            rank = tables["test"].loc[names, "value"].round(_TIE).rank(ascending=False, method="min")[name]
            row |= {f"{criterion}_validation": tables["validation"].loc[name, "value"],
                    f"{criterion}_test": one["value"], f"{criterion}_rank": int(rank),
                    f"{criterion}_chosen": "*" if tried[name] == tried.max() else ""}  # fmt: skip
            row[criterion] = f"{row[f'{criterion}_rank']}{row[f'{criterion}_chosen']} ({one['value']:.3f})"
            row |= {f"{criterion}_{k}": one[k] for k in ("lo", "hi", "r", "slope", "gain", "gain_lo", "gain_hi")
                    if k in one.index}  # fmt: skip
        rows.append(row)
    return rows


METHODS = ("relative", "d2pruner")
_TIE = 4  # decimals: estimators that coincide on images of one tile differ by rounding


def report(study: Study, options: argparse.Namespace) -> Report:
    """Measure all criteria on both splits."""
    attention = {split: study.attention(split) for split in SPLITS}
    probe = {split: study.probe(split) for split in SPLITS}
    accuracy = {split: study.accuracy(split) for split in SPLITS}
    found = {"attention": attention, "probe": probe, **dict.fromkeys(METHODS, accuracy)}
    tables = []
    for layer in options.layers:
        rows = ranking(found, layer)
        side = {"estimator": ("estimator", ""), **{c: (SHORT[c], "") for c in CRITERIA}}
        tables.append(Table(f"Side by side, attention of layer {layer - 1}, pruned before layer {layer}: rank on test "
                            "(value), * chosen on validation", side, sorted(rows, key=_ranks)))  # fmt: skip
        for criterion, what in CRITERIA.items():
            columns = {"estimator": ("estimator", ""), f"{criterion}_validation": ("validation", ".3f"),
                       f"{criterion}_chosen": ("chosen", ""), f"{criterion}_test": ("test", ".3f"),
                       f"{criterion}_lo": ("lo", ".3f"), f"{criterion}_hi": ("hi", ".3f"),
                       f"{criterion}_rank": ("rank", "d")}  # fmt: skip
            if criterion == "probe":
                columns = {k: v for k, v in columns.items() if not k.endswith(("_lo", "_hi"))}
                columns |= {"probe_r": ("r", ".3f"), "probe_slope": ("slope", ".2f")}
            if criterion in METHODS:
                columns |= {f"{criterion}_gain": ("minus mean's", "+.3f"), f"{criterion}_gain_lo": ("lo", "+.3f"),
                            f"{criterion}_gain_hi": ("hi", "+.3f")}  # fmt: skip
            where = f"before layer {layer}" if criterion in METHODS else f"layer {layer - 1}"
            ordered = sorted(rows, key=lambda r: r[f"{criterion}_rank"])
            tables.append(Table(f"{what}, {where}", columns, ordered))
    every = [{"layer": layer, **r} for layer in range(study.vlm.n_layers)
             for r in _all_layers(attention["test"], probe["test"], layer)]  # fmt: skip
    tables.append(Table("All layers, test: share of log attention explained, and of the causal map removed",
                        {"layer": ("layer", "d"), **{n: (n, "") for n in study.profiles}}, every))  # fmt: skip
    others = accuracy["test"][accuracy["test"]["estimator"] == FLAT].to_dict("records")
    tables.append(Table("Beside them on test, without a profile", {
        "layer": ("K", "d"), "method": ("method", ""), "value": ("Acc@0.5", ".3f"), "lo": ("lo", ".3f"),
        "hi": ("hi", ".3f"), "n": ("n", "d"), "errors": ("errors", "d")}, others))  # fmt: skip
    return Report(
        name="estimators",
        title="Which estimator? Held-out attention, causal probe, accuracy under pruning",
        settings={k: v for k, v in vars(options).items() if k not in ("work", "out")},
        tables=tables, targets=[], notes=NOTES,
    )  # fmt: skip


def _ranks(row: dict[str, Any]) -> int:
    return sum(row[f"{criterion}_rank"] for criterion in CRITERIA)


def _all_layers(attention: pd.DataFrame, probe: pd.DataFrame, layer: int) -> list[dict[str, Any]]:
    both = [t[t["layer"] == layer].set_index("estimator")["value"] for t in (attention, probe)]
    return [{name: f"{both[0][name]:.3f} / {both[1][name]:.2f}" for name in both[0].index}]


CRITERIA = {
    "attention": "Share of the variance of log attention explained on other images",
    "probe": "Share of the causal map's variance that division by the profile takes away",
    "relative": "Acc@0.5 at 10 % kept, debiased attention alone (`relative`)",
    "d2pruner": "Acc@0.5 at 10 % kept, `d2pruner`",
}
SHORT = {"attention": "attention explained", "probe": "causal map removed", "relative": "Acc@0.5 relative",
         "d2pruner": "Acc@0.5 d2pruner"}  # fmt: skip
NOTES = [
    "chosen: best on validation, ties included. rank, lo and hi: on test. Intervals: jackknife over folds of images "
    "(attention), bootstrap over images (accuracy); `minus mean's` is paired.",
    "The causal map's share is 1 - |probe - profile|^2 / |probe|^2 of centred log maps: it asks for the right slope as "
    "well as for the right shape, and cannot reach 1 as the probe's map is noisy.",
]

if __name__ == "__main__":
    main()
