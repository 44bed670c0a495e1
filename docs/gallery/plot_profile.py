"""
Where attention goes whatever the image shows
=============================================

A profile is the expected attention of each visual position. Here it is fitted on 32 calibration scenes, in which
objects lie anywhere, so that what is left on average is the model's.
"""

import biaslab as bl

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=32)
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, layers=[1, 3, 9], progress=False)
profile = bl.MeanProfile().fit(maps)

bl.ProfileDisplay.from_profile(profile).plot()

# %%
# Red places draw more than uniform attention would give them, blue places less. Layer 3 is nearly flat, layer 9
# prefers the left edge. 32 images are enough for layers 1 and 9; how many a layer needs is what
# :doc:`/docs/made/gallery/plot_reliability` draws.
