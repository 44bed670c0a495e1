"""
What is foreseen of an image before the decoder runs
====================================================

A conditional profile learns to say, from what enters the decoder, where heads that look at something will look. Beside
it stand what these heads attend to afterwards and the tokens that the method ``lookahead`` keeps. 96 prompts and ten
epochs are few: :doc:`/docs/look-ahead` has one that learned from 3,000.
"""

import tempfile

import biaslab as bl
from biaslab.figures import RelevanceDisplay
from biaslab.profiles.lookahead.foresight import foresee

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=96)
rows = {"queries": "last", "heads": "all", "features": True}  # of answers they take longer, and teach more
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, out=tempfile.mkdtemp(), progress=False, **rows)
profile = bl.LookaheadProfile(epochs=10).fit(maps)

sample = list(bl.load_dataset("scenes", split="test", n=3))[2]
(found,) = bl.compare_methods(vlm, sample.image(), sample.expression, methods=["lookahead"], keep=0.1, profile=profile)

RelevanceDisplay.from_foresight(
    sample.image(),
    foresee(profile, vlm, sample.image(), vlm.family.grounding_prompt(sample.expression)),
    profile=profile,
    kept=found.selection,
    target=sample.box,
    expression=sample.expression,
).plot()
