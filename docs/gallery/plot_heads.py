"""
Every head of every layer
=========================

The mean over heads hides what single heads do. Rows are layers, columns heads; one colour scale for all.
"""

import biaslab as bl

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=24)
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, heads="all", layers=[1, 3, 5, 9], progress=False)

bl.HeadsDisplay.from_profile(bl.MeanProfile().fit(maps)).plot()
