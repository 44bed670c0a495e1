"""
Which tokens methods keep of one image
======================================

A tenth of the visual tokens, chosen before layer 4 by five methods, the target and what the model answers then.
"""

import biaslab as bl
from biaslab.pruning.display_names import display_name

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=32)
profile = bl.MeanProfile().fit(bl.collect(vlm, scenes.images, prompt=scenes.prompts, layers=[3], progress=False))

sample = list(bl.load_dataset("scenes", split="test", n=3))[2]
found = bl.compare_methods(
    vlm,
    sample.image(),
    sample.expression,
    methods=["random", "fastv", "relative", "d2pruner", "divprune"],
    keep=0.1,
    layer=4,
    profile=profile,
)

bl.KeptTokensDisplay.from_selections(
    sample.image(),
    found[0].layout,
    {display_name(answer.method): answer.selection for answer in found},
    target=sample.box,
    answers={display_name(answer.method): answer.answer.box for answer in found},
    expression=sample.expression,
).plot()
