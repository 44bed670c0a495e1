"""The objects that a model itself names in an image: asked once per image, kept in a log."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.identity import differences
from biaslab._util.jsonable import plain
from biaslab._util.jsonl import JsonLines, read_lines
from biaslab._util.model_identity import not_compared
from biaslab._util.number_text import count_text
from biaslab._util.progress import progress_bar
from biaslab._util.watermark import is_rehearsal
from biaslab.datasets.object_names import names_in
from biaslab.errors import InputError, RunFolderError
from biaslab.models.registry import GROUNDER

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["check_names_objects", "name_objects"]

_NEW_TOKENS = 96  # some twenty names
_ENOUGH = 8  # images in which nothing is named: nothing will be
_ELSE = "ask something else: prompts (--prompts) generic, or a file of captions"


def check_names_objects(model: str) -> None:
    """Refuse the embedded grounder, which answers every question with a box.

    Raises
    ------
    InputError
        It is the model meant; others that name nothing show when they are asked.

    Examples
    --------
    >>> check_names_objects("grounder")
    Traceback (most recent call last):
    biaslab.errors.InputError: the grounder answers nothing but boxes and names no object: ask something else: ...
    """
    if model.strip().lower() == GROUNDER:
        raise InputError(f"the grounder answers nothing but boxes and names no object: {_ELSE}")


def name_objects(
    vlm: VLM,
    pictures: Mapping[str, Any],
    *,
    batch_size: int = 8,
    log: str | Path | None = None,
    progress: bool = False,
) -> dict[str, list[str]]:
    """Ask a model what is in each image, greedily, and split its answers into names.

    Parameters
    ----------
    vlm : VLM
    pictures : mapping
        Name -> PIL image, path, or an object with ``.image``.
    batch_size : int
        Images per forward.
    log : path, optional
        A JSON line per image, with the answer and its names: images that are in it are not asked again. It is a
        file of captions itself (:func:`biaslab.datasets.captions.read_captions`).
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict
        Name of the image -> names of objects (:func:`biaslab.datasets.object_names.names_in`), in the order of
        ``pictures``. Images that cannot be read, and those in which nothing is named, are missing; a warning counts
        them.

    Raises
    ------
    InputError
        A model that names nothing in the first 8 images or more (it answers boxes), or in any.
    RunFolderError
        The log is of another model, question or image options, or cannot be written.
    """
    check_names_objects(vlm.name)
    by = _settings(vlm)
    known = {} if log is None else _read(Path(log), by)
    names = list(pictures)
    # a batch is the same images however much of it was done before: what padding does to ties is the same, too
    batches = [batch for batch in _batches(names, batch_size) if not known.keys() >= set(batch)]
    broken: list[tuple[str, str]] = []
    if batches:
        left = sum(map(len, batches))
        with ExitStack() as stack:
            lines = None if log is None else stack.enter_context(JsonLines(log))
            advance = stack.enter_context(
                progress_bar("name objects", total=len(names), done=len(names) - left, show=progress)
            )
            for batch in batches:
                for name, answer, cut in _answers(vlm, batch, pictures, broken):
                    if name in known:
                        continue
                    found = _readable(vlm, names_in(answer, cut=cut))
                    if not found and is_rehearsal(vlm):  # random weights name nothing; what follows is rehearsed
                        found = ["object"]
                    known[name] = found
                    if lines is not None:
                        lines.append({"image": name, "expressions": found, "answer": answer, "by": by})
                    if len(known) >= _ENOUGH and not any(known.values()):
                        raise InputError(
                            f"{vlm.name} names no object in {count_text(len(known), 'image')} (it answers "
                            f"{answer[:60]!r}): {_ELSE}"
                        )
                advance(len(batch))
    return _reported({name: known.get(name) for name in pictures}, broken, vlm)


def _settings(vlm: VLM) -> dict[str, Any]:
    """Gather what answers depend on."""
    return plain(
        {
            "model": vlm.name, "revision": vlm.revision, "fingerprint": vlm.fingerprint,
            "question": vlm.family.naming_prompt, "new_tokens": _NEW_TOKENS, "image_options": dict(vlm.image_options),
        }
    )  # fmt: skip


def _read(log: Path, by: Mapping[str, Any]) -> dict[str, list[str]]:
    if not log.exists():
        return {}
    known = {}
    for line in read_lines(log, kind="answer"):
        there = line.get("by", {})
        if other := differences(there, by, ignore=not_compared(there, by)):
            name, there, here = other[0]
            raise RunFolderError(
                f"{log} was named with {name}={there!r}, not {here!r}: remove it, or choose another file to write"
            )
        known[str(line["image"])] = [str(name) for name in line["expressions"]]
    return known


def _batches(names: Sequence[str], size: int) -> list[list[str]]:
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def _answers(
    vlm: VLM, names: Sequence[str], pictures: Mapping[str, Any], broken: list[tuple[str, str]]
) -> Iterator[tuple[str, str, bool]]:
    """Ask a batch at once, or, where one of its images cannot be read, one by one.

    Yields
    ------
    name, answer : str
    cut : bool
        Whether the answer was cut.
    """
    from biaslab.models.answers import answers_to

    try:
        encoded = vlm.encode([pictures[name] for name in names], [vlm.family.naming_prompt] * len(names))
    except InputError as error:
        if len(names) == 1:
            broken.append((names[0], str(error)))
            return
        for name in names:
            yield from _answers(vlm, [name], pictures, broken)
        return
    answers = answers_to(vlm, encoded, _NEW_TOKENS, {})
    yield from zip(names, answers.texts, answers.truncated, strict=True)


def _readable(vlm: VLM, names: Sequence[str]) -> list[str]:
    """Leave out what the family takes for something else than a text, such as a placeholder of an image."""
    readable = []
    for name in names:
        try:
            vlm.family.check_text(vlm.processor, vlm.family.grounding_prompt(name))
        except InputError:
            continue
        readable.append(name)
    return readable


def _reported(named: dict[str, list[str] | None], broken: list[tuple[str, str]], vlm: VLM) -> dict[str, list[str]]:
    """Keep the images in which something is named, and say how many are left out."""
    found = {name: names for name, names in named.items() if names}
    if not found:
        why = f", the first: {broken[0][1]}" if broken else ""
        raise InputError(f"{vlm.name} names no object in any of {count_text(len(named), 'image')}{why}: {_ELSE}")
    if broken:
        words = f"{count_text(len(broken), 'image')} left out that cannot be read, the first: {broken[0][1]}"
        warnings.warn(words, stacklevel=3)
    if silent := [name for name, names in named.items() if names == []]:
        words = f"{count_text(len(silent), 'image')} left out in which the model names nothing, such as {silent[0]}"
        warnings.warn(words, stacklevel=3)
    return found
