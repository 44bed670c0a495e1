"""Requests of the harness as questions about images, and its settings of generation as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biaslab.errors import InputError

__all__ = ["Request", "batches", "read_request"]

_LENGTH, _BEAMS = "max_new_tokens", "num_beams"


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes
    ----------
    id : str
        ``task/split/document``, which seeds what a method draws.
    text : str
    images : list
        PIL images, in the order in which they are shown, before the text.
    until : list of str
        What ends an answer.
    settings : dict
        Options of ``generate``.
    context, given : str, dict
        As the harness gave them, for its cache.
    """

    id: str
    text: str
    images: list[Any]
    until: list[str]
    settings: dict[str, Any]
    context: str
    given: dict[str, Any]

    def cut(self, answer: str) -> str:
        r"""Leave out what stands behind the first end of an answer.

        Examples
        --------
        >>> Request("t/test/0", "What?", [], ["\n", "."], {}, "", {}).cut("A cat. Or two.\nOr")
        'A cat'
        """
        ends = [at for end in self.until if end and (at := answer.find(end)) >= 0]
        return answer[: min(ends)] if ends else answer


def read_request(request: Any, documents: Mapping[str, Any], max_new_tokens: int) -> Request:
    """Read a request of a chat model.

    Parameters
    ----------
    request : lmms_eval.api.instance.Instance
        ``args``: context, messages of a document, settings, number of the document, task, split.
    documents : mapping
        Task -> split -> documents.
    max_new_tokens : int
        Where the task names none.

    Returns
    -------
    Request

    Raises
    ------
    InputError
        Anything but one turn of the user with images before text: the prompt would not be what the task means.
    """
    context, messages_of, given, number, task, split = request.args
    name = f"{task}/{split}/{number}"
    turns = [_as_dict(turn) for turn in messages_of(documents[task][split][number])]
    if len(turns) != 1 or turns[0]["role"] != "user":
        raise InputError(f"{name} is a talk of {len(turns)} turns: choose a task of single questions")
    content = turns[0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [_as_dict(part) for part in content]
    kinds = [part["type"] for part in parts]
    if others := sorted(set(kinds) - {"image", "text"}):
        raise InputError(f"{name} shows {', '.join(others)}: choose a task of images")
    if "image" not in kinds:
        raise InputError(f"{name} shows no image: choose a task in which every document has one (scienceqa_img)")
    if "text" in kinds[: len(kinds) - kinds[::-1].index("image")]:
        raise InputError(f"{name} has text between or before its images: choose a task that shows them first")
    given = dict(given)
    return Request(
        id=name,
        text="".join(part["text"] for part in parts if part["type"] == "text").strip(),
        images=[part["url"] for part in parts if part["type"] == "image"],
        until=[given["until"]] if isinstance(given.get("until"), str) else list(given.get("until") or []),
        settings=_settings(given, max_new_tokens),
        context=context,
        given=given,
    )


def batches(questions: Sequence[Request], size: int) -> list[list[int]]:
    """Group questions of like settings and as many images, in batches of ``size``.

    Returns
    -------
    list of list of int
        Places in ``questions``; every one stands there once.
    """
    groups: dict[Any, list[int]] = {}
    for i, question in enumerate(questions):
        key = (tuple(sorted(question.settings.items())), len(question.images))
        groups.setdefault(key, []).append(i)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def _settings(given: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Read length, sampling and beams; greedy where nothing else is said, whatever the checkpoint's defaults are."""
    settings: dict[str, Any] = {_LENGTH: int(given.get(_LENGTH) or max_new_tokens)}
    temperature = given.get("temperature") or 0.0
    if temperature > 0 and given.get("do_sample", True):
        settings |= {"do_sample": True, "temperature": float(temperature)}
        settings |= {"top_p": float(given["top_p"])} if given.get("top_p") else {}
    if (beams := int(given.get(_BEAMS) or 1)) > 1:
        settings[_BEAMS] = beams
    return settings


def _as_dict(value: Any) -> dict[str, Any]:
    """Return a message or a part of it, which may be a pydantic model."""
    return dict(value) if isinstance(value, Mapping) else value.model_dump()
