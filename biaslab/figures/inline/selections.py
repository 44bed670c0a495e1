"""What pruning kept, in notebooks: a mask over the image where it is known, else over its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from biaslab._util.notebook import Drawing, draws
from biaslab.figures.inline.parts import MOST, drawn, figure, heat, line, masked, placed, png_uri, row


@draws("Selection")
def selection(one: Any) -> Drawing:
    """Draw the kept tokens."""
    image, png = _kept(one, "kept tokens")
    return drawn(image, png)


@draws("PruneRun")
def run(block: Any) -> Drawing:
    """Draw what is kept of each image of the latest prefill."""
    shown = [_kept(one, f"image {i}")[0] for i, one in enumerate(block.selections[:MOST])]
    head = line(Markup("<b>{}</b>").format(block.schedule.label), "" if shown else "no image has run yet")
    return drawn(row(head, shown, left_out=len(block.selections) - len(shown)))


def _kept(one: Any, caption: str) -> tuple[Markup, bytes | None]:
    kept = one.indices.cpu().numpy()
    total = one.total
    about = line(caption, f"{len(kept):,}" + ("" if total is None else f" of {total:,}"))
    if one.seen is None:
        if total is None:
            return Markup("<code>{}</code>").format(repr(one)), None
        mask = np.zeros((8, total))
        mask[:, kept] = 1
        png = heat(mask, colours="Blues", high=1.0)
        return figure(png_uri(png), about, width=400, alt=f"{caption} in the order of the sequence", crisp=True), png
    layout, image = one.seen.layout, one.seen.image
    mask = np.zeros(layout.n)
    mask[kept] = 1
    png = heat(placed(mask, layout), colours="Blues", high=1.0)
    if image is None:
        return figure(png_uri(png), about, width=150, alt=caption, crisp=True), png
    return figure(masked(image, kept, layout), about, width=200, alt=f"{caption} on the image"), png
