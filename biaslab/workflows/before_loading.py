"""What a command's model can be refused for before its weights are read: by its configuration, processor, fingerprint.

The checks are those of the run itself, made on the model's shapes without numbers (:class:`MetaModel`, 0.2 s). Where a
model is not known before it is loaded (not on this machine and of no published size, or an adapter), there is none, and
the run refuses as before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.watermark import REVISION, is_rehearsal, rehearsal_name
from biaslab.core.frames import frames_layout
from biaslab.core.layers import resolve_layers
from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.models.prune_layer import prune_layers
from biaslab.models.recipe import LoadRecipe
from biaslab.models.registry import resolve
from biaslab.profiles.provenance import covers
from biaslab.pruning.engine.checks import check_profile, check_setup
from biaslab.pruning.engine.prune import is_joint
from biaslab.pruning.engine.trimming import check_trimming
from biaslab.pruning.keep_counts import warn_of_counts
from biaslab.workflows.meta_model import MetaModel

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.evaluation.configurations import Profiles
    from biaslab.profiles import Profile
    from biaslab.pruning import Method

__all__ = ["check_probe_profile", "check_pruning", "is_identified", "known_model"]

logger = logging.getLogger(__name__)
_FEW_SIZES = 8  # of images that are laid out to be looked at; of more sizes nothing is said


def known_model(
    name: str | Path | LoadRecipe, *, image_options: dict[str, Any] | None = None, rehearse: bool = False
) -> MetaModel | None:
    """Find out what is known of a model before it is loaded.

    Parameters
    ----------
    name : str, Path or LoadRecipe
        Alias, hub id or folder; or how the model would be loaded.
    image_options : dict, optional
        Preprocessing options, as given.
    rehearse : bool
        Its rehearsal is meant.

    Returns
    -------
    MetaModel or None
        None where loading has to show.

    Raises
    ------
    InputError
        A name that means nothing, an image option that the family does not have, a revision of a folder, settings that
        the configuration does not take, an adapter that is none, or a library that is missing.

    Examples
    --------
    >>> from biaslab.workflows.before_loading import known_model
    >>> known_model("grounder").vlm.n_layers, known_model("somebody/some-model")
    (10, None)
    """
    recipe = name if isinstance(name, LoadRecipe) else LoadRecipe(name=str(name))
    for each in (recipe.name, recipe.adapter):
        if each is not None:
            resolve(each)
    try:
        meta = MetaModel.of(name, dtype=recipe.dtype)
    except InputError:
        raise
    except Exception as error:  # of biaslab and transformers: loading raises it again, or knows better
        logger.debug("%s is not known before it is loaded: %s", name, error)
        return None
    if rehearse:
        meta.vlm.name, meta.vlm.revision, meta.vlm.fingerprint = rehearsal_name(meta.vlm.name), REVISION, None
    meta.vlm.set_image_options(**(image_options or {}))
    return meta


def check_pruning(
    meta: MetaModel | None,
    methods: Sequence[str | Method],
    keep: float | int | Sequence[float | int],
    layers: int | Sequence[int] | None,
    profile: Profiles = None,
    pictures: Iterable[tuple[int, int]] = (),
    text: str = "the object",
    *,
    cache: str = "full",
    frames: Sequence[TokenLayout] = (),
    budget: str | None = None,
) -> None:
    """Refuse what the pruning engine would refuse, and warn of a count of tokens that no image has.

    Parameters
    ----------
    meta : MetaModel or None
        Of `known_model`; nothing more is checked without one.
    methods, keep, layers, profile
        As of :func:`~biaslab.evaluation.configurations.configurations`; None stands for the model's own layer.
    pictures : iterable of (width, height)
        Sizes of the images, as far as they are known.
    text : str
        What is asked about them.
    cache : "full" or "trimmed"
        As of :func:`biaslab.pruning.prune`.
    frames : sequence of TokenLayout
        Instead of images: layouts of the frames of the one video that is asked about.
    budget : str, optional
        Of the frames, as of `biaslab.prune`.

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        What the run would refuse; of layouts, if the profile fits none of the images.
    """
    if meta is None:
        return
    configs = configurations(methods, keep, prune_layers(meta.geometry, layers), profile, model=meta.geometry)
    layouts = _layouts(meta, pictures, text)
    for config in configs:
        if config.stages:
            check_trimming(meta.vlm.decoder.config, config.stages, "original", cache)
        if frames:
            layouts = [frames_layout(frames)] if is_joint(config.stages, budget) else list(frames)
        for stage in config.stages:
            check_setup(meta.vlm, stage.rule, stage.layer, "original")
            if not is_identified(meta):
                continue
            check_profile(meta.vlm, stage.rule, stage.layer)
            maps = stage.profile is not None and stage.rule.needs_layout  # of layouts are read
            if maps and layouts and not any(covers(stage.profile, each) for each in layouts):
                check_profile(meta.vlm, stage.rule, stage.layer, layouts[0])
    most = max((layout.n for layout in layouts), default=None)
    if most is not None:
        warn_of_counts((keep for config in configs for keep in config.keeps), most)


def check_probe_profile(
    meta: MetaModel | None, profile: Profile, *, heads: str, queries: str, layers: Sequence[int] | None
) -> None:
    """Refuse a profile that a probe of this model cannot be compared with.

    Raises
    ------
    InputError, ProfileMismatchError
        Layers that it does not hold; another model, query rule or head reduction.
    """
    resolve_layers(layers, profile.layers_, "the profile", "fit")
    use: dict[str, Any] = {"score": "attention", "queries": queries}
    if meta is not None and is_identified(meta):
        vlm = meta.vlm
        use |= {"model": vlm.name, "revision": vlm.revision, "fingerprint": vlm.fingerprint, "family": vlm.family.name}
        use["heads"] = "mean" if heads == "mean" else meta.config.get_text_config().num_attention_heads
    profile.check(**use)


def is_identified(meta: MetaModel) -> bool:
    """Whether it is known which weights will be loaded; by a name alone, a copy would be refused."""
    return meta.vlm.fingerprint is not None or is_rehearsal(meta.vlm)


def _layouts(meta: MetaModel, pictures: Iterable[tuple[int, int]], text: str) -> list[TokenLayout]:
    """Lay out the images of a few sizes; none of more."""
    sizes = list(dict.fromkeys(pictures))
    layouts: list[TokenLayout] = []
    for size in sizes if len(sizes) <= _FEW_SIZES else ():
        try:
            layouts.append(meta.tokens(size, text).layout)
        except InputError:
            if len(sizes) == 1:
                raise  # one image: nothing could be answered
    return layouts
