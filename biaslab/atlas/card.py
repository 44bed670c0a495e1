"""The atlas in sentences: what was measured, all layers together, each layer, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from biaslab._util.cards import card_text
from biaslab.atlas.overall import overall
from biaslab.atlas.sentences import layer_sentences
from biaslab.atlas.words import layers_said, listed, plural

if TYPE_CHECKING:
    from biaslab.atlas.data import AtlasData

__all__ = ["card"]

_MISSING = {
    "comparison": "No causal probe was given: a profile says what positions draw on these images, which is not all the "
    "model's doing (`biaslab probe`).",
    "controls": "No controls were given: blank, shuffled or mirrored pictures would say what is left without content "
    "(`biaslab.diagnostics.control_table`).",
    "removal": "No removal report was given: whether division helps to find a target is not known "
    "(`biaslab.diagnostics.removal_report`).",
}


def card(atlas: AtlasData) -> str:
    """A Markdown account of an atlas; every number is taken from its tables."""
    about, summary = atlas.about, atlas.summary()
    lines = [_measured(atlas), "", "## All layers", ""]
    for paragraph in overall(summary, atlas.tables):
        lines += [paragraph, ""]
    lines += ["## Layer by layer", ""]
    lines += [f"- {layer_sentences(row)}" for row in summary.to_dict("records")]
    lines += ["", "## Limits", ""]
    lines += [f"- {text}" for text in _limits(atlas)]
    return card_text(f"Atlas of positional bias: {about.get('model', 'model')}", about, [*lines, ""])


def _measured(atlas: AtlasData) -> str:
    about, profile = atlas.about, atlas.profile
    score = about.get("score", "attention")
    said = (
        f"{_images(atlas.counts)}, {layers_said(atlas.layers)}, query rows "
        f'"{about.get("queries", "last")}", {profile.name} profile'
        + (f", score {score} in place of attention" if score != "attention" else "")
        + "."
    )
    if atlas.maps is None:
        heads = "" if atlas.heads is None else f"; layers are described by the mean over their {about['heads']} heads"
        return f"{said} Read from the profile's file (hash `{profile.hash}`), without the maps it was fitted on{heads}."
    said += f" Brackets are {100 * atlas.confidence:g} % intervals over images; {_heads_said(atlas)}."
    known = [p for p in (profile, atlas.heads) if p is not None]
    other = next((p for p in known if p.provenance_.get("calibration") != about.get("calibration")), None)
    return said + ("" if other is None else f" The profile given was fitted on others: {_images(other.counts_)}.")


def _images(counts: Mapping[str, int]) -> str:
    """ "12 images (layout (8) and another (4))"."""
    return f"{plural(sum(counts.values()), 'image')} ({listed(f'{key} ({n:,})' for key, n in counts.items())})"


def _heads_said(atlas: AtlasData) -> str:
    heads, variance = atlas.maps.heads, atlas.tables.get("variance")
    if heads == "mean":
        return "layers are described by the mean over their heads"
    if variance is None or (variance["head"] == "mean").any():
        return f"layers are described by the mean over their {heads} heads, as pruning methods score it"
    return f"variance explained is of all {heads} heads together, the rest of their mean"


def _limits(atlas: AtlasData) -> list[str]:
    said = [
        "A profile holds what its images have in common as much as the model's bias: where photographers, or a scene "
        "generator, put things is in it too."
    ]
    if atlas.maps is None:
        said.append(
            "A profile holds no single images: variance explained, reliability, dependence and the intervals of masses "
            "need maps (`biaslab inspect MAPS`, of `fit-bias --maps MAPS`)."
        )
    said += [text for name, text in _MISSING.items() if name not in atlas.tables]
    said += [f"Not measured, {name}: {why}." for name, why in atlas.skipped.items()]
    if any(layout.tiles != (1, 1) for layout in atlas.layouts.values()):
        said.append(
            "Pictures of several tiles: rows and columns are those of a tile, border and ends those of the whole "
            "picture; later tiles also lie lower."
        )
    if len(atlas.layers) > 1 and atlas.maps is not None:
        said.append(
            "Intervals hold layer by layer; among many some miss. q-values are adjusted over the layers, and those of "
            "single heads over all heads."
        )
    return said
