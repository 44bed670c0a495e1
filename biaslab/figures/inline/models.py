"""Models in notebooks: the facts that decide what can be measured."""

from __future__ import annotations

from typing import Any

from PIL import Image

from biaslab._util.notebook import Drawing, draws
from biaslab._util.watermark import note_of
from biaslab.errors import BiaslabError
from biaslab.figures.inline.parts import drawn, facts, grid_text

_SQUARE = (448, 448)


@draws("PromptedModel")
def model(vlm: Any) -> Drawing:
    """Draw a model as a table."""
    where, note = sorted({str(p.device) for p in vlm.model.parameters()}), note_of(vlm)
    return drawn(facts(vlm.name, [
        ("", "" if note is None else f"{note}: the numbers mean nothing"),
        ("family", vlm.family.name),
        ("decoder layers", vlm.n_layers),
        ("visual tokens", _tokens(vlm)),
        ("boxes", vlm.family.box_space.value),
        ("dtype", str(vlm.model.dtype).removeprefix("torch.")),
        ("device", ", ".join(where)),
        ("revision", (vlm.revision or "")[:12]),
        ("image options", ", ".join(f"{name}={value}" for name, value in vlm.image_options.items())),
    ]))  # fmt: skip


def _tokens(vlm: Any) -> str:
    """Say how many tokens a square image has, as the processor cuts it."""
    try:
        (layout,) = vlm.prepare([Image.new("RGB", _SQUARE)], ["?"]).layouts
    except BiaslabError:
        return ""
    return f"{grid_text(layout)} (of an image of {_SQUARE[0]} x {_SQUARE[1]})"
