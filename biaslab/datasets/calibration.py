"""Calibration sets by name: images, each with its question."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from biaslab._util.arguments import as_path, at_least_one, whole_number
from biaslab._util.notebook import InNotebooks
from biaslab._util.number_text import count_text
from biaslab.core.picture_files import video_text
from biaslab.datasets.asked import CHOICES, INSTEAD, Picture, Questions, again, ask_of, check_questions
from biaslab.datasets.asked_videos import asked_videos, check_videos
from biaslab.datasets.base import check_pictures
from biaslab.datasets.captions import captions_of, read_captions
from biaslab.datasets.data_root import VARIABLE, find_path, not_there, places, resolve_data_root
from biaslab.datasets.drawn import DRAWN, DrawnSource
from biaslab.datasets.image_sources import blank, noise, require_images
from biaslab.datasets.picture_sources import PictureSource
from biaslab.errors import InputError
from biaslab.models.expected import expect_model

if TYPE_CHECKING:
    from biaslab.models.offline.geometry import Geometry
    from biaslab.models.vlm import VLM


SOURCES = (*DRAWN, "blank", "noise")
PROMPT = "Please describe the provided image."
_DEFAULT_N = 300  # images of a source that never ends
_NULL_SIZE = (448, 448)  # pixels of null images: one tile or one padded square in every family


@dataclass(frozen=True, repr=False)
class Calibration(InNotebooks):
    """Calibration images, each with its question; an image that is asked several times stands there as often.

    Attributes
    ----------
    name : str
        What the images are, for people.
    images : sequence
        PIL images, paths, or objects with ``.image``, of videos lists of them. The questions on an image follow each
        other.
    prompts : str or list of str
        One for all, or one per image; user text, without the chat template.
    ids : list of str, optional
        One per image; default: ids made from names or pixels. Further questions on an image have "#2", "#3" behind
        its id, and are held out together with the first.
    asked : dict, optional
        For provenance, where expressions were chosen: ``prompts`` (which), ``questions`` (the most per image) and
        ``pictures`` (how many).
    frames : bool
        Whether every entry of ``images`` is a list of frames of a video.
    """

    name: str
    images: Sequence[Any]
    prompts: str | list[str]
    ids: list[str] | None = None
    asked: dict[str, Any] | None = None
    frames: bool = False

    def __repr__(self) -> str:
        return f"Calibration({self.name!r}, {self.counted(len(self.images))})"

    def counted(self, n: int) -> str:
        """Write how many of its images are there: "300 images", or "900 questions on 300 images".

        Examples
        --------
        >>> Calibration("photos", ["a.jpg", "a.jpg", "b.jpg"], ["it", "them", "it"]).counted(3)
        '3 questions on 2 images'
        """
        pictures = len({id(image) if not isinstance(image, (str, Path)) else image for image in self.images})
        if pictures == len(self.images):
            return count_text(n, "video" if self.frames else "image")
        return f"{count_text(n, 'question')} on {count_text(pictures, 'video' if self.frames else 'image')}"


def calibration(
    vlm: VLM | Geometry,
    source: str | Path,
    *,
    n: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
    prompt: str | None = None,
    prompts: str | Path | None = None,
    questions: int = 1,
    named: str | Path | None = None,
    data_root: str | Path | None = None,
    split: str | None = None,
    columns: str | None = None,
    images: str | Path | None = None,
    frames: int | str | None = None,
) -> Calibration:
    """Make a calibration set by name, or of images from anywhere.

    Parameters
    ----------
    vlm : VLM
        Model that the set is for: its family words the grounding prompts.
    source : str or Path
        ``"scenes"``: scenes of the calibration split, each with the grounding prompt of one of its expressions
        (attribute, location and relation in turn); ``"gallery"``, ``"gallery-vqa"``: images of the gallery's, with
        expressions or with questions as they stand; ``"blank"``, ``"noise"``: null images; else a folder, .zip or .tar
        of images, a single one, or a data set as :func:`biaslab.load_dataset` opens it: each image of it once, with
        the grounding prompt of its first expression.
    n : int, optional
        Number of images, whatever they are asked; default 300, or all of a folder or data set.
    batch_size : int
        Images that the model is asked for names at a time.
    seed : int
        Of the noise.
    progress : bool
        Whether the naming of objects shows a progress bar.
    prompt : str, optional
        Question about every image; by default the grounding prompts for scenes and data sets, a generic one otherwise.
    prompts : str or Path, optional
        What is asked where ``prompt`` does not say it, in the family's grounding form: ``"expressions"``, those that
        scenes and data sets come with (their default); ``"generic"``, "the largest object", "the object on the left"
        and so on in turn (`biaslab.datasets.asked.GENERIC`); ``"named"``, objects that the model itself names in the
        image (:func:`biaslab.datasets.naming.name_objects`), every other one with a place behind its name
        (:func:`biaslab.datasets.asked.with_places`); or a file of captions, for a folder or archive of
        images (:func:`biaslab.datasets.captions.read_captions`, whose columns ``columns`` may name).
    questions : int
        Questions per image, at most: an image with fewer expressions has fewer. The first of them are those of a
        smaller number, for ``"generic"`` with other turns.
    named : path, optional
        File that keeps what the model has named: what is in it is not asked again.
    data_root : str or Path, optional
        Folder below which a relative folder is looked up too; default: the environment variable ``BIASLAB_DATA``.
    split, columns, images : optional
        Of a data set, as for :func:`biaslab.load_dataset`.
    frames : int or "all", optional
        The source holds videos, a folder of images each (:func:`biaslab.datasets.videos.find_videos`): so many of
        their frames, evenly, are one prompt. They are asked ``prompt``, by default to be described, or what a file says
        of their folders, word by word.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        No such folder or source, n < 1, questions that cannot be asked of these images, or a model that answers
        nothing but boxes and is to name objects.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = calibration(bl.load("grounder"), "scenes", n=2)
    >>> scenes.ids
    ['calibration-000000', 'calibration-000001']
    >>> scenes.prompts[0].removeprefix("Please provide the bounding box coordinate of the ")
    'region this sentence describes: <ref>the big banana</ref>'
    >>> several = calibration(bl.load("grounder"), "scenes", n=2, questions=2)
    >>> several.ids[:3], several.asked
    (['calibration-000000', 'calibration-000000#2', 'calibration-000001'], \
{'prompts': 'expressions', 'questions': 2, 'pictures': 2})
    """
    expect_model(vlm)
    _check_source(source)
    n = None if n is None else at_least_one("n", n)
    whole_number("seed", seed)
    check_questions(prompts, questions, prompt)
    if frames is not None:
        check_videos(prompts, questions, split=split, columns=columns, images=images)
        made = asked_videos(
            source, frames, n=n, prompt=prompt, prompts=prompts, questions=questions, columns=columns,
            data_root=data_root,
        )  # fmt: skip
        return Calibration(*made, frames=True)
    found = _find_source(source, data_root, prompts, split, columns, images)
    _check_asked(source, found, prompt, prompts, questions)
    name, pictures, are_ids = _pictures(source, found, None if _is_file(prompts) else n, seed)
    if prompt is not None or (prompts is None and not _has_expressions(source, found)):
        ids = [picture.name for picture in pictures] if are_ids else None
        return Calibration(name, [picture.image for picture in pictures], prompt or PROMPT, ids)
    asked = Questions(
        prompts or "expressions", questions, columns=columns, log=named, batch_size=batch_size, progress=progress
    )
    chosen = ask_of(pictures, asked, vlm, source=str(source), n=n)
    word = str if source in DRAWN and DRAWN[str(source)].asks else vlm.family.grounding_prompt
    return Calibration(
        name,
        [picture.image for picture, expressions in chosen for _ in expressions],
        [word(expression) for _, expressions in chosen for expression in expressions],
        [again(p.name, k) for p, expressions in chosen for k in range(len(expressions))] if are_ids else None,
        {"prompts": asked.about(), "questions": questions, "pictures": len(chosen)},
    )


def _check_source(source: Any) -> None:
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"source must be a folder or one of {', '.join(SOURCES)}, got {type(source).__name__}: images that you "
            "hold go to bl.collect(vlm, images) as they are"
        )
    as_path("source", source)


def _pictures(
    source: str | Path, found: PictureSource | None, n: int | None, seed: int
) -> tuple[str, list[Picture], bool]:
    """Return what the images are, for people, the images, and whether their names are to be their ids."""
    if source in DRAWN:
        return str(source), list(_drawn(DRAWN[str(source)], n or _DEFAULT_N)), True
    if found is None:
        made = (
            blank(n or _DEFAULT_N, _NULL_SIZE) if source == "blank" else noise(n or _DEFAULT_N, _NULL_SIZE, seed=seed)
        )
        return str(source), [Picture(f"{source}-{i:06d}", image) for i, image in enumerate(made)], True
    if found.is_dataset:
        shown = found.expressions(n)
        return f"images of {source}", [Picture(i, s[0], [x.expression for x in s]) for i, s in shown.items()], False
    files = found.pictures(n)
    return f"images in {source}", [Picture(found.below(file), file) for file in files], False


def source_folder(
    source: str | Path,
    *,
    data_root: str | Path | None = None,
    prompt: str | None = None,
    prompts: str | Path | None = None,
    questions: int = 1,
    **options: Any,
) -> Path | None:
    """Look up the folder (or single image, or archive) that a source names; its images are not read.

    What is to be asked is checked as well, as far as no model is needed: a file of captions is read.

    Parameters
    ----------
    source : str or Path
        As for :func:`calibration`.
    data_root : str or Path, optional
        Folder below which a relative folder is looked up too; default: the environment variable ``BIASLAB_DATA``.
    prompt, prompts, questions
        As for :func:`calibration`.
    **options
        ``split``, ``columns``, ``images`` of a data set, which is opened, and its first images looked for; ``frames``
        of videos, which are listed.

    Returns
    -------
    Path or None
        None for one of :data:`SOURCES` and for data sets.

    Raises
    ------
    InputError
        No such folder or source, a folder without an image, a data set that cannot be used, or questions that cannot
        be asked of the images.
    """
    check_questions(prompts, questions, prompt)
    frames = options.pop("frames", None)
    if frames is not None:
        check_videos(prompts, questions, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is left out is said where it is used
            asked_videos(source, frames, prompts=prompts, columns=options.get("columns"), data_root=data_root)
        return find_path(source, resolve_data_root(data_root))
    found = _find_source(source, data_root, prompts, **options)
    _check_asked(source, found, prompt, prompts, questions)
    if found is None:
        return None
    if found.is_dataset:
        check_pictures(found.dataset())
        return None
    found.check_options()
    if found.path is not None and found.path.is_dir():
        require_images(found.path)
    else:
        found.pictures(1)
    if _is_file(prompts):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is left out is said where the captions are used
            names = [found.below(picture) for picture in found.pictures()]
            columns = options.get("columns")
            captions_of(names, read_captions(Questions(prompts).path, columns=columns), source=str(source))
    return found.path


def _is_file(prompts: str | Path | None) -> TypeGuard[str | Path]:
    return prompts is not None and prompts not in CHOICES


def _has_expressions(source: str | Path, found: PictureSource | None) -> bool:
    return source in DRAWN if found is None else found.is_dataset


def _check_asked(
    source: str | Path, found: PictureSource | None, prompt: str | None, prompts: str | Path | None, questions: int
) -> None:
    """Refuse questions that images of this source do not have."""
    if _is_file(prompts) and (found is None or found.is_dataset):
        raise InputError(
            f"captions are for a folder or archive of images: leave the file out of prompts (--prompts), or name the "
            f"images in the place of {source}"
        )
    if prompt is None and not _has_expressions(source, found):
        if prompts == "expressions":
            raise InputError(f"the images of {source} come without expressions: {INSTEAD}")
        if prompts is None and questions > 1:
            raise InputError(f"the images of {source} come without expressions to ask several of: {INSTEAD}")


def _find_source(
    source: str | Path,
    data_root: str | Path | None,
    prompts: str | Path | None = None,
    split: str | None = None,
    columns: str | None = None,
    images: str | Path | None = None,
) -> PictureSource | None:
    """Find a folder, an archive or a data set; None for one of :data:`SOURCES`."""
    if source in SOURCES:
        return None
    root = resolve_data_root(data_root)
    # a file of captions has columns too, and is for images that have none
    found = PictureSource(source, root, split, None if _is_file(prompts) else columns, images)
    if found.path is not None and (said := video_text(found.path)):
        raise InputError(f"{said} (--frames)")
    if found.path is None and not found.is_dataset:
        fix = (
            f"give a folder or archive of images or a data set, itself or below the data root (--data-root, "
            f"{VARIABLE}), or one of {', '.join(SOURCES)}"
        )
        raise not_there(f"no calibration source {str(source)!r}", places(source, root), fix)
    return found


def _drawn(source: DrawnSource, n: int) -> Iterator[Picture]:
    """Yield those of the first n calibration images of which something can be asked."""
    for index in range(n):
        if samples := source.samples("calibration", index):
            yield Picture(samples[0].image_id, samples[0], [sample.expression for sample in samples])
