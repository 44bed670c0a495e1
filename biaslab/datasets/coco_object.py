"""One JSON object as COCO's, whose images carry captions: an entry per expression, with its annotations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biaslab.errors import InputError

__all__ = ["coco_rows", "is_captioned"]


def is_captioned(value: Any) -> bool:
    """Whether a value is a COCO object whose images carry captions, as MDETR's are."""
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        return False
    images = value["images"]
    annotated = isinstance(value.get("annotations"), list)
    return annotated and bool(images) and isinstance(images[0], dict) and "caption" in images[0]


def coco_rows(path: Path, value: dict[str, Any]) -> Iterator[tuple[int, str, Any]]:
    """Join every image entry with its annotations: a row per image, the annotations under ``annotations``."""
    try:
        annotations: dict[Any, list[Any]] = {}
        for annotation in value["annotations"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
        for index, image in enumerate(value["images"]):
            yield index, f"image entry {index + 1}", {**image, "annotations": annotations.get(image["id"], [])}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no COCO annotation file ({type(error).__name__}: {error}): correct it") from None
