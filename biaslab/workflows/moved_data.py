"""The data set of a run, opened again from another place than ``run.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biaslab.datasets.base import DATASETS, Dataset
from biaslab.datasets.data_root import find_path, not_there, places, resolve_data_root
from biaslab.datasets.loading import load_dataset
from biaslab.errors import InputError
from biaslab.workflows.run_sources import dataset_of

__all__ = ["moved_dataset"]


def moved_dataset(
    run: Mapping[str, Any],
    *,
    split: str | None = None,
    columns: str | None = None,
    images: str | Path | None = None,
    data_root: str | Path | None = None,
) -> Dataset:
    """Open the data set of a run as its ``run.json`` says, with some of that replaced.

    Parameters
    ----------
    run : mapping
        Content of ``run.json``.
    split, columns, images, data_root
        As of :func:`biaslab.load_dataset`; None stands for what the run had. What lay below the run's own data root is
        looked for below the new one.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        The run does not tell how to open its data, its data set has another split or takes no such option, or the
        files are not there.

    Examples
    --------
    >>> run = {"identity": {"dataset": {"name": "scenes", "split": "test", "n": 3}}, "settings": {"dataset": {"n": 3}}}
    >>> moved_dataset(run, images="photos")
    Traceback (most recent call last):
    biaslab.errors.InputError: the run's data set scenes is drawn and reads no files: leave out --image-root
    """
    known = run["identity"]["dataset"]
    name, recipe = known["name"], dict(run["settings"].get("dataset") or {})
    if split is not None and known.get("split") not in (None, split):
        raise InputError(
            f"the run's data set {name} has the split {known['split']}, not {split}: leave out --split, or name "
            "another data set with --dataset"
        )
    given = {"--columns": columns, "--image-root": images}
    if "path" not in recipe and name in DATASETS:
        if wrong := [option for option, value in given.items() if value is not None]:
            raise InputError(f"the run's data set {name} is drawn and reads no files: leave out {wrong[0]}")
        return dataset_of(run)
    if "path" not in recipe and "/" not in name:
        raise InputError(f"run.json does not tell how to open the data set {name}: name it with --dataset")
    root = resolve_data_root(data_root)
    if images is not None and find_path(images, root) is None:
        raise not_there(f"no images at {images}", places(images, root))
    if data_root is not None and "data_root" in recipe:
        recipe = {key: _below(value, recipe["data_root"], Path(data_root)) for key, value in recipe.items()}
    replaced = {"split": split if known.get("split") is None else None, "columns": columns, "images": images}
    recipe |= {key: value for key, value in {**replaced, "data_root": data_root}.items() if value is not None}
    return load_dataset(recipe.pop("path", name), **recipe)


def _below(value: str, before: str, now: Path) -> str:
    """Move a path from one data root to another; what lay elsewhere stays."""
    path = Path(value)
    return str(now / path.relative_to(before)) if path.is_absolute() and path.is_relative_to(before) else value
