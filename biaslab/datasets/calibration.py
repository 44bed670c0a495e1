"""Calibration sets by name: images, each with its question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.arguments import as_path, at_least_one, whole_number
from biaslab.datasets.base import check_pictures
from biaslab.datasets.data_root import VARIABLE, not_there, places, resolve_data_root
from biaslab.datasets.image_sources import blank, noise, require_images
from biaslab.datasets.picture_sources import PictureSource
from biaslab.datasets.scenes import cached_scene
from biaslab.errors import InputError
from biaslab.models.expected import expect_model
from biaslab.scenes import EXPRESSION_TYPES, Expression, Scene

if TYPE_CHECKING:
    from PIL import Image

    from biaslab.models.offline.geometry import Geometry
    from biaslab.models.vlm import VLM


SOURCES = ("scenes", "blank", "noise")
PROMPT = "Please describe the provided image."
_DEFAULT_N = 300  # images of a source that never ends
_NULL_SIZE = (448, 448)  # pixels of null images: one tile or one padded square in every family


@dataclass(frozen=True)
class Calibration:
    """Calibration images, each with its question.

    Attributes
    ----------
    name : str
        What the images are, for people.
    images : sequence
        PIL images, paths, or objects with ``.image``.
    prompts : str or list of str
        One for all, or one per image; user text, without the chat template.
    ids : list of str, optional
        One per image; default: ids made from names or pixels.
    """

    name: str
    images: Sequence[Any]
    prompts: str | list[str]
    ids: list[str] | None = None


def calibration(
    vlm: VLM | Geometry,
    source: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    prompt: str | None = None,
    data_root: str | Path | None = None,
    split: str | None = None,
    columns: str | None = None,
    images: str | Path | None = None,
) -> Calibration:
    """Make a calibration set by name, or of pictures from anywhere.

    Parameters
    ----------
    vlm : VLM
        Model that the set is for: its family words the grounding prompts.
    source : str or Path
        ``"scenes"``: scenes of the calibration split, each with the grounding prompt of one of its expressions
        (attribute, location and relation in turn); ``"blank"``, ``"noise"``: null images; else a folder, .zip or .tar
        of images, a single one, or a data set as :func:`biaslab.load_dataset` opens it: each picture of it once, with
        the grounding prompt of its first expression.
    n : int, optional
        Number of images; default 300, or all of a folder or data set.
    seed : int
        Of the noise.
    prompt : str, optional
        Question about every image; by default the grounding prompts for scenes and data sets, a generic one otherwise.
    data_root : str or Path, optional
        Folder below which a relative folder is looked up too; default: the environment variable ``BIASLAB_DATA``.
    split, columns, images : optional
        Of a data set, as for :func:`biaslab.load_dataset`.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        No such folder or source, or n < 1.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = calibration(bl.load("grounder"), "scenes", n=2)
    >>> scenes.ids
    ['calibration-000000', 'calibration-000001']
    >>> scenes.prompts[0].removeprefix("Please provide the bounding box coordinate of the ")
    'region this sentence describes: <ref>the big banana</ref>'
    """
    expect_model(vlm)
    n = None if n is None else at_least_one("n", n)
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"source must be a folder or one of {', '.join(SOURCES)}, got {type(source).__name__}: pictures that you "
            "hold go to bl.collect(vlm, images) as they are"
        )
    as_path("source", source)
    whole_number("seed", seed)
    if source == "scenes":
        scenes = list(_scenes(n or _DEFAULT_N))
        prompts = prompt or [vlm.family.grounding_prompt(question) for _, _, question in scenes]
        return Calibration("scenes", [image for image, _, _ in scenes], prompts, [name for _, name, _ in scenes])
    if source in ("blank", "noise"):
        n = n or _DEFAULT_N
        made = blank(n, _NULL_SIZE) if source == "blank" else noise(n, _NULL_SIZE, seed=seed)
        return Calibration(str(source), made, prompt or PROMPT, [f"{source}-{i:06d}" for i in range(len(made))])
    found = _find_source(source, data_root, split=split, columns=columns, images=images)
    pictures = found.pictures(n)
    if prompt is None and found.is_dataset:
        prompts = [vlm.family.grounding_prompt(sample.expression) for sample in pictures]
        return Calibration(f"pictures of {source}", pictures, prompts)
    return Calibration(f"pictures in {source}", pictures, prompt or PROMPT)


def source_folder(source: str | Path, *, data_root: str | Path | None = None, **options: Any) -> Path | None:
    """Look up the folder (or single picture, or archive) that a source names; its images are not read.

    Parameters
    ----------
    source : str or Path
        As for :func:`calibration`.
    data_root : str or Path, optional
        Folder below which a relative folder is looked up too; default: the environment variable ``BIASLAB_DATA``.
    **options
        ``split``, ``columns``, ``images`` of a data set, which is opened, and its first pictures looked for.

    Returns
    -------
    Path or None
        None for one of :data:`SOURCES` and for data sets.

    Raises
    ------
    InputError
        No such folder or source, a folder without a picture, or a data set that cannot be used.
    """
    if source in SOURCES:
        return None
    found = _find_source(source, data_root, **options)
    if found.is_dataset:
        check_pictures(found.dataset())
        return None
    if found.path is not None and found.path.is_dir():
        require_images(found.path)
    else:
        found.pictures(1)
    return found.path


def _find_source(source: str | Path, data_root: str | Path | None, **options: Any) -> PictureSource:
    root = resolve_data_root(data_root)
    found = PictureSource(source, root, **options)
    if found.path is None and not found.is_dataset:
        fix = (
            f"give a folder or archive of pictures or a data set, itself or below the data root (--data-root, "
            f"{VARIABLE}), or one of {', '.join(SOURCES)}"
        )
        raise not_there(f"no calibration source {str(source)!r}", places(source, root), fix)
    return found


class _SceneImage:
    """A calibration scene's image, rendered when it is read, so that a thousand are not held in memory."""

    def __init__(self, index: int) -> None:
        self._index = index

    def image(self) -> Image.Image:
        return cached_scene("calibration", self._index).image


def _scenes(n: int) -> Iterator[tuple[_SceneImage, str, str]]:
    """Yield image, id and question of the first n calibration scenes."""
    for index in range(n):
        shown = cached_scene("calibration", index)
        if (expression := asked_of(shown)) is not None:
            yield _SceneImage(index), shown.id, expression.text


def asked_of(shown: Scene) -> Expression | None:
    """Choose the expression that a calibration scene is asked about: the types take turns where a scene allows it.

    Returns
    -------
    Expression or None
        None where the scene has no expression.
    """
    preferred = EXPRESSION_TYPES[shown.index % len(EXPRESSION_TYPES)]
    return next(iter(sorted(shown.expressions, key=lambda e: e.expression_type != preferred)), None)
