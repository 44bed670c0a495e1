"""
How much of attention position explains
=======================================

The share of the variance of log attention that the profile explains on images it was not fitted on, layer by layer,
and how well attention ranks the tokens of the target before and after the profile is divided out.
"""

import biaslab as bl
from biaslab.profiles import variance_table

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=40)
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, progress=False)

bl.VarianceDisplay.from_table(variance_table(maps)).plot()

# %%
# AUROC .5 is chance. Whether division changes it is told by the paired gains in ``ranking``, not by whether bars
# overlap.

ranking = bl.score_ranking(
    vlm,
    bl.load_dataset("scenes", split="test", n=40),
    profile=bl.MeanProfile().fit(maps),
    n_resamples=300,
    progress=False,
)
bl.AurocDisplay.from_table(ranking).plot()
