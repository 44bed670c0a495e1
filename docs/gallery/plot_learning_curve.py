"""
How a conditional profile learned
=================================

Cross entropy between the teacher's map and the student's, on the prompts that it learns from and on images that are
held out. The dotted line is the entropy of the teacher's maps, which no student falls below; the ring is the epoch that
was kept.
"""

import tempfile

import biaslab as bl
from biaslab.figures import LearningCurveDisplay

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=96)
rows = {"queries": "last", "heads": "all", "features": True}  # with what enters the decoder
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, out=tempfile.mkdtemp(), progress=False, **rows)

LearningCurveDisplay.from_profile(bl.LookaheadProfile(epochs=15, batch_size=16).fit(maps)).plot()
