"""What a grounding data set is, and the registry of the ones known by name."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from biaslab._util.registry import Registry, did_you_mean
from biaslab.datasets.data_root import find_file, not_there, places, resolve_data_root
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError


@runtime_checkable
class Dataset(Protocol):
    """A named split of referring expressions.

    Anything with these members can be evaluated. ``hash`` depends on the content alone (`content_hash`), so
    that a run can refuse to be continued on other data. To be spread over processes its samples must be
    picklable. ``recipe``, if there is one, is a JSON-ready dict of how to open it again, noted in ``run.json``.
    """

    name: str
    split: str

    @property
    def hash(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...


#: name -> class, or function that returns a data set
DATASETS: Registry[Callable[..., Dataset]] = Registry("data set", package="biaslab.datasets", group="biaslab.datasets")


def register(name: str) -> Callable[[Callable[..., Dataset]], Callable[..., Dataset]]:
    """Make a data set known as ``name``: decorates the class, or a function that returns one.

    One that reads files takes ``data_root``, a folder or None: relative paths are looked up there too.

    A name can be taken only once.
    """
    return DATASETS.register(name)


def load_dataset(name: str, *, data_root: str | Path | None = None, **options) -> Dataset:
    """The data set known as ``name``, e.g. ``load_dataset("scenes", split="test", n=300)``.

    Parameters
    ----------
    data_root
        Folder below which relative paths are looked up too; default: the environment variable ``BIASLAB_DATA``.
        Data sets that read no files do without.

    Raises
    ------
    InputError
        For an unknown name or option; the message lists what there is.
    """
    factory = DATASETS.get(name)
    signature = inspect.signature(factory)
    if "data_root" in signature.parameters:
        options["data_root"] = resolve_data_root(data_root)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InputError(f"data set {name!r}: {error}; it takes {signature}") from error
    return factory(**options)


def dataset_by_name(
    name: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    n: int | None = None,
    *,
    data_root: str | Path | None = None,
) -> Dataset:
    """A data set from what one types: a known name (with its split and n), or the path of a RefCOCO jsonl file.

    ``n`` is for data sets that can be of any size; a file is cut with the ``limit`` of an evaluation.
    Relative paths are looked up as they are, then below ``data_root`` (default: ``BIASLAB_DATA``).
    """
    root = resolve_data_root(data_root)
    given = {"split": split, "images": images, "n": n}
    if str(name) in DATASETS:
        options = {key: value for key, value in given.items() if value is not None}
        return load_dataset(str(name), data_root=root, **options)
    path = find_file(name, root)
    if path is None:
        known, hint = ", ".join(DATASETS), did_you_mean(str(name), DATASETS.keys())
        known += f" ({hint})" if hint else ""
        raise not_there(f"unknown data set {str(name)!r}: none of {known}, and no file", places(name, root))
    if split is not None:
        raise InputError(f"{name} is one split: leave split out, or pass the file of the split")
    return load_dataset("refcoco-jsonl", path=path, images=images, data_root=root)


def content_hash(samples: Iterable[Sample]) -> str:
    """Hash of ids, image ids, expressions and boxes in order (16 hex digits); pictures are not read."""
    digest = hashlib.sha256()
    for sample in samples:
        row = [sample.id, sample.image_id, sample.expression, [round(v, 3) for v in sample.box.as_tuple()]]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:16]


def take(dataset: Dataset, limit: int | None) -> list[Sample]:
    """The first samples of a data set; ids must be unique, because resuming rests on them."""
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise InputError(f"limit must be a whole number >= 1, got {limit!r}")
    samples = list(islice(dataset, limit))
    if not samples:
        raise InputError("the data set is empty: there is nothing to evaluate")
    if len({sample.id for sample in samples}) < len(samples):
        raise InputError(f"data set {dataset.name!r} has samples with the same id: give every expression its own")
    return samples
