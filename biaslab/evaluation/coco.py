"""Results as COCO json, for FiftyOne and pycocotools.

As in the COCO-style RefCOCO files, an *expression* is an image of its own with one annotation, both numbered by its
place in the data set, from 1; ``file_name`` is the id of the image, ``sample_id`` the expression's. Boxes are
``[x, y, width, height]`` in pixels of the original image. There is one category, and a score of 1: a model that
writes its box gives none. Answers without a box, and errors, have no prediction. COCO's recall with one detection at
IoU 0.5 (``maxDets=[1]``) is then Acc@0.5, errors counted as misses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab._util.files import atomic_write, writing_to
from biaslab._util.watermark import note_of
from biaslab.errors import InputError
from biaslab.evaluation.sample_log import sample_lines
from biaslab.evaluation.schema import record_key

if TYPE_CHECKING:
    from biaslab.datasets import Dataset
    from biaslab.evaluation.results import Results

__all__ = ["coco_of", "write_coco"]

GROUND_TRUTH = "ground-truth.json"
_CATEGORY = {"id": 1, "name": "referent", "supercategory": ""}


def coco_of(
    results: Results, dataset: Dataset | None = None, choices: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Iterator[tuple[str, list[dict[str, Any]]]]]:
    """Make the ground truth, and the predictions of each configuration one after the other; see `Results.to_coco`."""
    if results.accuracy != "acc50":
        raise InputError("COCO's form is of boxes, and this run asked questions: take results.samples or results.csv")
    configs = _chosen(results, choices or {})
    ids, first = np.unique(results.verdicts["id"].cat.codes.to_numpy(), return_index=True)
    samples = results.verdicts.iloc[np.sort(first)]
    place = {name: i for i, name in enumerate(samples["id"])}
    number = {record_key(config): i for i, config in enumerate(configs)}
    boxes = np.full((len(configs), len(ids), 4), np.nan)
    targets = np.full((len(ids), 4), np.nan)
    for line in _lines(results):
        row = place.get(line["id"])
        if row is None:
            continue
        if line["target"] is not None:
            targets[row] = line["target"]
        config = number.get(record_key(line))
        if config is not None and line["error"] is None:
            boxes[config, row] = np.nan if line["box"] is None else line["box"]
    index = samples["index"].to_numpy()
    truth = _ground_truth(results, samples, index, _xywh(targets), dataset)
    return truth, (
        (_name(results, config), _predictions(index, _xywh(box))) for config, box in zip(configs, boxes, strict=True)
    )


def write_coco(
    folder: Path, truth: dict[str, Any], predictions: Iterable[tuple[str, list[dict[str, Any]]]]
) -> list[Path]:
    """Write the ground truth, and a file of predictions for each configuration."""
    written = []
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        written.append(atomic_write(folder / GROUND_TRUTH, json.dumps(truth, ensure_ascii=False) + "\n"))
        for name, found in predictions:
            slug = re.sub(r"[^A-Za-z0-9.=_-]+", "-", name)
            written.append(atomic_write(folder / f"predictions-{slug}.json", json.dumps(found) + "\n"))
    return written


def _chosen(results: Results, choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the configurations of the run with these methods, keep ratios and layers."""
    configs = results.run["identity"]["configurations"]
    found = [
        config for config in configs if all(value is None or config[name] == value for name, value in choices.items())
    ]
    if not found:
        names = "; ".join(_name(results, config) for config in configs)
        asked = ", ".join(f"{name} {value}" for name, value in choices.items() if value is not None)
        raise InputError(f"the run has no configuration of {asked}: choose among {names}")
    return found


def _lines(results: Results) -> Iterable[Mapping[str, Any]]:
    """One line at a time where the run is on disk."""
    if results.folder is not None:
        return sample_lines(results.folder)
    return results.samples.to_dict("records")  # type: ignore[return-value]


def _name(results: Results, config: Mapping[str, Any]) -> str:
    return results.name_of(dict(config))


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _predictions(index: np.ndarray, boxes: np.ndarray) -> list[dict[str, Any]]:
    there = np.flatnonzero(~np.isnan(boxes).any(1))
    return [
        {"image_id": int(index[i]) + 1, "category_id": _CATEGORY["id"], "bbox": boxes[i].tolist(), "score": 1.0}
        for i in there
    ]


def _ground_truth(
    results: Results, samples: Any, index: np.ndarray, boxes: np.ndarray, dataset: Dataset | None
) -> dict[str, Any]:
    about = {sample.id: sample for sample in dataset or ()}
    images, annotations = [], []
    for i, (name, picture, kind) in enumerate(
        zip(samples["id"], samples["image_id"], samples["expression_type"], strict=True)
    ):
        number, sample = int(index[i]) + 1, about.get(name)  # pycocotools takes an annotation 0 for none
        image = {"id": number, "file_name": picture, "sample_id": name, "expression_type": kind}
        if sample is not None:
            image |= {"width": sample.width, "height": sample.height, "caption": sample.expression}
        images.append(image)
        x, y, width, height = boxes[i].tolist()
        annotations.append({
            "id": number, "image_id": number, "category_id": _CATEGORY["id"], "bbox": [x, y, width, height],
            "area": width * height, "iscrowd": 0,
        })  # fmt: skip
    identity = results.run["identity"]
    info = {
        "description": f"{identity['dataset']['name']} {identity['dataset']['split']}",
        "contributor": f"biaslab, {identity['model']['name']}",
    }
    if note := note_of(identity["model"]):
        info["note"] = note
    return {"info": info, "images": images, "annotations": annotations, "categories": [_CATEGORY]}
