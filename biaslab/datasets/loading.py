"""`load_dataset`: a data set by its name, by a file or folder, of the hub, or in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biaslab._util.arguments import as_path, at_least_one
from biaslab._util.registry import did_you_mean
from biaslab.datasets.base import DATASETS, Dataset
from biaslab.datasets.data_root import find_path, not_there, places, resolve_data_root
from biaslab.datasets.hub_tables import is_hub_dataset
from biaslab.datasets.opening import is_hub_folder, looks_like_hub, open_annotations, open_dataset, refer_file
from biaslab.datasets.reader import READERS
from biaslab.errors import InputError

__all__ = ["known", "load_dataset"]


def load_dataset(name: Any, *, data_root: str | Path | None = None, **options: Any) -> Dataset:
    """Open a data set: one known by name, a file of annotations, one of the hub, or one in memory.

    Parameters
    ----------
    name : str, Path or datasets.Dataset
        A name in `DATASETS`, with its options behind it if need be ("gallery:domain=both:forms=held-out"); the path
        of a file of any form in `READERS` (told by its columns), of a folder in the hub's layout or of REFER's; an id
        of the hub ("lmms-lab/RefCOCO") or ``hf://`` path; a ``datasets.Dataset``.
        The hub's need ``pip install biaslab[data]``.
    data_root : str or Path, optional
        Folder below which relative paths are looked up too; default: the environment variable ``BIASLAB_DATA``.
        Data sets that read no files do without.
    **options
        ``split``; ``n`` (size, where it can be of any); ``images`` (folder, .zip or .tar of the images); ``columns``
        (what the columns of any other table mean: ``"image=file,expression=text,box=xywh:bbox"``); ``revision`` (of
        the hub). None stands for the default.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        For an unknown name, a missing file or an unknown option; the message lists what there is.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = bl.load_dataset("scenes", split="test", n=3)
    >>> [sample.id for sample in scenes]
    ['test-000000-relation', 'test-000000-attribute', 'test-000001-attribute']
    """
    in_memory = is_hub_dataset(name)
    if not in_memory:
        as_path("name", name)
    for key in ("images", "data_root"):
        if (given := {**options, "data_root": data_root}.get(key)) is not None:
            as_path(key, given)
    if options.get("n") is not None:
        at_least_one("n", options["n"])
    root = resolve_data_root(data_root)
    options = {key: value for key, value in options.items() if value is not None}
    if not in_memory and known(str(name)) is not None:
        name, said = _options(str(name), options)
        return _make(name, DATASETS[name], root, {**said, **options})
    form = not in_memory and str(name) in READERS
    path = None if in_memory or form else find_path(name, root)
    if not (in_memory or form or path is not None or looks_like_hub(str(name))):
        raise _unknown(str(name), root)
    if "n" in options:
        what = "the data set" if in_memory else name
        raise InputError(f"{what} is read whole: leave n out, and pass it to bl.evaluate, or take list(dataset)[:n]")
    if form:
        if "path" not in options:
            raise InputError(f"{name} is a form of annotations, not a data set: give the path of its file")
        return _make(str(name), open_annotations, root, options)
    if path is not None:
        path = refer_file(path)
    if path is not None and not is_hub_folder(path):
        return _make(str(name), open_annotations, root, {"path": path, **options})
    return _make(str(name), open_dataset, root, {"data": str(path) if path else name, **options})


def _unknown(name: str, root: Path | None) -> InputError:
    names, hint = ", ".join(DATASETS), did_you_mean(name.partition(":")[0], DATASETS.keys())
    names += f" ({hint})" if hint else ""
    return not_there(
        f"unknown data set {name!r}: none of {names}, no file, and no id of the hub (owner/name)", places(name, root)
    )


def known(text: str) -> str | None:
    """Return which name in `DATASETS` a text names, options or not; None for a file or an id of the hub.

    Examples
    --------
    >>> known("gallery:domain=both"), known("lmms-lab/RefCOCO")
    ('gallery', None)
    """
    name = text.partition(":")[0]
    return name if name in DATASETS else None


def _options(text: str, given: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Take the options off a name: "gallery:domain=both"."""
    name, *said = text.split(":")
    options: dict[str, str] = {}
    for part in said:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise InputError(f"data set {text!r}: {part!r} is no option, write {name}:NAME=VALUE")
        if key in options or key in given:
            raise InputError(f"data set {text!r}: {key} is given twice")
        options[key] = value
    return name, options


def _make(name: str, factory: Callable[..., Dataset], root: Path | None, options: dict[str, Any]) -> Dataset:
    signature = inspect.signature(factory)
    if "data_root" in signature.parameters:
        options = {**options, "data_root": root}
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InputError(f"data set {name!r}: {error}; it takes {signature}") from error
    return factory(**options)
