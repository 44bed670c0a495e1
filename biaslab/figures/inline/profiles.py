"""Profiles and maps in notebooks: expected attention of each position, a thumbnail per layer."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import Any

import numpy as np
from markupsafe import Markup

from biaslab._util.notebook import Drawing, draws
from biaslab._util.number_text import count_text, list_text
from biaslab.figures.inline.parts import MOST, drawn, figure, line, png_uri, ratio_png, row
from biaslab.figures.layers import evenly


@draws("LearnedMaps")
def profile(fitted: Any) -> Drawing:
    """Draw what is expected in each layer relative to the mean; one that is not fitted is its line."""
    if not hasattr(fitted, "layers_"):
        return drawn(line(Markup("<code>{}</code>").format(repr(fitted)), "not fitted"))
    layout, _ = fitted.layout_of()
    heads = getattr(fitted, "heads_", None)
    layers = sorted({layer for layer, _ in heads}) if heads else fitted.layers_
    chosen = evenly(layers, MOST)
    maps = [ratio_png(fitted.expected(layout, layer).double().numpy().mean(0), layout) for layer in chosen]
    titles = [fitted.panel_title(layer) for layer in chosen]
    about = fitted.provenance_
    head = line(
        Markup("<b>{} profile</b>").format(fitted.name), PurePath(str(about.get("model", ""))).name,
        count_text(sum(fitted.counts_.values()), "image"), layout.key,
        "heads " + list_text([f"L{layer}h{h}" for layer, h in heads]) if heads else "",
        _SCALE, fitted.hash[:12],
    )  # fmt: skip
    return drawn(row(head, _maps(maps, titles), left_out=len(layers) - len(chosen)), maps[0] if maps else None)


@draws("AttentionMaps")
def maps(collected: Any) -> Drawing:
    """Draw the mean attention of the most frequent layout in each layer."""
    where = Counter({key: collected.moments(collected.layers[0], key).n for key in collected.layouts})
    head = [Markup("<b>attention maps</b>"), collected.provenance.get("model", ""), count_text(collected.n, "image")]
    if not where:
        return drawn(line(*head, f"layers {collected.layers}"))
    ((key, _),) = where.most_common(1)
    chosen = evenly(collected.layers, MOST)
    shown = [
        ratio_png(np.asarray(collected.moments(layer, key).mean).mean(0), collected.layouts[key]) for layer in chosen
    ]
    more = f"and {len(where) - 1} more layouts" if len(where) > 1 else ""
    titles = [f"layer {layer}" for layer in chosen]
    text = line(*head, key, more, f"query rows: {collected.provenance.get('queries', '')}", _SCALE)
    return drawn(row(text, _maps(shown, titles), left_out=len(collected.layers) - len(chosen)), shown[0])


_SCALE = "blue below the mean, red above, up to 4 times"


def _maps(pngs: list[bytes], titles: list[str]) -> list[Markup]:
    return [
        figure(png_uri(png), title, width=112, alt=f"expected attention, {title}", crisp=True)
        for png, title in zip(pngs, titles, strict=True)
    ]
