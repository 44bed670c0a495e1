"""Calibration sets by name: pictures with what is asked about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.datasets.data_root import VARIABLE, find_folder, not_there, places, resolve_data_root
from biaslab.datasets.pictures import blank, images_from, noise
from biaslab.errors import InputError
from biaslab.scenes import KINDS, Expression, Scene, scene

if TYPE_CHECKING:
    from PIL import Image

    from biaslab.models.vlm import VLM
if TYPE_CHECKING:
    from PIL import Image

    from biaslab.models.vlm import VLM


SOURCES = ("scenes", "blank", "noise")


_DEFAULT_N = 300  # images of a source that never ends


_NULL_SIZE = (448, 448)  # pixels of null images: one tile or one padded square in every family


@dataclass(frozen=True)
class Calibration:
    """Calibration images with what is asked about each.

    Attributes
    ----------
    name : what the images are, for people.
    images : PIL images, paths, or objects with ``.image``.
    prompts : one for all, or one per image; user text, without the chat template.
    ids : one per image, or None for ids made from names or pixels.
    """

    name: str
    images: Sequence[Any]
    prompts: str | list[str]
    ids: list[str] | None = None


def calibration(
    vlm: VLM,
    source: str | Path,
    n: int | None = None,
    prompt: str | None = None,
    seed: int = 0,
    *,
    data_root: str | Path | None = None,
) -> Calibration:
    """A calibration set by name.

    Parameters
    ----------
    source : ``"scenes"``: scenes of the calibration split, each with the grounding prompt of one of its expressions
        (attribute, location and relation in turn); ``"blank"``, ``"noise"``: null images; else a folder of pictures.
    n : number of images; default 300, or all of a folder.
    prompt : asked about every image; by default the grounding prompts for scenes, a generic one otherwise.
    data_root : below which a relative folder is looked up too; default: the environment variable ``BIASLAB_DATA``.

    Raises
    ------
    InputError
        No such folder or source, or n < 1.
    """
    if n is not None and n < 1:
        raise InputError(f"a calibration set needs at least 1 image, got n={n}")
    if source == "scenes":
        scenes = list(_scenes(n or _DEFAULT_N))
        asked = prompt or [vlm.family.grounding_prompt(text) for _, _, text in scenes]
        return Calibration("scenes", [s for s, _, _ in scenes], asked, [name for _, name, _ in scenes])
    if source in ("blank", "noise"):
        size = (n or _DEFAULT_N, _NULL_SIZE)
        images = blank(*size) if source == "blank" else noise(*size, seed)
        return Calibration(str(source), images, prompt or PROMPT, [f"{source}-{i:06d}" for i in range(len(images))])
    folder = source_folder(source, data_root=data_root)
    return Calibration(f"pictures in {source}", images_from(folder, n), prompt or PROMPT)


def source_folder(source: str | Path, *, data_root: str | Path | None = None) -> Path | None:
    """The folder of pictures that a source is, None for one of :data:`SOURCES`; the pictures are not read.

    Raises
    ------
    InputError
        No such folder or source.
    """
    if source in SOURCES:
        return None
    root = resolve_data_root(data_root)
    folder = find_folder(source, root)
    if folder is None:
        fix = (
            f"give a folder of pictures, itself or below the data root (--data-root, {VARIABLE}), or one of "
            f"{', '.join(SOURCES)}"
        )
        raise not_there(f"no calibration source {str(source)!r}", places(source, root), fix)
    return folder


class _ScenePicture:
    """A calibration scene's picture, rendered each time it is read, so that a thousand are not held in memory."""

    def __init__(self, index: int) -> None:
        self._index = index

    def image(self) -> Image.Image:
        return scene("calibration", self._index).image


def _scenes(n: int) -> Iterator[tuple[_ScenePicture, str, str]]:
    """Picture, id and question of the first n calibration scenes; the kinds take turns where a scene allows it."""
    for index in range(n):
        made = scene("calibration", index)
        if (asked := asked_of(made)) is not None:
            yield _ScenePicture(index), made.id, asked.text


def asked_of(shown: Scene) -> Expression | None:
    """The expression by which a calibration scene is asked about; None where it has none."""
    wanted = KINDS[shown.index % len(KINDS)]
    return next(iter(sorted(shown.expressions, key=lambda e: e.kind != wanted)), None)


PROMPT = "Please describe the provided image."
