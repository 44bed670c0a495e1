"""
The causal effect of place
==========================

The same objects at every place of the image: what changes then is the place alone. Beside it the profile of ordinary
scenes. Where both agree the profile is bias; where the profile has more, that is content.
"""

import biaslab as bl
from biaslab.diagnostics.probe import design_for, measure

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=24)
profile = bl.MeanProfile().fit(bl.collect(vlm, scenes.images, prompt=scenes.prompts, layers=[1, 9], progress=False))
probe = measure(vlm, design_for(vlm, grid=(5, 5), pairs=3), layers=[1, 9], locate=True, progress=False)

bl.ProbeDisplay.from_probe(probe, profile=profile).plot()

# %%
# The probe also says where the model finds the object: accuracy by place, over the same images (here everywhere).

bl.LocationAccuracyDisplay.from_probe(probe).plot()
