"""Answers decoded in one way or another: tokens, logits of every step, selections."""

from __future__ import annotations

import pruned
import torch
from transformers import LogitsProcessor

from biaslab.evaluation.decoding.one_generate import static_options
from biaslab.pruning.engine.prune import engaged


class Keep(LogitsProcessor):
    """Keeps the scores of every step."""

    def __init__(self):
        self.scores = []

    def __call__(self, ids, scores):
        self.scores.append(scores.clone())
        return scores


def recorded(vlm, enc, method, layer, way, positions="original", steps=pruned.STEPS, graphs=None, cache="full"):
    """Tokens, logits and selections of a greedy answer of ``steps`` tokens."""
    keep = Keep()
    given = {"positions": positions, "seed": 0, "cache": cache}
    with engaged(vlm, method, layer, **given) as engine, vlm.running(enc) as inputs:
        options = static_options(vlm, way, steps, engine, positions, graphs)
        with torch.no_grad():
            ids = vlm.model.generate(
                **inputs, max_new_tokens=steps, do_sample=False, logits_processor=[keep], **pruned.words_only(vlm),
                **options,
            )  # fmt: skip
        return ids[:, enc.last + 1 :], torch.stack(keep.scores, 1), list(engine.run.selections)
