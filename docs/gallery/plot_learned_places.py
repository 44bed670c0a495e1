"""
How far a student leans to places
=================================

The student of a conditional profile learns from attention without its positional part. Its mean over many images shows
what places draw all the same: less than the teacher's profile, on the same scale.
"""

import tempfile

import biaslab as bl
from biaslab.figures import LearnedPlacesDisplay
from biaslab.profiles.lookahead.learned import learned_places

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=96)
rows = {"queries": "last", "heads": "all", "features": True}  # with what enters the decoder
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, out=tempfile.mkdtemp(), progress=False, **rows)
profile = bl.LookaheadProfile(epochs=10).fit(maps)
layout, _ = profile.layout_of(None)

LearnedPlacesDisplay.from_places(learned_places(profile, maps), layout, profile=profile).plot()
