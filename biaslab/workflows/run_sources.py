"""What a run folder names and does not hold: its images, where tokens lie in them, its profiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from biaslab._util.watermark import PREFIX
from biaslab.core.layout import TokenLayout
from biaslab.datasets.base import DATASETS, Dataset, content_hash, take
from biaslab.datasets.loading import load_dataset
from biaslab.datasets.sample import Sample
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation.results import Results
from biaslab.models.offline.geometry import geometry
from biaslab.models.recipe import LoadRecipe
from biaslab.profiles import Profile, load

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["dataset_of", "layout_finder", "model_options_of", "profiles_of_run", "samples_of_run"]

_GREY = (127, 127, 127)


def model_options_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Tell how a run's command line named its model, as options of `ModelChoice`; of a run in Python its name alone."""
    commands = [command.get("options", {}) for command in run.get("commands", [])]
    named = next((options for options in reversed(commands) if options.get("name")), None)
    model = run["identity"]["model"]
    if named is None:
        return {"name": str(model["name"]).removeprefix(PREFIX)}
    fields = ("name", "revision", "dtype", "attn", "load_in", "adapter", "model_arg", "image_option")
    return {name: named[name] for name in fields if named.get(name) is not None}


def dataset_of(run: Mapping[str, Any]) -> Dataset:
    """Open the data set of a run again.

    Raises
    ------
    InputError
        The run does not tell how, or its files are not there any more.
    """
    name, recipe = run["identity"]["dataset"]["name"], dict(run["settings"].get("dataset") or {})
    if "path" in recipe:
        return load_dataset(recipe.pop("path"), **recipe)
    if name in DATASETS and "n" in recipe:  # a run may have grown since it was begun
        recipe["n"] = max(int(recipe["n"]), int(run["identity"]["dataset"]["n"]))
    elif name not in DATASETS and "/" not in name:
        raise InputError(f"run.json does not tell how to open the data set {name}: name it with --dataset")
    return load_dataset(name, **recipe)


def samples_of_run(results: Results, dataset: Dataset) -> tuple[dict[str, Sample], set[str]]:
    """Find the samples of a run in a data set.

    Returns
    -------
    found : dict of str to Sample
        By id: those whose content is what the run saw.
    changed : set of str
        Ids of those whose content is another.

    Raises
    ------
    InputError
        None of them is.
    """
    hashes: dict[str, str | None] = {}
    if results.folder is None:
        hashes = dict(zip(results.samples["id"], results.samples["sample_hash"], strict=True))
    else:
        from biaslab.evaluation.sample_log import sample_lines

        for line in sample_lines(results.folder):
            hashes.setdefault(line["id"], line.get("sample_hash"))
    found: dict[str, Sample] = {}
    changed = set()
    for sample in take(dataset, None):
        if sample.id in hashes:
            if hashes[sample.id] in (None, content_hash([sample])):
                found[sample.id] = sample
            else:
                changed.add(sample.id)
    if not found:
        raise InputError(f"the data set {dataset.name} holds none of the run's samples: name another with --dataset")
    return found, changed - set(found)


def layout_finder(run: Mapping[str, Any], vlm: VLM | None = None) -> Callable[[tuple[int, int]], TokenLayout]:
    """Make a function from the size of an image to where its visual tokens lie, without the model's weights.

    By ``vlm`` where the run's model is at hand; one that was wrapped is known by no name.

    Raises
    ------
    BiaslabError
        The model's configuration and processor are not on this machine.
    """
    found: Any = vlm
    if vlm is None:
        options = model_options_of(run)
        found = geometry(LoadRecipe(name=options["name"], revision=options.get("revision")))
    image_options = dict(run["identity"]["options"].get("image_options") or {})

    @cache
    def find(size: tuple[int, int]) -> TokenLayout:
        picture = Image.new("RGB", size, _GREY)
        _, (layout,), _ = found.family.encode(found.processor, [[picture]], ["x"], image_options)
        return layout

    return find


def profiles_of_run(results: Results) -> tuple[dict[str, Profile], list[str]]:
    """Read the profiles of a run folder: hash -> profile, and a sentence for each that cannot be read."""
    found, missing = {}, []
    entries: Mapping[str, Any] = results.run.get("profiles", {})
    for name, entry in entries.items():
        if results.folder is None:
            continue
        try:
            found[name] = load(Path(results.folder) / entry["file"])
        except (BiaslabError, OSError, KeyError) as error:
            missing.append(f"The profile {name} is not shown: {error}")
    return found, missing
