"""A training run of seconds."""

from biaslab.grounder.model import Size
from biaslab.grounder.recipe import Recipe

SMALL = Size(patch=14, vision_hidden=32, vision_layers=1, hidden=48, layers=3, heads=2, ffn=64)


RECIPE = Recipe(
    size=SMALL, processes=1, vision_steps=3, vision_batch=2, decoder_steps=3, decoder_batch=2, questions=3,
    branch_length=64, log_every=1, checkpoint_every=1, monitor_every=3, monitor_scenes=2,
)  # fmt: skip
