"""Calibration sets of videos: the frames of each, evenly, and what they are asked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from biaslab._util.number_text import count_text
from biaslab.datasets.asked import CHOICES, Questions, again
from biaslab.datasets.captions import captions_of, read_captions
from biaslab.datasets.videos import Video, check_count, evenly, find_videos
from biaslab.errors import InputError

__all__ = ["VIDEO_PROMPT", "AskedVideos", "asked_videos", "check_videos"]

VIDEO_PROMPT = "Please describe the provided video."


class AskedVideos(NamedTuple):
    """Videos with their questions: the first fields of `biaslab.datasets.calibration.Calibration`."""

    name: str
    images: list[list[Any]]
    prompts: str | list[str]
    ids: list[str]
    asked: dict[str, Any] | None = None


def check_videos(
    prompts: str | Path | None, questions: int, *, split: Any = None, columns: str | None = None, images: Any = None
) -> None:
    """Refuse what cannot be asked of videos, or belongs to data sets; the arguments are those of `biaslab.calibration`.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_videos("generic", 1)
    Traceback (most recent call last):
    biaslab.errors.InputError: prompts 'generic' (--prompts) asks for boxes in one image: ask videos by prompt \
(--prompt), or by a file that names their folders
    """
    if prompts is not None and prompts in CHOICES:
        raise InputError(
            f"prompts {str(prompts)!r} (--prompts) asks for boxes in one image: ask videos by prompt (--prompt), or "
            "by a file that names their folders"
        )
    if prompts is None and questions > 1:
        raise InputError("videos come without questions to ask several of: say what is asked by a file (--prompts)")
    if prompts is None and columns is not None:
        raise InputError("columns are of a file that says what is asked: leave them out, or give it (--prompts)")
    if split is not None or images is not None:
        raise InputError("videos are no data set: leave split and images (--image-root) out")


def asked_videos(
    source: str | Path,
    frames: int | str,
    *,
    n: int | None = None,
    prompt: str | None = None,
    prompts: str | Path | None = None,
    questions: int = 1,
    columns: str | None = None,
    data_root: str | Path | None = None,
) -> AskedVideos:
    """List videos, some frames of each, and what they are asked; nothing is read of the frames.

    Parameters
    ----------
    source : str or Path
        As of :func:`biaslab.datasets.videos.find_videos`.
    frames : int or "all"
        Of each video, evenly.
    n, prompt, prompts, questions, columns, data_root
        As of `biaslab.calibration`; ``prompts`` is a file, whose texts are asked word by word.

    Returns
    -------
    AskedVideos
        The questions on a video follow each other.

    Raises
    ------
    InputError
        No videos, no such number of frames, or a file that cannot be read or names none of them.
    """
    count = check_count(frames)
    videos = find_videos(source, n=n if prompts is None else None, data_root=data_root)
    each = [evenly(video.frames, count) for video in videos]
    about = f"videos in {source}, {'all' if count is None else f'up to {count}'} frames of each"
    if prompts is None:
        _warn_of_short(videos, count)
        return AskedVideos(about, each, prompt or VIDEO_PROMPT, [video.name for video in videos])
    file = Questions(prompts, questions, columns=columns)
    said = captions_of([v.name for v in videos], read_captions(file.path, columns=columns), source=str(source))
    if silent := sum(not texts for texts in said):
        warnings.warn(f"{file.path} says nothing of {count_text(silent, 'video')}: left out", stacklevel=3)
    told = zip(videos, each, said, strict=True)
    chosen = [(video, own, texts[:questions]) for video, own, texts in told if texts][:n]
    _warn_of_short([video for video, _, _ in chosen], count)
    return AskedVideos(
        about,
        [own for _, own, texts in chosen for _ in texts],
        [text for _, _, texts in chosen for text in texts],
        [again(video.name, k) for video, _, texts in chosen for k in range(len(texts))],
        {"prompts": file.about(), "questions": questions, "pictures": len(chosen)},
    )


def _warn_of_short(videos: Sequence[Video], count: int | None) -> None:
    if count is not None and (short := sum(len(video.frames) < count for video in videos)):
        warnings.warn(
            f"{short} of {count_text(len(videos), 'video')} with fewer than {count} frames: all of theirs are taken, "
            "and make maps of another layout",
            stacklevel=4,
        )
