"""Images behind stored maps, and their attention before and after removal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image
from sklearn.base import clone

from biaslab.core.boxes import Box
from biaslab.core.frames import FramesLayout
from biaslab.core.images import content_hash, image_name, load_image
from biaslab.datasets.data_root import not_there, places, resolve_data_root
from biaslab.datasets.drawn import DRAWN, DrawnSource
from biaslab.datasets.picture_sources import PictureSource
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError
from biaslab.figures import AttentionDisplay
from biaslab.maps.base import AttentionMaps, fold_of
from biaslab.maps.image_source import asked_digest
from biaslab.maps.protocol import expect_maps
from biaslab.maps.streamed import StreamedMaps
from biaslab.maps.views import WithoutFold, mean_over_heads
from biaslab.models import families
from biaslab.profiles.provenance import covers

if TYPE_CHECKING:
    from biaslab.maps.stored import StoredMaps
    from biaslab.models.family import Family
    from biaslab.profiles import Profile

__all__ = ["before_and_after", "images_behind"]

_KEEP_IMAGES = "keep them with `biaslab fit-bias --maps FOLDER` or bl.collect(..., out='FOLDER')"


def images_behind(maps: AttentionMaps, source: str | Path, *, data_root: str | Path | None = None) -> dict[str, Any]:
    """Find the images that stored maps are of.

    Parameters
    ----------
    maps : StoredMaps
        Of one image or more.
    source : str or Path
        "scenes", "gallery" or "gallery-vqa" for biaslab's own (with the target that they were asked about), or a folder
        of images, found by their file names.
    data_root : str or Path, optional
        Below which a relative folder is looked up too; default: the environment variable ``BIASLAB_DATA``.

    Returns
    -------
    dict
        Image id -> scene (``.image``, ``.box``, ``.expression``) or path.

    Raises
    ------
    InputError
        Streamed or empty maps, no such folder, or none of the images in the maps.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.maps.base import ImageRecord
    >>> from biaslab.maps.stored import StoredMaps
    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
    >>> with TemporaryDirectory() as folder:
    ...     maps = StoredMaps.create(folder, {"layers": [0], "heads": "mean", "folds": 5})
    ...     with maps.writing():
    ...         maps.add(ImageRecord("test-000001", layout, "digest"), np.full((1, 1, 16), 1 / 16, np.float32))
    ...     images = images_behind(maps, "scenes")
    >>> images["test-000001"].image.size
    (224, 224)
    """
    expect_maps(maps)
    if isinstance(maps, StreamedMaps):
        raise InputError(f"streamed maps keep no single images: {_KEEP_IMAGES}")
    if not maps.n:
        raise InputError("the maps hold no images: collect() over at least one image first")
    records = [cast("StoredMaps", maps).record(i) for i in range(maps.n)]
    ids = [record.id for record in records]
    if (drawn := DRAWN.get(str(source))) is not None:
        family = dict(families()).get(maps.settings.get("family", ""))
        images: dict[str, Any] = {
            r.id: _Drawn(drawn, r.id, r.digest, family) for r in records if drawn.named.fullmatch(r.id)
        }
    else:
        root = resolve_data_root(data_root)
        pictures = PictureSource(source, root)
        if pictures.path is None and not pictures.is_dataset:
            raise not_there(f"no such folder of images: {source}", places(source, root))
        files = {image_name(picture): picture for picture in pictures.pictures()}
        images = {i: files[i] for i in ids if i in files}
    if not images:
        raise InputError(f"none of the {len(ids)} images in the maps is in {source}: their ids are like {ids[0]!r}")
    return images


def before_and_after(
    maps: AttentionMaps,
    images: Mapping[str, Any],
    estimator: Profile,
    *,
    layer: int,
    debias: str = "ratio",
    most: int = 3,
) -> AttentionDisplay:
    """Show stored attention (mean over heads) of a few images, raw and debiased by a profile that has not seen them.

    Each image's profile is fitted on the other folds of images.

    Parameters
    ----------
    maps : StoredMaps
        Of the images.
    images : mapping of str
        Image id -> PIL image, path, or an object with ``.image`` and, if known, ``.box`` (or ``.target``) in pixels
        and ``.expression``. The first ids of the maps that it holds are drawn.
    estimator : Profile
        Whose parameters are used; it is not changed.
    layer : int
        Decoder layer of the attention.
    debias : str
        Debias operation.
    most : int
        Number of images to draw.

    Returns
    -------
    AttentionDisplay

    Raises
    ------
    InputError
        Streamed maps; none of the maps' images; none whose profile the other folds can give.
    """
    if isinstance(maps, StreamedMaps):
        raise InputError(f"before and after needs single images: {_KEEP_IMAGES}")
    if any(isinstance(layout, FramesLayout) for layout in maps.layouts.values()):
        raise InputError("before and after shows single images, and these maps are of several frames each")
    whole = cast("StoredMaps", mean_over_heads(maps))  # or a view of some, which is read in the same way
    fold_profiles: dict[int, Profile | None] = {}
    drawn: list[Image.Image] = []
    layouts, attention, targets, titles, profiles = [], [], [], [], []
    for i in range(whole.n):
        record = whole.record(i)
        if record.id not in images or len(drawn) == most:
            continue
        fold = fold_of(record.id, whole.folds)
        if fold not in fold_profiles:
            fold_profiles[fold] = _fit(estimator, WithoutFold(whole, fold), layer)
        profile = fold_profiles[fold]
        if profile is None or not covers(profile, record.layout):
            continue
        image = images[record.id]
        drawn.append(load_image(image))
        layouts.append(record.layout)
        attention.append(whole.image(i, layer))
        targets.append(_target_box(image))
        titles.append(str(getattr(image, "expression", "") or ""))
        profiles.append(profile)
    if not drawn:
        raise InputError(
            f"no image to draw: map ids such as {whole.record(0).id!r} to images, of tilings in two folds of images"
        )
    return AttentionDisplay.from_attention(
        drawn, layouts, attention, profile=profiles, layer=layer, targets=targets, titles=titles, debias=debias
    )


def _fit(estimator: Profile, maps: Any, layer: int) -> Profile | None:
    try:
        return clone(estimator).fit(maps, layers=[layer])
    except InputError:  # no images are left
        return None


def _target_box(image: Any) -> Box | None:
    box = getattr(image, "box", None) or getattr(image, "target", None)
    return box if isinstance(box, Box) else None


@dataclass(frozen=True)
class _Drawn:
    """One of biaslab's own images, drawn when it is looked at."""

    source: DrawnSource
    id: str
    digest: str
    family: Family | None

    @cached_property
    def _samples(self) -> list[Sample]:
        return self.source.behind(self.id) or []

    @property
    def image(self) -> Image.Image:
        return self._samples[0].image()  # the latest are at hand; thousands are not held

    @cached_property
    def _asked(self) -> Sample | None:
        """What the map was collected with; None where it was another text."""
        if self.family is None:
            return None
        picture, word = content_hash(self.image), str if self.source.asks else self.family.grounding_prompt
        return next((s for s in self._samples if asked_digest(picture, word(s.expression)) == self.digest), None)

    @property
    def box(self) -> Box | None:
        return self._asked.box if self._asked is not None and self._asked.has_target else None

    @property
    def expression(self) -> str:
        return "" if self._asked is None else self._asked.expression
