"""What a student has learned: how it leans to places, and which words weigh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.stored import StoredMaps
from biaslab.models.encoded import text_after_image
from biaslab.profiles.lookahead.training import Lessons

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM
    from biaslab.profiles.estimators.lookahead import LookaheadProfile

__all__ = ["held_out", "learned_places", "question_tokens", "word_weights"]

_BATCH = 16  # prompts that are encoded at once


def held_out(maps: StoredMaps) -> list[int]:
    """List the prompts of maps from which no student learns, since their images are held out.

    Parameters
    ----------
    maps : StoredMaps
        With features.

    Returns
    -------
    list of int
    """
    return Lessons(maps, np.zeros(0, np.float32), np.zeros(1, np.int64)).split()[1]


def learned_places(
    profile: LookaheadProfile, maps: StoredMaps, *, images: Iterable[int] | None = None,
    layout: TokenLayout | str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Average what the student says over many images, place by place: how it leans, whatever is shown and asked.

    Parameters
    ----------
    profile : LookaheadProfile
        Fitted.
    maps : StoredMaps
        With features.
    images : iterable of int, optional
        Which of their prompts; default all. Those of `held_out` it did not learn from.
    layout : TokenLayout or str, optional
        Only images of this layout; default the one that most have.

    Returns
    -------
    DataFrame
        A row per token: ``tile``, ``row``, ``col``, ``thumbnail``, ``teacher`` (positional profile of the heads that
        taught), ``student`` (mean over images), ``se`` (its standard error) and ``pictures``, their number. Natural
        logarithms of attention, centred over the image; the student's in the teacher's scale.

    Raises
    ------
    InputError
        No prompt of this layout.
    """
    chosen = range(maps.n) if images is None else list(images)
    layout, _ = profile.layout_of(layout)
    sums: dict[str, tuple[np.ndarray, int]] = {}  # image -> sum over its prompts, their number
    for i in chosen:
        record = maps.record(i)
        if record.layout.key != layout.key:
            continue
        visual, text = (torch.from_numpy(read(record.id)) for read in (maps.features.visual, maps.features.text))
        scores = profile.relevance(visual, text, record.layout).double().numpy()
        total, count = sums.get(picture := maps.features.place(record.id).picture, (np.zeros(layout.n), 0))
        sums[picture] = total + profile.scale * (scores - scores.mean()), count + 1
    if not sums:
        raise InputError(f"no prompt of these maps has the layout {layout.key!r}: choose one of {sorted(maps.layouts)}")
    means = np.stack([total / count for total, count in sums.values()])
    n = len(means)
    return pd.DataFrame(
        {
            "tile": layout.tile, "row": layout.row, "col": layout.col, "thumbnail": layout.thumbnail,
            "teacher": profile.teacher.expected_log(layout), "student": means.mean(0),
            "se": means.std(0, ddof=1) / n**0.5 if n > 1 else np.full(layout.n, np.nan), "pictures": n,
        }
    )  # fmt: skip


def question_tokens(vlm: VLM, prompts: Sequence[str]) -> list[list[str]]:
    """Spell the tokens behind the image: those of the question, and what the template puts there.

    Parameters
    ----------
    vlm : VLM
    prompts : sequence of str
        As the model is asked.

    Returns
    -------
    list of list of str
        A text per token, as it decodes by itself; blanks around it are taken off.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.profiles.lookahead.learned import question_tokens
    >>> vlm = bl.load("grounder")
    >>> (tokens,) = question_tokens(vlm, [vlm.family.grounding_prompt("the red apple")])
    >>> [word for word in tokens if word in ("red", "apple", "blue")]
    ['red', 'apple']
    """
    from PIL import Image

    blank = Image.new("RGB", (56, 56))  # which image is shown does not matter for what stands behind it
    tokenizer = getattr(vlm.processor, "tokenizer", vlm.processor)
    spelled: list[list[str]] = []
    for start in range(0, len(prompts), _BATCH):
        some = list(prompts[start : start + _BATCH])
        encoded = vlm.encode([blank] * len(some), some)
        ids = encoded.inputs["input_ids"]
        places, said = text_after_image(ids == vlm.image_token_id, encoded.inputs.get("attention_mask"))
        for row, there in zip(ids.gather(1, places).tolist(), said.tolist(), strict=True):
            spelled.append([_text(tokenizer, token) for token, real in zip(row, there, strict=True) if real])
    return spelled


def word_weights(
    profile: LookaheadProfile, maps: StoredMaps, tokens: Mapping[str, Sequence[str]], *,
    images: Iterable[int] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Average what the student weighs the tokens of questions, text by text.

    Parameters
    ----------
    profile : LookaheadProfile
        Fitted, with ``reads=True``.
    maps : StoredMaps
        With features.
    tokens : mapping of str to sequence of str
        Id of a prompt in the maps -> its tokens behind the image (`question_tokens`).
    images : iterable of int, optional
        Which of the prompts; default all.

    Returns
    -------
    DataFrame
        A row per text of a token: ``token``, ``n`` (occurrences), ``weight`` (mean of w_t over them), ``se`` (its
        standard error), ``share`` (of all weight in these questions) and ``even``, the mean weight that they would have
        if all tokens of a question weighed alike. The largest weight first.

    Raises
    ------
    InputError
        A student that does not look at the question, or tokens that are not those of the maps' prompts.
    """
    rows: list[tuple[str, float, float]] = []
    chosen = range(maps.n) if images is None else list(images)
    for i in chosen:
        name = maps.record(i).id
        weights = profile.word_weights(torch.from_numpy(maps.features.text(name))).tolist()
        spelled = tokens.get(name, ())
        if len(weights) != len(spelled):
            raise InputError(
                f"prompt {name!r} has {len(weights)} tokens behind its image in the maps, {len(spelled)} are spelled: "
                "pass question_tokens() of the prompts that were collected"
            )
        rows += [(word, weight, 1 / len(weights)) for word, weight in zip(spelled, weights, strict=True)]
    table = pd.DataFrame(rows, columns=["token", "weight", "even"])
    found = table.groupby("token", sort=False).agg(
        n=("weight", "size"), weight=("weight", "mean"), se=("weight", "sem"), share=("weight", "sum"),
        even=("even", "mean"),
    )  # fmt: skip
    found["share"] /= max(len(chosen), 1)
    return found.sort_values("weight", ascending=False, kind="stable").reset_index()


def _text(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token])
    return text.strip() or repr(text)[1:-1]
