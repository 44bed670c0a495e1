"""Write docs/atlas: the atlas of the embedded grounder, with probe, removal and controls.

    python tools/grounder_atlas.py

Everything measured is kept in --work and resumes; on two cores it takes about half an hour.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd

import biaslab as bl
from biaslab.atlas import BiasAtlas, images_behind, mean_over_heads
from biaslab.datasets.calibration import calibration
from biaslab.diagnostics import control_table
from biaslab.diagnostics.probe import design_for, measure
from biaslab.diagnostics.ranking import ranking_values
from biaslab.diagnostics.removal import location_gaps, location_table

FIGURES = ("variance", "heads", "profile", "reliability", "dependence", "probe", "removal", "attention")


def main() -> None:
    """Measure what is missing, and write tables, card and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/atlas"))
    parser.add_argument("--probe", type=Path, default=Path("runs/estimators/probe"), help="folder of the probe")
    parser.add_argument("--n", type=int, default=300, help="calibration scenes, and test expressions of the removal")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--controls", type=int, default=100, help="calibration scenes of every control")
    parser.add_argument("--out", type=Path, default=Path("docs/atlas"))
    options = parser.parse_args()
    vlm = bl.load("grounder")
    scenes = calibration(vlm, "scenes", n=options.n)
    maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, ids=scenes.ids, heads="all", out=options.work / "maps")
    profile = bl.MeanProfile().fit(mean_over_heads(maps))
    probe = measure(vlm, design_for(vlm, grid=(16, 16), pairs=options.pairs), out=options.probe)
    tables = {name: options.work / f"{name}.csv" for name in ("removal", "gaps", "controls")}
    if not tables["gaps"].exists():
        values = ranking_values(vlm, bl.load_dataset("scenes", split="test", n=options.n), profile=profile)
        location_table(values).to_csv(tables["removal"], index=False)
        location_gaps(values).to_csv(tables["gaps"], index=False)
    if not tables["controls"].exists():
        control_scenes = calibration(vlm, "scenes", n=options.controls)
        control_table(vlm, control_scenes, profile, progress=True).to_csv(tables["controls"], index=False)
    removal, controls = (pd.read_csv(tables[name]) for name in ("removal", "controls"))
    atlas = BiasAtlas.from_maps(
        maps, probe=probe, removal=removal, controls=controls, images=images_behind(maps, "scenes")
    )
    atlas.save(options.work / "atlas")
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(options.work / "atlas" / "card.md", options.out / "card.md")
    atlas.summary().round(4).to_csv(options.out / "summary.csv", index=False)
    pd.read_csv(tables["gaps"]).round(4).to_csv(options.out / "gaps.csv", index=False)
    for name in FIGURES:
        figure = options.work / "atlas" / "figures" / f"{name}.png"
        if figure.exists():
            shutil.copy(figure, options.out / figure.name)


if __name__ == "__main__":
    main()
