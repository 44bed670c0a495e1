"""The fields of a sample line, their names in files of earlier versions, and the key of a line's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: what names a configuration
KEY_FIELDS = ("method", "options_hash", "profile_hash", "keep", "layer")
#: what is known before the model runs
SAMPLE_FIELDS = (
    "index", "id", "sample_hash", "image_id", "expression_type", "object_size", *KEY_FIELDS, "seed", "target",
)  # fmt: skip
#: what the model's run gives; all null in the line of an error; ``kept``: see :mod:`biaslab.evaluation.kept_tokens`
VERDICT_FIELDS = (
    "answer", "box", "iou", "hit", "parsed", "truncated", "target_auroc", "target_kept", "tokens", "tokens_kept",
    "kept", "info", "batch", "prefill_ms", "decode_ms", "peak_mb",
    "tflops_vision", "tflops_projector", "tflops_decoder",
)  # fmt: skip
#: a line: ``error`` is null, or why there is no verdict
LINE_FIELDS = (*SAMPLE_FIELDS, "error", *VERDICT_FIELDS)
# fields and columns as files of earlier versions name them -> as they are named today
_EARLIER_NAMES = {"kind": "expression_type", "size_class": "object_size"}


def current_name(name: str) -> str:
    """Translate the name of a field or column in a file of any version to the one of today."""
    return _EARLIER_NAMES.get(name, name)


def record_key(record: Mapping[str, Any]) -> str:
    """Make the key of a line's configuration: unique in a run (the count 1 is not the ratio 1.0)."""
    return json.dumps([record[name] for name in KEY_FIELDS])
