"""Every number that the training depends on; the seed and this make the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from biaslab.grounder.model import Size


@dataclass(frozen=True)
class Recipe:
    """Two stages over an endless stream of training scenes, none of which is shown twice within a stage.

    The *vision stage* trains the tower and the projector with dense heads on every visual token (object or not,
    name, size, colour, box).  The *decoder stage* freezes the tower and trains projector and decoder on packed
    question-answer pairs.  Auxiliary losses are listed with where they act; none of them touches attention.

    Examples
    --------
    >>> from biaslab.grounder import Recipe
    >>> recipe = Recipe(seed=1)
    >>> recipe.vision_steps * recipe.vision_batch, recipe.decoder_steps * recipe.decoder_batch  # scenes of each stage
    (20800, 26400)
    """

    seed: int = 0
    size: Size = field(default_factory=Size)
    processes: int = 2
    vision_steps: int = 1300
    vision_batch: int = 16  # scenes a step, over all processes
    vision_muon: float = 0.02
    vision_adamw: float = 3e-3
    decoder_steps: int = 3300
    decoder_batch: int = 8  # scenes a step, over all processes
    decoder_muon: float = 0.01
    decoder_adamw: float = 2e-3
    questions: int = 9  # question-answer pairs behind one image
    branch_length: int = 176  # tokens that those pairs share
    warmup: int = 40
    final_rate: float = 0.03  # of the peak learning rates, at the end of the cosine
    coordinate_weight: float = 4.0
    coordinate_sigma: float = 1.0  # Gaussian label smoothing over neighbouring coordinates, in steps of 10/1000
    dense_weight: float = 0.3  # the dense heads on the projector's output, in the decoder stage
    gather_weight: float = 0.5  # the text-gather loss on the output of decoder layer `gather_layer`
    gather_layer: int = 2
    easy_share: float = 0.10  # of the decoder stage, first, with mostly attribute expressions
    easy_mix: tuple[float, float, float] = (0.8, 0.2, 0.0)
    mix: tuple[float, float, float] = (0.34, 0.33, 0.33)
    log_every: int = 25
    checkpoint_every: int = 100
    monitor_every: int = 250
    monitor_scenes: int = 64
