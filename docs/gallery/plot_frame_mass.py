"""
How much attention each frame of a video draws
==============================================

The attention of a frame over the share of the tokens that it has, layer by layer; 1 is uniform attention. The twelve
videos are of three unrelated images each: what is left on average is what the place in the prompt draws.
"""

import biaslab as bl
from biaslab.diagnostics.measures.frame_mass import frame_mass
from biaslab.figures import FrameMassDisplay
from biaslab.scenes import scene

vlm = bl.load("grounder")
videos = [[scene("calibration", 3 * video + frame).image for frame in range(3)] for video in range(12)]
maps = bl.collect(
    vlm, videos, prompt="Where is the cat?", layers=[1, 3, 5, 7, 9], frames=True, batch_size=4, progress=False
)

FrameMassDisplay.from_table(frame_mass(maps)).plot()
