"""The atlas in sentences: what was measured, all layers together, each layer, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from biaslab._util.cards import card_text
from biaslab._util.number_text import count_text, list_text
from biaslab.atlas.layer_text import layer_sentences, layers_text
from biaslab.atlas.summary_text import summary_paragraphs
from biaslab.core.frames import FramesLayout
from biaslab.diagnostics.probe.claims import SLOPE_MARGIN, few_objects_text
from biaslab.profiles.sample_size import few_images_text

if TYPE_CHECKING:
    from biaslab.atlas.data import AtlasData
    from biaslab.maps.base import AttentionMaps

__all__ = ["card"]

_MISSING = {
    "comparison": "No causal probe was given: a profile says what positions draw on these images, which is not all the "
    "model's doing (`biaslab probe`).",
    "controls": "No controls were given: blank, shuffled or mirrored images would say how much of the map stays when "
    "content is taken out or moved (`biaslab.diagnostics.control_table`).",
    "removal": "No removal report was given: whether division helps to find a target is not known "
    "(`biaslab.diagnostics.removal_report`).",
}


def card(atlas: AtlasData, *, margin: tuple[float, float] = SLOPE_MARGIN) -> str:
    """Write a Markdown account of an atlas; every number is taken from its tables.

    Parameters
    ----------
    atlas : AtlasData
        Tables and what they were made of.
    margin : (float, float)
        Slopes of the probe that count as the right amount; see :func:`biaslab.diagnostics.probe.verdict.verdict`.

    Returns
    -------
    str
        Markdown.
    """
    provenance, summary = atlas.provenance, atlas.summary()
    lines = [_measured_paragraph(atlas), ""]
    for few in _few_sentences(atlas):
        lines += [f"**{few}**", ""]
    if paragraphs := summary_paragraphs(summary, atlas.tables, margin=margin):
        lines += ["## All layers", ""]
        for paragraph in paragraphs:
            lines += [paragraph, ""]
    lines += ["## Layer by layer", ""]
    lines += [f"- {layer_sentences(row, margin=margin)}" for row in summary.to_dict("records")]
    lines += ["", "## Limits", ""]
    lines += [f"- {text}" for text in _limit_sentences(atlas)]
    return card_text(f"Atlas of positional bias: {provenance.get('model') or 'model'}", provenance, [*lines, ""])


def _few_sentences(atlas: AtlasData) -> list[str]:
    """Say where images, or objects of the probe, are too few."""
    # images of another kind do not say how reliable a profile given from outside is
    alike = atlas.profile.provenance_.get("calibration") == atlas.provenance.get("calibration")
    variance = atlas.tables.get("variance") if alike else None
    texts = [few_images_text(atlas.profile.counts_, variance, transports="layout" in atlas.profile.transports)]
    if atlas.probe is not None:
        few = few_objects_text(len(atlas.probe.groups), atlas.probe.n_groups)
        texts.append(few and f"Causal probe: {few}.")
    return [text for text in texts if text]


def _measured_paragraph(atlas: AtlasData) -> str:
    provenance, profile = atlas.provenance, atlas.profile
    score = provenance.get("score", "attention")
    text = (
        f"{_images_text(atlas.counts)}, {layers_text(atlas.layers)}, query rows "
        f'"{provenance.get("queries", "last")}", {profile.name} profile'
        + (f", score {score} in place of attention" if score != "attention" else "")
        + "."
    )
    if atlas.maps is None:
        heads = ""
        if atlas.heads is not None:
            heads = f"; layers are described by the mean over their {count_text(int(provenance['heads']), 'head')}"
        return f"{text} Read from the profile's file (hash `{profile.hash}`), without the maps it was fitted on{heads}."
    text += f" Brackets are {100 * atlas.confidence:g} % intervals over images; {_heads_text(atlas, atlas.maps)}."
    profiles = [p for p in (profile, atlas.heads) if p is not None]
    other = next((p for p in profiles if p.provenance_.get("calibration") != provenance.get("calibration")), None)
    return text + ("" if other is None else f" The profile given was fitted on others: {_images_text(other.counts_)}.")


def _images_text(counts: Mapping[str, int]) -> str:
    """Write counts as "12 images (layout (8) and another (4))"."""
    return f"{count_text(sum(counts.values()), 'image')} ({list_text(f'{key} ({n:,})' for key, n in counts.items())})"


def _heads_text(atlas: AtlasData, maps: AttentionMaps) -> str:
    variance = atlas.tables.get("variance")
    if maps.heads == "mean":
        return "layers are described by the mean over their heads"
    if maps.heads == 1:
        return "layers are described by their only head"
    if variance is None or (variance["head"] == "mean").any():
        return f"layers are described by the mean over their {maps.heads} heads, as pruning methods score it"
    return f"variance explained is of all {maps.heads} heads together, the rest of their mean"


def _limit_sentences(atlas: AtlasData) -> list[str]:
    sentences = [
        "A profile holds what its images have in common as much as the model's bias: where photographers, or a scene "
        "generator, put things is in it too."
    ]
    if atlas.maps is None:
        sentences.append(
            "A profile holds no single images: variance explained, reliability, dependence and the intervals of masses "
            "need maps (`biaslab inspect MAPS`, of `fit-bias --maps MAPS`)."
        )
    sentences += [text for name, text in _MISSING.items() if name not in atlas.tables]
    sentences += [f"Not measured, {name}: {why}." for name, why in atlas.skipped.items()]
    if any(layout.tiles != (1, 1) for layout in atlas.layouts.values()):
        sentences.append(
            "Images of several tiles: rows and columns are those of a tile, border and ends those of the whole "
            "image; later tiles also lie lower."
        )
    if any(isinstance(layout, FramesLayout) for layout in atlas.layouts.values()):
        sentences.append(
            "Prompts of several frames count as one image each: rows, columns, border and ends are those of every "
            "frame, what is centred is centred over all frames of the prompt."
        )
    if len(atlas.layers) > 1 and atlas.maps is not None:
        sentences.append(
            "Intervals hold layer by layer; of many some are expected to miss. q-values are adjusted over the layers, "
            "and those of single heads over all heads."
        )
    return sentences
