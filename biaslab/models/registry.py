"""From a name to a family or a checkpoint: aliases, hub ids, folders, ``config.model_type``."""

from __future__ import annotations

import importlib.resources
import os
import re
from dataclasses import dataclass
from pathlib import Path

from biaslab._util.registry import Registry, did_you_mean
from biaslab.errors import InputError, ModelError, UnsupportedError
from biaslab.models.family import FAMILIES, Family

__all__ = ["Checkpoint", "aliases", "families", "family_of", "resolve"]

GROUNDER = "grounder"
#: models that come with the package -> the folder of their checkpoint in it
EMBEDDED = {GROUNDER: ("grounder", "checkpoint"), "observer": ("grounder", "observer", "checkpoint")}
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from: exactly one of ``folder`` and ``hub_id`` is set.

    Attributes
    ----------
    name : str
        For provenance: the hub id, "grounder" or "observer", or the absolute path of the folder, the same from
        anywhere.
    folder : Path or None
    hub_id : str or None
    """

    name: str
    folder: Path | None = None
    hub_id: str | None = None


def families() -> Registry[Family]:
    """List all family adapters: the files of `biaslab.models.adapters`, and those of installed plug-ins.

    Returns
    -------
    Registry of Family
        A mapping by name.

    Examples
    --------
    >>> from biaslab.models import families
    >>> families()["qwen2_5_vl"].box_space.name
    'RESIZED'
    >>> sorted(families()["internvl"].options)
    ['max_tiles', 'min_tiles']
    """
    return FAMILIES


def family_of(model_type: str) -> Family:
    """Find the adapter for a ``config.model_type``.

    Parameters
    ----------
    model_type : str

    Returns
    -------
    Family

    Raises
    ------
    UnsupportedError
        For a type no adapter serves.
    """
    adapters = families()
    for family in adapters.values():
        if model_type in family.model_types:
            return family
    served = sorted(t for family in adapters.values() for t in family.model_types)
    raise UnsupportedError(f"no adapter for model type {model_type!r}; there is one for: {', '.join(served)}")


def aliases() -> dict[str, str]:
    """List the short names of models.

    Returns
    -------
    dict
        Alias -> hub id (or "embedded" for those that come with the package).

    Examples
    --------
    >>> from biaslab.models import aliases
    >>> aliases()["qwen2-vl-7b"]
    'Qwen/Qwen2-VL-7B-Instruct'
    """
    table = dict.fromkeys(EMBEDDED, "embedded")
    for family in families().values():
        table.update(family.aliases)
    return table


def embedded_folder(name: str) -> Path:
    """Name the folder of an embedded model's checkpoint (it need not exist)."""
    return Path(str(importlib.resources.files("biaslab"))).joinpath(*EMBEDDED[name])


def grounder_folder() -> Path:
    """Name the folder of the embedded grounder's checkpoint (it need not exist)."""
    return embedded_folder(GROUNDER)


def resolve(name: str | Path) -> Checkpoint:
    """Find out what a name means, without touching the network.

    Parameters
    ----------
    name : str or Path
        Alias, hub id or folder.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputError
        For something that is no alias, no folder and no hub id; close matches are listed.
    ModelError
        For an embedded model that is not there.

    Examples
    --------
    >>> from biaslab.models import resolve
    >>> resolve("qwen2-vl-7b")
    Checkpoint(name='Qwen/Qwen2-VL-7B-Instruct', folder=None, hub_id='Qwen/Qwen2-VL-7B-Instruct')
    """
    text = str(name).strip()
    table = aliases()
    if (embedded := text.lower()) in EMBEDDED:
        folder = embedded_folder(embedded)
        if not folder.is_dir():
            raise ModelError(f"the embedded {embedded} is not here: run `biaslab train-{embedded}`, or reinstall")
        return Checkpoint(embedded, folder=folder)
    if text.lower() in table:
        return Checkpoint(table[text.lower()], hub_id=table[text.lower()])
    folder = Path(text).expanduser().absolute()
    try:
        is_folder = bool(text) and folder.is_dir()
    except OSError:
        raise InputError(f"{text[:60]!r}... is too long for a model: give an alias, a hub id or a folder") from None
    if is_folder:
        folder = Path(os.path.normpath(folder))  # links stay: their names say more than what they point to
        return Checkpoint(str(folder), folder=folder)
    if text and folder.exists():
        raise InputError(f"{text} is a file: give the folder of the checkpoint")
    if _HUB_ID.match(text):
        return Checkpoint(text, hub_id=text)
    hint = did_you_mean(text, table, cutoff=0.5) or "`biaslab models` lists the aliases"
    raise InputError(f"unknown model {text!r}: no alias, folder or hub id (owner/name); {hint}")
