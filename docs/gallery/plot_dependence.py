"""
Rows or columns: where the bias lies
====================================

The share of log attention that lies between rows, and between columns, against a null that moves every map: chance
that keeps neighbourhoods. Filled markers are above it.
"""

import tempfile

import biaslab as bl
from biaslab.diagnostics import diagnose

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=32)
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, progress=False, out=tempfile.mkdtemp())
tables, _ = diagnose(maps, names=["dependence"])

bl.DependenceDisplay.from_table(tables["dependence"]).plot()
