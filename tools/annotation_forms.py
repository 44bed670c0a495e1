"""The sample data set's expressions in every form of annotations that biaslab reads, with the real files' fields.

Forms that are text (and REFER's pickle) are part of ``data/sample``; those that hold the images themselves are
written by whoever needs them: `write_tables`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGES = "images"


@dataclass(frozen=True)
class Labelled:
    """An expression with its target: corners in whole pixels; ``target`` numbers the objects of all images."""

    picture: str
    picture_number: int
    width: int
    height: int
    expression: str
    target: int
    box: tuple[int, int, int, int]

    @property
    def xywh(self) -> list[int]:
        """Corner and extent."""
        x, y, right, bottom = self.box
        return [x, y, right - x, bottom - y]

    @property
    def fractions(self) -> list[float]:
        """Corners in fractions of the image."""
        return [v / side for v, side in zip(self.box, (self.width, self.height) * 2, strict=True)]


Rows = Sequence[Labelled]


def objects(rows: Rows) -> list[list[Labelled]]:
    """Group the expressions of one object."""
    groups: dict[int, list[Labelled]] = {}
    for row in rows:
        groups.setdefault(row.target, []).append(row)
    return list(groups.values())


def lines(rows: Sequence[dict[str, Any]]) -> bytes:
    """Write JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows: Any) -> bytes:
    """Write one JSON value, an entry per line where it is a list."""
    if isinstance(rows, list):
        return ("[" + ",\n".join(json.dumps(row) for row in rows) + "]\n").encode()
    return (json.dumps(rows) + "\n").encode()


def refcoco_jsonl(rows: Rows) -> bytes:
    """InternVL and Qwen-VL: corners in pixels."""
    return lines(
        [
            {
                "image": f"{IMAGES}/{r.picture}",
                "sent": r.expression,
                "bbox": list(r.box),
                "width": r.width,
                "height": r.height,
            }
            for r in rows
        ]
    )


def shikra(rows: Rows) -> bytes:
    """Shikra: corners in pixels."""
    return lines(
        [
            {
                "img_path": r.picture,
                "expression": r.expression,
                "bbox": [float(v) for v in r.box],
                "dataset_name": "refcoco",
                "height": r.height,
                "width": r.width,
            }
            for r in rows
        ]
    )


def mdetr(rows: Rows) -> bytes:
    """MDETR: COCO style, an image entry per expression; x, y, w, h."""
    images = [
        {
            "file_name": r.picture,
            "height": r.height,
            "width": r.width,
            "id": i,
            "original_id": r.picture_number,
            "caption": r.expression,
            "dataset_name": "refcoco",
            "tokens_negative": [[0, len(r.expression)]],
        }
        for i, r in enumerate(rows)
    ]
    annotations = [
        {
            "area": r.xywh[2] * r.xywh[3],
            "iscrowd": 0,
            "image_id": i,
            "category_id": 1,
            "id": i,
            "bbox": r.xywh,
            "original_id": r.target,
            "tokens_positive": [[0, len(r.expression)]],
        }
        for i, r in enumerate(rows)
    ]
    return array({"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": []})


def refer_rows(rows: Rows) -> list[dict[str, Any]]:
    """List REFER's references: a row per object."""
    found, sentence = [], 0
    for number, group in enumerate(objects(rows)):
        first = group[0]
        sentences = [
            {"tokens": r.expression.split(), "raw": r.expression.upper(), "sent_id": sentence + i, "sent": r.expression}
            for i, r in enumerate(group)
        ]
        sentence += len(group)
        found.append(
            {
                "sent_ids": [s["sent_id"] for s in sentences],
                "file_name": first.picture,
                "ann_id": first.target,
                "ref_id": number,
                "image_id": first.picture_number,
                "split": "testA",
                "sentences": sentences,
                "category_id": 1,
            }
        )
    return found


def refer(rows: Rows) -> bytes:
    """REFER: a pickle of the references; boxes are in instances.json."""
    return pickle.dumps(refer_rows(rows), protocol=2)


