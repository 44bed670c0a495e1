"""Positional bias of tiles and thumbnail, and which profiles carry over to tilings that they were not fitted on.

    python -m benchmarks.tilings --model observer

Attention of the last prompt row to calibration images of the gallery, mean over heads. *Unseen*: log attention of each
tiling is predicted from all others; the causal probe and pruning use profiles of images of up to three tiles on images
of four and six. *Seen*: predicted from other images of all tilings. The work is kept in a folder and resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import biaslab as bl
from benchmarks.common import RESULTS, numbers
from benchmarks.gallery_pool import TASKS, tasks
from benchmarks.paired import paired_differences
from benchmarks.report import Report, Table, percent
from benchmarks.scene_pool import Expressions
from biaslab.datasets.calibration import Calibration, calibration
from biaslab.datasets.sample import Sample
from biaslab.diagnostics.measures.mass import attention_mass
from biaslab.diagnostics.measures.tile_order import tile_order
from biaslab.diagnostics.probe import compare, design_for, measure
from biaslab.maps.protocol import Maps
from biaslab.profiles import Profile, make
from biaslab.profiles.parts import Part, merged
from biaslab.profiles.variance import held_out, log_folds
from biaslab.scenes.gallery import grid_of
from biaslab.stats.resampling import ImageBootstrap

TRANSPORTED = ("tile", "factorised")  # what predicts a layout that it was not fitted on
SEEN = ("mean", *TRANSPORTED)
MANY = 4  # tiles of the unseen tilings, or more
PROBE_SIDE = 336  # pixels: cut into two by two tiles
KEPT = 0.2
SEEN_BY_MEAN = "mean, seen"
METHODS = (bl.Relative, bl.D2Pruner)


class Study:
    """Maps, the profiles fitted on them, and what is measured of both.

    Parameters
    ----------
    vlm : VLM
        Of several tiles per image.
    options : argparse.Namespace
        Of this benchmark.
    """

    def __init__(self, vlm: bl.VLM, options: argparse.Namespace) -> None:
        self.vlm, self.options, self.work = vlm, options, Path(options.work)
        self.asked = calibration(vlm, options.ask, n=options.calibration)

    def _collected(self, name: str, few: bool) -> Maps:
        asked: Calibration = self.asked
        chosen = [i for i, image in enumerate(asked.images) if not few or _tiles(image) < MANY]
        images, prompts, ids = ([values[i] for i in chosen] for values in (asked.images, asked.prompts, asked.ids))
        return bl.collect(self.vlm, images, prompt=prompts, ids=ids, out=self.work / f"maps-{name}")

    @cached_property
    def maps(self) -> Maps:
        """Attention to images of all tilings."""
        return self._collected("all", few=False)

    @cached_property
    def few(self) -> Maps:
        """Attention to the images of few tiles alone."""
        return self._collected("few", few=True)

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """Fitted profiles by what they are called in the tables."""
        found = {f"{name}, unseen": make(name).fit(self.few) for name in TRANSPORTED}
        return found | {f"{name}, seen": make(name).fit(self.maps) for name in SEEN}

    def explained(self, layer: int) -> list[dict[str, Any]]:
        """Share of log attention's variance that is explained on other images: a row per tiling, and of all."""
        folds = log_folds(self.maps, layer)
        whole = merged([part for parts in folds for part in parts])
        layouts = {part.layout.key: part.layout for part in whole}
        sums: dict[str, dict[str, np.ndarray]] = {key: {} for key in layouts}
        for name in TRANSPORTED:
            for part in whole:
                others = [other for other in whole if other.layout.key != part.layout.key]
                sums[part.layout.key][f"{name}, unseen"] = _squares(part, make(name).log_map(others, part.layout))
        for name in SEEN:
            for part, predicted, _ in held_out(folds, make(name)):
                at = sums[part.layout.key]
                at[f"{name}, seen"] = at.get(f"{name}, seen", 0) + _squares(part, predicted)
        images = {part.layout.key: part.n for part in whole}
        rows = [
            {"layer": layer, "tiling": _tiling(layouts[key]), "n": images[key]}
            | {name: 1 - both[0] / both[1] for name, both in own.items()}
            for key, own in sums.items()
        ]
        every = {name for own in sums.values() for name in own}
        shared = [own for own in sums.values() if all(np.isfinite(own.get(name, np.nan)).all() for name in every)]
        total = {name: float(1 - np.divide(*sum(own[name] for own in shared))) for name in every} if shared else {}
        return [*rows, {"layer": layer, "tiling": "all", "n": sum(images.values()), **total}]

    def probed(self) -> list[dict[str, Any]]:
        """How profiles agree with the effect of the place alone (tile x cell) on images of two by two tiles."""
        cells = 2 * self.options.cells
        design = design_for(self.vlm, size=PROBE_SIDE, grid=(cells, cells), pairs=self.options.pairs)
        found = measure(self.vlm, design, out=self.work / "probe")
        rows = []
        for name, profile in self.profiles.items():
            for row in compare(found, profile, n_resamples=999).to_dict("records"):
                kept = (
                    "layer",
                    "region",
                    "r",
                    "r_lo",
                    "r_hi",
                    "slope",
                    "slope_lo",
                    "slope_hi",
                    "ceiling",
                    "reliability",
                )
                rows.append({"profile": name, **{key: row[key] for key in kept if key in row}})
        return rows

    def pruned(self) -> list[dict[str, Any]]:
        """Acc@0.5 on images of many tiles: methods that divide by a profile, with each of the profiles.

        Differences from the profile that has seen every tiling are tested family-wise over all lines (max-T).
        """
        data = tasks("test", range(self.options.images))["boxes"]
        samples = [sample for sample in data if _tiles(sample) >= MANY]
        variants: list[Any] = ["divprune", "fastv"]
        variants += [method(profile=p) for method in METHODS for p in self.profiles.values()]
        results = bl.evaluate(
            self.vlm, Expressions("test", samples, "gallery"), methods=["none", *variants], keep=KEPT,
            layer=self.options.layers, out=self.work / "accuracy", processes=self.options.processes, batch_size=16,
            reference=None, progress=True, retry_errors=True,
        )  # fmt: skip
        names = {profile.hash: name for name, profile in self.profiles.items()}
        lines = results.verdicts.astype({"id": str, "method": str, "profile_hash": str})
        lines = lines.assign(
            profile=lines["profile_hash"].map(names).fillna("-"), hit=lines["hit"].fillna(False).astype(float),
            layer=lines["layer"].fillna(0).astype(int),
        )  # fmt: skip
        hits = lines.pivot(index="id", columns=["layer", "method", "profile"], values="hit")
        return pruned_rows(hits.loc[[s.id for s in samples]].sort_index(axis=1), [s.image_id for s in samples])

    def regions(self) -> list[dict[str, Any]]:
        """Attention of regions relative to uniform attention, and the trend from tile to tile, per layer."""
        mass = attention_mass(self.maps)
        trend = tile_order(self.maps).set_index("layer")
        one_row: Any = OneRow(self.maps)
        flat = tile_order(one_row).set_index("layer") if one_row.layouts else None
        rows = []
        for layer in self.maps.layers:
            own = mass[mass["layer"] == layer].set_index("region")
            row: dict[str, Any] = {"layer": layer}
            for region in ("thumbnail", "tile_border", "border"):
                if region in own.index:
                    at = own.loc[region]
                    row[region] = f"{at['ratio']:.2f} [{at['ratio_lo']:.2f}, {at['ratio_hi']:.2f}]"
            for name, table in (("trend", trend), ("flat", flat)):
                if table is not None:
                    at = table.loc[layer]
                    row[name] = f"{at['slope']:+.3f} [{at['slope_lo']:+.3f}, {at['slope_hi']:+.3f}]"
            rows.append(row)
        return rows


