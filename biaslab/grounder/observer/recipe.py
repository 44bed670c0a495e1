"""Every number that the training of the observer depends on; the seed and this make the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from biaslab.grounder.observer.model import ObserverSize


@dataclass(frozen=True)
class ObserverRecipe:
    """Two stages over an endless stream of training images, none of which is shown twice within a stage.

    The *vision stage* trains the tower and the projector on single tiles with dense heads on every visual token
    (object or not, name, colour, box in the tile, letters of the sign). The *decoder stage* trains everything on
    packed question-answer pairs, the tower at a lower rate. Auxiliary losses are listed with where they act; none of
    them touches attention.

    Images of one number of visual tiles make a batch. ``pictures_of_tiles`` says how many, for 1, 3, 4, 5 and 7
    tiles (the thumbnail included), so that steps cost about the same. ``shares_at_first`` and ``shares`` are the
    shares of the stream's images that are used, by number of tiles, in the first ``easy_share`` of the decoder
    stage's first leg and after it: most images have few tiles at first.

    Examples
    --------
    >>> from biaslab.grounder.observer import ObserverRecipe
    >>> ObserverRecipe().pictures_of_tiles[7]
    10
    """

    seed: int = 0
    size: ObserverSize = field(default_factory=ObserverSize)
    vision_steps: int = 1500
    vision_pictures: int = 20  # a step
    vision_tiles: int = 3  # of an image, at most
    vision_muon: float = 0.02
    vision_adamw: float = 3e-3
    decoder_steps: int = 850
    pictures_of_tiles: dict[int, int] = field(default_factory=lambda: {1: 24, 3: 16, 4: 14, 5: 12, 7: 10})
    decoder_muon: float = 0.01
    decoder_adamw: float = 2e-3
    tower_rate: float = 0.0  # of the decoder stage's rates, for the tower; 0: it stays as the vision stage left it
    projector_rate: float = 0.3
    leg: int = 0  # of the decoder stage: each goes on from the weights of the one before and sees other images
    expressions: int = 7  # packed behind one image
    expression_length: int = 23  # tokens of an expression, what follows it, and its answer
    questions: int = 8  # packed behind one image
    question_length: int = 17
    warmup: int = 60
    final_rate: float = 0.03  # of the peak learning rates, at the end of the cosine
    coordinate_weight: float = 4.0
    coordinate_sigma: float = 1.5  # Gaussian label smoothing over neighbouring coordinates, in steps of 5/1000
    question_weight: float = 2.0
    dense_weight: float = 0.3  # the dense heads on the projector's output, in the decoder stage
    gather_weight: float = 0.5  # rows from the question's end name what it is about, on the output of `gather_layer`
    gather_layer: int = 2
    aim_weight: float = 8.0  # the same rows of expressions know the target's box, on the output of `aim_layer`
    aim_layer: int = 7
    tile_weight: float = 0.1  # visual tokens know the number of their tile, on the output of `tile_layer`
    grid_weight: float = 0.2  # the token behind the image knows columns and rows, on the output of `gather_layer`
    tile_layer: int = 1
    easy_share: float = 0.15
    easy_mix: tuple[float, float, float] = (0.7, 0.2, 0.1)  # of attribute, location, relation in the easy share
    mix: tuple[float, float, float] = (0.34, 0.33, 0.33)
    shares_at_first: dict[int, float] = field(default_factory=lambda: {1: 1.0, 3: 1.0, 4: 0.6, 5: 0.5, 7: 0.12})
    shares: dict[int, float] = field(default_factory=lambda: {1: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 7: 0.7})
    log_every: int = 20
    checkpoint_every: int = 50
    monitor_every: int = 500
    monitor_pictures: int = 96


FULL_RECIPE = ObserverRecipe()
