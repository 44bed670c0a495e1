"""Captured attention in notebooks: over the image where somebody still holds it, else as a map of its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from biaslab._util.notebook import Drawing, draws
from biaslab._util.number_text import count_text
from biaslab.figures.inline.parts import MOST, drawn, figure, heat, line, map_png, overlaid, png_uri, row


@draws("Rows")
def rows(one: Any) -> Drawing:
    """Draw a layer: of each image the mean over heads and query rows; heads by tokens where no image is known."""
    head = line(Markup("<b>attention rows</b>"), _about(one))
    if not one.seen:
        maps = _means(one)[0]
        return drawn(
            row(head, [_strip(maps, "heads of the first prompt (down) by visual tokens (across)")]), heat(maps)
        )
    shown = [_image(one, where, f"image {i}") for i, where in enumerate(one.seen[:MOST])]
    first = one.seen[0]
    return drawn(row(head, shown, left_out=len(one.seen) - len(shown)), map_png(_map(one, first).mean(0), first.layout))


@draws("CapturedRows")
def captured(all_: Any) -> Drawing:
    """Draw the first image's map in each captured layer."""
    layers = list(all_)
    if not layers:
        return drawn(line(Markup("<b>captured rows</b>"), f"layers {all_.layers}", "no prompt has run yet"))
    shown = []
    for layer in layers[:MOST]:
        one = all_[layer]
        shown.append(
            _image(one, one.seen[0], f"layer {layer}") if one.seen else _strip(_means(one)[0], f"layer {layer}")
        )
    head = line(Markup("<b>captured rows</b>"), f"{len(layers)} layers", _about(all_[layers[0]]), "mean over heads")
    return drawn(row(head, shown, left_out=len(layers) - len(shown)))


def _about(one: Any) -> str:
    prompts, heads, queries, tokens = one.values.shape
    counts = ((prompts, "prompt"), (heads, "head"), (queries, "query row"), (tokens, "visual token"))
    return ", ".join(count_text(count, thing) for count, thing in counts)


def _means(one: Any) -> np.ndarray:
    """(B, H, V): the mean over the query rows of each prompt."""
    from biaslab.attention.rows import mean_over_queries

    return mean_over_queries(one).values[:, :, 0].float().cpu().numpy()


def _map(one: Any, where: Any) -> np.ndarray:
    """(H, N): an image's own columns; NaN where its token had been dropped before the layer."""
    values, (first, last) = _means(one)[where.prompt], where.columns
    if one.kept is None:
        return values[:, first:last]
    own = one.mask[where.prompt].cpu().numpy()
    at = one.kept[where.prompt].cpu().numpy()[own]
    out = np.full((len(values), max(last, int(at.max(initial=0)) + 1)), np.nan)
    out[:, at] = values[:, own]
    return out[:, first:last]


def _image(one: Any, where: Any, caption: str) -> Markup:
    values, image = _map(one, where).mean(0), where.image
    about = f"{caption}: {np.nansum(values):.3g} of the attention"
    if image is None:
        return figure(png_uri(map_png(values, where.layout)), about, width=150, alt=f"attention, {caption}", crisp=True)
    return figure(overlaid(image, values, where.layout), about, width=200, alt=f"attention over {caption}")


def _strip(values: np.ndarray, caption: str) -> Markup:
    return figure(png_uri(heat(values.repeat(6, 0))), caption, width=400, alt=caption, crisp=True)