class OneRow:
    """Maps of the images that are cut into one row of tiles, where later tiles do not lie lower."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        self.layouts = {key: one for key, one in maps.layouts.items() if one.tiles[0] == 1 < one.tiles[1]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.maps, name)


def pruned_rows(hits: pd.DataFrame, images: Sequence[str]) -> list[dict[str, Any]]:
    """List accuracies of the columns (layer, method, profile), each profile against that of all tilings.

    Parameters
    ----------
    hits : (samples, columns) DataFrame
    images : (samples,) sequence
        Whose sample is whose.
    """
    bootstrap, rows = ImageBootstrap(images), []
    compared: list[tuple[dict[str, Any], np.ndarray]] = []
    for layer, method, profile in hits.columns:
        own = hits[layer, method, profile].to_numpy()
        row: dict[str, Any] = {"layer": layer, "method": method, "profile": profile, "n": len(own)}
        row["accuracy"] = percent(bootstrap.mean(own))
        if profile not in ("-", SEEN_BY_MEAN):
            compared.append((row, own - hits[layer, method, SEEN_BY_MEAN].to_numpy()))
        rows.append(row)
    found = paired_differences([difference for _, difference in compared], images, bootstrap)
    for (row, _), one in zip(compared, found, strict=True):
        row |= {"gain": one.text, "p": one.p}
    return rows


def _squares(part: Part, predicted: np.ndarray | None) -> np.ndarray:
    """Sum the squares of log attention about a prediction and about a flat map."""
    if predicted is None:
        return np.array([np.nan, np.nan])
    residual = part.n * (part.var + (part.mean - predicted) ** 2).sum()
    return np.array([residual, part.n * (part.var + part.mean**2).sum()])


def _tiles(sample: Sample) -> int:
    """Count the tiles that an image is cut into, without the thumbnail."""
    columns, rows = grid_of((sample.width, sample.height))
    return columns * rows


def _tiling(layout: Any) -> str:
    rows, columns = layout.tiles
    return f"{columns} x {rows}"


def report(study: Study) -> Report:
    """Measure everything and lay it out."""
    names = [f"{name}, unseen" for name in TRANSPORTED] + [f"{name}, seen" for name in SEEN]
    explained = [row for layer in study.maps.layers for row in study.explained(layer)]
    shares = {name: (name, ".3f") for name in names}
    middle = study.options.layers[len(study.options.layers) // 2] - 1
    tables = [
        Table("Attention over that under uniform attention, and the slope of log attention per tile, 95 % intervals",
              {"layer": ("layer", "d"), "thumbnail": ("thumbnail", ""), "tile_border": ("border of tiles", ""),
               "border": ("border of image", ""), "trend": ("per tile", ""),
               "flat": ("per tile, one row of tiles", "")}, study.regions()),
        Table("Share of log attention explained on other images, all tilings",
              {"layer": ("layer", "d"), "n": ("n", "d"), **shares}, [r for r in explained if r["tiling"] == "all"]),
        Table(f"The same by tiling (columns x rows), layer {middle}",
              {"tiling": ("tiling", ""), "n": ("n", "d"), **shares}, [r for r in explained if r["layer"] == middle]),
        Table("Causal probe of place (tile x cell) on 2 x 2 tiles",
              {"layer": ("layer", "d"), "profile": ("profile", ""), "region": ("of", ""),
               "r": ("r", ".2f"), "r_lo": ("lo", ".2f"),
               "r_hi": ("hi", ".2f"), "slope": ("slope", ".2f"), "slope_lo": ("lo", ".2f"),
               "slope_hi": ("hi", ".2f"), "ceiling": ("most possible r", ".2f")},
              sorted(study.probed(), key=lambda row: row["layer"])),
        Table(f"Acc@0.5 on images of four and six tiles, {KEPT:.0%} kept before layer K",
              {"layer": ("K", "d"), "method": ("method", ""), "profile": ("profile", ""), "n": ("n", "d"),
               "accuracy": ("Acc@0.5", ""), "gain": ("minus mean, seen", ""), "p": ("p", ".4f")}, study.pruned()),
    ]  # fmt: skip
    settings = {key: value for key, value in vars(study.options).items() if key not in ("work", "out")}
    return Report(
        name="tilings", title="Tiles and thumbnail: bias, and profiles on unseen tilings", settings=settings,
        tables=tables, targets=[], notes=[
            "unseen: profiles of images of other tilings (by tiling: of all others; probe and pruning: of images of "
            "up to three tiles). seen: of other images of all tilings.",
            "thumbnail, borders: 1 is uniform attention. Slope: the thumbnail left out; later tiles also lie lower, "
            "but for images that are cut into one row of tiles.",
            "all tilings: those that every profile predicts. p: family-wise over the lines (max-T).",
        ],
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tilings", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="observer", help="or the folder of another one that was trained as it")
    parser.add_argument("--calibration", type=int, default=1200, help="images that profiles are fitted on")
    parser.add_argument("--pairs", type=int, default=12, help="probe pairs")
    parser.add_argument("--cells", type=int, default=6, help="places of the probe along the side of a tile")
    parser.add_argument("--images", type=int, default=420, help="test images, of which those of many tiles are used")
    parser.add_argument("--layers", type=numbers(int), default=[1, 2, 4, 6], help="prune before these layers")
    parser.add_argument("--ask", default="gallery", choices=tuple(TASKS.values()), help="what calibration asks")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/tilings"), help="folder that the work is kept in")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.processes)
    report(Study(bl.load(options.model, dtype="float32"), options)).publish(options.out)


if __name__ == "__main__":
    main()
