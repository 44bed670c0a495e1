"""
How many images a profile needs
===============================

Two profiles from two halves of the images correlate the better the more images each half has. The line is what the
Spearman-Brown formula predicts from all images.
"""

import tempfile

import biaslab as bl
from biaslab.diagnostics import diagnose

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=48)
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, layers=[1, 3, 9], progress=False, out=tempfile.mkdtemp())
tables, _ = diagnose(maps, names=["reliability"])

bl.ReliabilityDisplay.from_table(tables["reliability"]).plot()
