"""Pictures behind stored maps, and their attention before and after removal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from sklearn.base import clone

from biaslab.core.boxes import Box
from biaslab.core.images import image_name, load_image
from biaslab.datasets.calibration import asked_of
from biaslab.datasets.data_root import find_folder, not_there, places, resolve_data_root
from biaslab.datasets.image_sources import find_images
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.figures import AttentionDisplay
from biaslab.maps.base import AttentionMaps, fold_of
from biaslab.maps.streamed import StreamedMaps
from biaslab.maps.views import WithoutFold, mean_over_heads
from biaslab.scenes import SPLITS, scene

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.profiles import Profile

__all__ = ["before_and_after", "pictures_from", "reaches"]

SCENES = "scenes"


def pictures_from(maps: AttentionMaps, source: str | Path, *, data_root: str | Path | None = None) -> dict[str, Any]:
    """Image id -> picture, for the images that stored maps hold.

    Parameters
    ----------
    source : "scenes" for biaslab's own (those of the calibration split with the target they were asked about), or a
        folder of pictures, found by their file names.
    data_root : below which a relative folder is looked up too; default: the environment variable ``BIASLAB_DATA``.

    Raises
    ------
    InputError
        Streamed or empty maps, no such folder, or no picture of any image in the maps.
    """
    if isinstance(maps, StreamedMaps):
        raise InputError("streamed maps keep no single images: collect with out='FOLDER' (fit-bias --maps FOLDER)")
    if not maps.n:
        raise InputError("the maps hold no images: collect() over at least one image first")
    ids = [maps.record(i).id for i in range(maps.n)]
    if str(source) == SCENES:
        asked = str(maps.settings.get("prompt", "")).startswith("one per image")
        found = {i: _Scene(m[1], int(m[2]), asked) for i in ids if (m := _scene_id(i))}
    else:
        root = resolve_data_root(data_root)
        folder = find_folder(source, root)
        if folder is None:
            raise not_there(f"no such folder of images: {source}", places(source, root))
        files = {image_name(path): path for path in find_images(folder)}
        found = {i: files[i] for i in ids if i in files}
    if not found:
        raise InputError(f"none of the {len(ids)} images in the maps is in {source}: their ids are like {ids[0]!r}")
    return found


def before_and_after(
    maps: AttentionMaps,
    pictures: Mapping[str, Any],
    layer: int,
    estimator: Profile,
    debias: str = "ratio",
    most: int = 3,
) -> AttentionDisplay:
    """Stored attention (mean over heads) of a few images, raw and debiased by a profile that has not seen them.

    Each image's profile is fitted on the other folds of images.

    Parameters
    ----------
    pictures : image id -> PIL image, path, or an object with ``.image`` and, if known, ``.box`` (or ``.target``) in
        pixels and ``.expression``. The first ids of the maps that it holds are drawn.
    estimator : whose parameters are used; it is not changed.
    debias : debias operation.
    most : pictures to draw.

    Raises
    ------
    InputError
        Streamed maps; no picture of an image in the maps; none whose profile the other folds can give.
    """
    from biaslab.figures import AttentionDisplay

    if isinstance(maps, StreamedMaps):
        raise InputError("before and after needs single images: collect with out='FOLDER' (fit-bias --maps FOLDER)")
    whole = mean_over_heads(maps)
    profiles: dict[int, Profile | None] = {}
    images, layouts, attention, targets, titles, used = [], [], [], [], [], []
    for i in range(whole.n):
        record = whole.record(i)
        if record.id not in pictures or len(images) == most:
            continue
        fold = fold_of(record.id, whole.folds)
        if fold not in profiles:
            profiles[fold] = _fit(estimator, WithoutFold(whole, fold), layer)
        if not reaches(profiles[fold], record.layout):
            continue
        picture = pictures[record.id]
        images.append(load_image(picture))
        layouts.append(record.layout)
        attention.append(whole.image(i, layer))
        targets.append(_box(picture))
        titles.append(str(getattr(picture, "expression", "") or ""))
        used.append(profiles[fold])
    if not images:
        raise InputError(
            f"no picture to draw: map ids such as {whole.record(0).id!r} to pictures, of tilings in two folds of images"
        )
    return AttentionDisplay.from_attention(images, layouts, attention, used, layer, targets, titles, debias=debias)


def _scene_id(name: str) -> re.Match | None:

    return re.fullmatch(rf"({'|'.join(SPLITS)})-(\d{{6,}})", name)


def _fit(estimator: Profile, maps: Any, layer: int) -> Profile | None:
    try:
        return clone(estimator).fit(maps, layers=[layer])
    except InputError:  # no images are left
        return None


def reaches(profile: Profile | None, layout: TokenLayout) -> bool:
    """Whether a profile serves a layout; none serves none."""
    try:
        return profile is not None and profile.check(layout=layout) is None
    except ProfileMismatchError:
        return False


def _box(picture: Any) -> Box | None:
    found = getattr(picture, "box", None) or getattr(picture, "target", None)
    return found if isinstance(found, Box) else None


@dataclass(frozen=True)
class _Scene:
    """A scene, rendered when it is looked at."""

    split: str
    index: int
    asked: bool

    @cached_property
    def _scene(self) -> Any:

        return scene(self.split, self.index)

    @property
    def image(self) -> Image.Image:
        return self._scene.image

    @property
    def _asked(self) -> Any:

        return asked_of(self._scene) if self.asked and self.split == "calibration" else None

    @property
    def box(self) -> Box | None:
        return None if self._asked is None else self._scene.objects[self._asked.target].box

    @property
    def expression(self) -> str:
        return "" if self._asked is None else self._asked.text
