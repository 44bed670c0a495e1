"""How many tokens a data set's images have, without opening them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from PIL import Image

from biaslab.errors import InputError
from biaslab.evaluation.prompts import prompt_of

if TYPE_CHECKING:
    from biaslab.datasets.sample import Sample
    from biaslab.models.vlm import VLM

__all__ = ["most_tokens", "prompt_tokens"]

_SIZES = 64  # of images that are laid out


def prompt_tokens(vlm: VLM, size: tuple[int, int], prompt: str) -> tuple[int, int]:
    """Count the visual and the text tokens of a prompt with an image of a size (width, height).

    Raises
    ------
    InputError
        An image that this model cannot cut.

    Examples
    --------
    >>> import biaslab as bl
    >>> prompt_tokens(bl.load("grounder"), (224, 224), "Where is the red cup?")[0]
    256
    """
    picture = Image.new("RGB", size, (128, 128, 128))  # black would be taken for padding by some processors
    inputs, (layout,), _ = vlm.family.encode(vlm.processor, [[picture]], [prompt], vlm.image_options)
    return layout.n, inputs["input_ids"].shape[1] - layout.n


def most_tokens(vlm: VLM, samples: Iterable[Sample], enough: int) -> int:
    """Count the visual tokens of the largest image.

    Parameters
    ----------
    vlm : VLM
        The model; one without weights will do.
    samples : iterable of Sample
    enough : int
        Look no further once an image has as many.

    Returns
    -------
    int
        Of the 64 sizes of most pixels, whose order in pixels is not quite that in tokens; ``enough`` or more where one
        has as many, or none can be cut.

    Examples
    --------
    >>> import biaslab as bl
    >>> most_tokens(bl.load("grounder"), bl.load_dataset("scenes", n=3), 300)
    256
    """
    texts = {(sample.width, sample.height): prompt_of(vlm.family, sample) for sample in samples}
    most = 0
    for size in sorted(texts, key=lambda size: -size[0] * size[1])[:_SIZES]:
        try:
            most = max(most, prompt_tokens(vlm, size, texts[size])[0])
        except InputError:  # it will be an error of the run
            continue
        if most >= enough:
            break
    return most or enough
