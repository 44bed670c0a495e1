"""A model's configuration and processor without its weights: from its files, or from published sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.errors import ModelError
from biaslab.models.checkpoints.files import refuse_revision
from biaslab.models.load_options import check_settings, with_settings
from biaslab.models.recipe import LoadRecipe
from biaslab.models.registry import Checkpoint, families, family_of, resolve

if TYPE_CHECKING:
    from biaslab.models.family import Family
    from biaslab.models.offline_spec import ModelSpec

__all__ = ["Geometry", "decoder_depth", "geometry"]


@dataclass(frozen=True)
class Geometry:
    """What is known of a model before any weight is read.

    Attributes
    ----------
    name : str
        As in provenance: hub id, "grounder" or folder.
    family : Family
    config : PretrainedConfig
        Full size.
    processor : ProcessorMixin
        The checkpoint's own, or the family's with a stand-in tokenizer, which makes other token counts of the same
        text (image tokens are exact).
    folder : Path or None
        Where its files are; None for published sizes.
    spec : ModelSpec or None
        The published sizes, where the configuration was made from them.
    hub_id : str or None
        For a model of the hub.
    recipe : LoadRecipe or None
        How it would be loaded, where more than the name was given.
    """

    name: str
    family: Family
    config: Any
    processor: Any
    folder: Path | None = None
    spec: ModelSpec | None = None
    hub_id: str | None = None
    recipe: LoadRecipe | None = None

    @property
    def source(self) -> str:
        """Where the geometry comes from, in words."""
        return "published sizes, stand-in tokenizer" if self.folder is None else "its configuration and processor files"


def geometry(name: str | Path | LoadRecipe) -> Geometry:
    """Find the geometry of a model; nothing is downloaded, no weight is read.

    Parameters
    ----------
    name : str, Path or LoadRecipe
        Alias, hub id or folder; or how the model would be loaded, whose revision's files and settings then count.

    Returns
    -------
    Geometry

    Raises
    ------
    InputError
        A name that means nothing.
    ModelError
        A model whose files are not on this machine (or are damaged) and whose sizes are not known here.

    Examples
    --------
    >>> from biaslab.models.offline.geometry import geometry
    >>> full = geometry("internvl3-8b")
    >>> full.name, full.config.text_config.num_hidden_layers
    ('OpenGVLab/InternVL3-8B-hf', 28)
    """
    recipe = name if isinstance(name, LoadRecipe) else LoadRecipe(name=str(name))
    checkpoint = resolve(recipe.name)
    folder = _folder(checkpoint, recipe.revision)
    if folder is None:
        found = _published(checkpoint, recipe.arguments)
    else:
        try:
            found = _from_files(checkpoint, folder, recipe.arguments)
        except ModelError:
            if checkpoint.hub_id is None or _spec(checkpoint) is None:
                raise
            found = _published(checkpoint, recipe.arguments)  # a cache that holds part of the files
    return replace(found, recipe=recipe) if recipe is name else found


def decoder_depth(name: str | Path | LoadRecipe) -> int | None:
    """Count a model's decoder layers before any weight or processor is read.

    Parameters
    ----------
    name : str, Path or LoadRecipe
        As of `geometry`.

    Returns
    -------
    int or None
        None where the model is not on this machine and its sizes are not known here, and where its files cannot be
        read: loading will say why.

    Raises
    ------
    InputError
        A name that means nothing.

    Examples
    --------
    >>> from biaslab.models.offline.geometry import decoder_depth
    >>> decoder_depth("grounder"), decoder_depth("internvl3-8b")
    (10, 28)
    """
    from biaslab.models.checkpoints.files import read_config
    from biaslab.models.checkpoints.internvl_chat.config import is_original
    from biaslab.models.loading import configured

    recipe = name if isinstance(name, LoadRecipe) else LoadRecipe(name=str(name))
    checkpoint = resolve(recipe.name)
    folder = _folder(checkpoint, recipe.revision)
    if folder is None:
        published = _spec(checkpoint)
        return None if published is None else published[1].layers
    try:
        raw = read_config(folder)
        if is_original(raw):
            return raw["llm_config"].get("num_hidden_layers")
        config, _ = configured(folder, recipe.arguments)
    except ModelError:
        return None
    return config.get_text_config(decoder=True).num_hidden_layers


def _folder(checkpoint: Checkpoint, revision: str | None) -> Path | None:
    """Find the folder with the model's config.json, if it is on this machine."""
    if checkpoint.folder is not None:
        refuse_revision(checkpoint, revision)
        return checkpoint.folder
    if checkpoint.hub_id is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(checkpoint.hub_id, "config.json", revision=revision)
    return Path(path).parent if isinstance(path, str) else None


def _from_files(checkpoint: Checkpoint, folder: Path, given: Mapping[str, Any]) -> Geometry:
    from biaslab.models.checkpoints.files import read_config
    from biaslab.models.checkpoints.internvl_chat.config import is_original
    from biaslab.models.loading import configured, read

    raw = read_config(folder)
    if is_original(raw):
        check_settings(given)
        return _from_original(checkpoint, folder, raw)
    family = family_of(raw.get("model_type", "unknown"))
    config, unused = configured(folder, given)
    check_settings(unused)
    processor = read(folder, "processor", lambda: family.load_processor(str(folder), local_files_only=True))
    return Geometry(checkpoint.name, family, config, processor, folder, hub_id=checkpoint.hub_id)


def _from_original(checkpoint: Checkpoint, folder: Path, raw: dict[str, Any]) -> Geometry:
    """Read the geometry of a checkpoint in InternVL's original layout."""
    from biaslab.models.checkpoints.internvl_chat.config import native_config, wants_tie
    from biaslab.models.checkpoints.internvl_chat.processor import load_processor
    from biaslab.models.loading import read

    processor = read(folder, "processor", lambda: load_processor(folder, raw))
    config = read(folder, "configuration", lambda: native_config(raw, processor.image_token_id, wants_tie(raw)))
    return Geometry(checkpoint.name, families()["internvl"], config, processor, folder, hub_id=checkpoint.hub_id)


def _published(checkpoint: Checkpoint, given: Mapping[str, Any]) -> Geometry:
    from biaslab.models.offline import stand_in_tokenizer as stand_in_tokenizer

    published = _spec(checkpoint)
    if published is None:
        raise ModelError(
            f"the sizes of {checkpoint.name} are not known here: run `hf download {checkpoint.hub_id} "
            "--exclude '*.safetensors' '*.bin'` where there is a network (no weights are needed)"
        )
    family, spec = published
    tokenizer = stand_in_tokenizer.tokenizer(family.special_tokens)
    config, processor = family.config(spec, tokenizer), family.make_processor(spec, tokenizer)
    if given:
        config, unused = with_settings(partial(type(config).from_dict, config.to_dict()), given)
        check_settings(unused)
    return Geometry(checkpoint.name, family, config, processor, spec=spec, hub_id=checkpoint.hub_id)


def _spec(checkpoint: Checkpoint) -> tuple[Family, ModelSpec] | None:
    """Find family and published sizes of a hub id that has an alias."""
    for family in families().values():
        for alias, hub_id in family.aliases.items():
            if hub_id == checkpoint.hub_id and alias in family.specs:
                return family, family.specs[alias]
    return None
