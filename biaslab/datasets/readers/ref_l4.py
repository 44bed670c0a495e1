"""Ref-L4 (Chen et al., "Revisiting Referring Expression Comprehension Evaluation in the Era of LMMs", 2024).

``ref-l4-val.parquet`` and ``ref-l4-test.parquet``, with the images of ``images.tar.gz`` beside them::

    {"id": 1, "caption": "Within the central image frame ...", "bbox": [x, y, w, h], "bbox_id": "o365_527361",
     "image_id": "o365_922765", "height": 741, "width": 1024, "file_name": "objects365_v2_00922765.jpg", ...}
"""

from __future__ import annotations

from pathlib import Path

from biaslab.datasets.reader import Reader, register_reader


@register_reader
class RefL4(Reader):
    """``caption, bbox, bbox_id, file_name, height, width``; x, y, w, h in pixels."""

    name = "ref-l4"
    what = "a Ref-L4 table"
    columns = ("caption", "bbox", "bbox_id", "file_name", "height", "width")
    box_form = "xywh"
    image = "file_name"
    expression = "caption"
    stored = True

    def title(self, path: Path | None, split: str | None) -> tuple[str, str]:
        """``ref-l4`` and the split of the file's name."""
        stem = "" if path is None else path.stem
        return self.name, split or stem.removeprefix("ref-l4-")
