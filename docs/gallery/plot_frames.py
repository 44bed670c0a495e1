"""
What is kept of the frames of a video
=====================================

Frames are images of one prompt, and share one budget. AdaTP gives the segments of the video quotas by what is asked;
random choice does not.
"""

import biaslab as bl
from biaslab.evaluation.one_video import compare_on_video
from biaslab.figures import KeptFramesDisplay
from biaslab.pruning.display_names import display_name
from biaslab.scenes import scene

vlm = bl.load("grounder")
frames = [scene("test", i).image for i in range(3)]
made = compare_on_video(vlm, frames, "Where is the cat?", methods=["random", "adatp"], keep=0.1)

KeptFramesDisplay.from_selections(
    frames,
    made[0].layouts,
    {display_name(answer.method): answer.selections for answer in made},
    question="Where is the cat?",
).plot()
