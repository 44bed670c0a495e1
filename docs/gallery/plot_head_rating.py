"""
Which heads look at something
=============================

The quality of a head needs no labels: how much of its attention position does not explain, how far it looks at blobs
instead of specks, and how few tokens stick out. The best five heads have names and intervals.
"""

import tempfile

import biaslab as bl
from biaslab.figures import HeadRatingDisplay
from biaslab.profiles import head_quality

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=48)
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, heads="all", progress=False, out=tempfile.mkdtemp())

HeadRatingDisplay.from_table(head_quality(maps)).plot()