def instances(rows: Rows) -> bytes:
    """COCO's boxes and sizes, as REFER's ``instances.json``."""
    images = {
        r.picture_number: {"file_name": r.picture, "height": r.height, "width": r.width, "id": r.picture_number}
        for r in rows
    }
    annotations = [
        {
            "segmentation": [],
            "area": g[0].xywh[2] * g[0].xywh[3],
            "iscrowd": 0,
            "image_id": g[0].picture_number,
            "bbox": g[0].xywh,
            "category_id": 1,
            "id": g[0].target,
        }
        for g in objects(rows)
    ]
    return array({"info": {}, "images": list(images.values()), "annotations": annotations, "categories": []})


def minigpt4(rows: Rows) -> bytes:
    """MiniGPT-v2's evaluation: x, y, w, h."""
    return array(
        [
            {
                "img_id": Path(r.picture).stem,
                "sents": r.expression,
                "bbox": r.xywh,
                "height": r.height,
                "width": r.width,
            }
            for r in rows
        ]
    )


def llava(rows: Rows) -> bytes:
    """LLaVA's conversations: fractions of the padded square, all expressions of an image in one conversation."""
    pictures: dict[str, list[Labelled]] = {}
    for row in rows:
        pictures.setdefault(row.picture, []).append(row)
    found = []
    for number, (name, group) in enumerate(pictures.items()):
        turns = []
        for i, r in enumerate(group):
            ask = "Please provide the bounding box coordinate of the region this sentence describes: "
            side = max(r.width, r.height)
            pad = ((side - r.width) // 2, (side - r.height) // 2) * 2
            box = [(v + p) / side for v, p in zip(r.box, pad, strict=True)]
            turns += [
                {"from": "human", "value": ("<image>\n" if i == 0 else "") + ask + r.expression},
                {"from": "gpt", "value": str(box)},
                {"from": "human", "value": f"Please provide a short description for this region: {box}"},
                {"from": "gpt", "value": r.expression},
            ]
        found.append({"id": f"sample-{number}", "image": f"{IMAGES}/{name}", "conversations": turns})
    return array(found)


def vlm_r1(rows: Rows) -> bytes:
    """VLM-R1: corners in pixels, no sizes."""
    return array(
        [
            {
                "image": f"{IMAGES}/{r.picture}",
                "problem": "Please provide the bounding box coordinate of the region this sentence describes: "
                f"{r.expression}.",
                "normal_caption": r.expression,
                "solution": list(r.box),
                "dataset": "refcoco",
            }
            for r in rows
        ]
    )


def table_csv(rows: Rows) -> bytes:
    """Any table: one's own columns, x, y, w, h in four of them."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["picture", "what", "left", "top", "wide", "high"])
    writer.writerows([[f"{IMAGES}/{r.picture}", r.expression, *r.xywh] for r in rows])
    return file.getvalue().encode()


#: what `table_csv` writes, in the words of ``--columns``
CSV_COLUMNS = "image=picture,expression=what,box=xywh:left+top+wide+high"

#: file -> form in words, and the function that makes its content: what ``data/sample`` holds
ANNOTATIONS: dict[str, tuple[str, Callable[[Rows], bytes]]] = {
    "refcoco_sample.jsonl": ("RefCOCO jsonl of InternVL and Qwen-VL", refcoco_jsonl),
    "REC_refcoco_sample.jsonl": ("Shikra", shikra),
    "finetune_refcoco_sample.json": ("MDETR (COCO style)", mdetr),
    "refcoco/refs(unc).p": ("REFER, `--split testA`", refer),
    "refcoco/instances.json": ("boxes of REFER", instances),
    "minigpt4_sample.json": ("MiniGPT-v2", minigpt4),
    "llava_sample.json": ("conversations of LLaVA", llava),
    "vlm_r1_sample.json": ("VLM-R1", vlm_r1),
    "sample.csv": (f"any table, with `--columns {CSV_COLUMNS}`", table_csv),
}


# -- forms that hold images, or are binary --------------------------------------------------------------------------
def lmms_lab_rows(rows: Rows, pictures: Path) -> list[dict[str, Any]]:
    """Rows of ``lmms-lab/RefCOCO``: an object each, with its image."""
    return [
        {
            "question_id": str(g[0].target),
            "image": {"bytes": (pictures / g[0].picture).read_bytes(), "path": None},
            "question": "Please carefully observe the area circled in the image and come up with a caption for it.",
            "answer": [r.expression for r in g],
            "segmentation": [float(v) for v in g[0].xywh],
            "bbox": [float(v) for v in g[0].xywh],
            "iscrowd": 0,
            "file_name": g[0].picture,
        }
        for g in objects(rows)
    ]


def jxu124_rows(rows: Rows) -> list[dict[str, Any]]:
    """Rows of ``jxu124/refcoco``: REFER's with COCO's, no images."""
    boxes = {g[0].target: g[0] for g in objects(rows)}
    found = []
    for row in refer_rows(rows):
        first = boxes[row["ann_id"]]
        image = {"file_name": first.picture, "height": first.height, "width": first.width, "id": first.picture_number}
        found.append(
            {
                **row,
                "raw_anns": json.dumps({"bbox": first.xywh, "id": first.target, "image_id": first.picture_number}),
                "raw_image_info": json.dumps(image),
                "raw_sentences": json.dumps(row["sentences"]),
                "image_path": f"coco/train2014/{first.picture}",
                "bbox": [float(v) for v in first.box],
                "captions": [s["sent"] for s in row["sentences"]],
                "global_image_id": f"coco.{first.picture_number}",
                "anns_id": f"refcoco.{first.target}",
            }
        )
    return found


def ref_l4_rows(rows: Rows) -> list[dict[str, Any]]:
    """Rows of Ref-L4's Parquet files."""
    return [
        {
            "id": i,
            "caption": r.expression,
            "bbox": [float(v) for v in r.xywh],
            "bbox_area": float(r.xywh[2] * r.xywh[3]),
            "bbox_id": f"o365_{r.target}",
            "ori_category_id": "o365_1",
            "image_id": f"o365_{r.picture_number}",
            "height": r.height,
            "width": r.width,
            "file_name": r.picture,
            "is_rewrite": False,
            "split": "val",
        }
        for i, r in enumerate(rows)
    ]


def vlmevalkit_tsv(rows: Rows, pictures: Path) -> bytes:
    """VLMEvalKit: one TSV, images in base64; a row of an image that was there before refers to it."""
    file, first = io.StringIO(), {}
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(["index", "image", "question", "answer", "category"])
    for i, r in enumerate(rows):
        held = first.setdefault(r.picture, i)
        picture = base64.b64encode((pictures / r.picture).read_bytes()).decode() if held == i else str(held)
        question = f"Please provide the bounding box coordinate of the region this sentence describes: {r.expression}"
        writer.writerow([i, picture, question, str(r.fractions), "RefCOCO testA"])
    return file.getvalue().encode()


def write_tables(rows: Rows, pictures: Path, folder: Path) -> dict[str, Path]:
    """Write the forms that hold images, or are Parquet; name of the reader -> file."""
    import datasets

    held = datasets.Dataset.from_list(lmms_lab_rows(rows, pictures)).cast_column("image", datasets.Image())
    found = {
        "lmms-lab": (folder / "lmms" / "data" / "testA-00000-of-00001.parquet", held),
        "jxu124": (folder / "jxu124_testA.parquet", datasets.Dataset.from_list(jxu124_rows(rows))),
        "ref-l4": (folder / "ref-l4-val.parquet", datasets.Dataset.from_list(ref_l4_rows(rows))),
    }
    for path, data in found.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        data.to_parquet(str(path))
    tsv = folder / "RefCOCO.tsv"
    tsv.write_bytes(vlmevalkit_tsv(rows, pictures))
    return {name: path for name, (path, _) in found.items()} | {"vlmevalkit": tsv}
