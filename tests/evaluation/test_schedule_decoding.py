"""Several cuts in one prefill, decoded by a static step."""

from __future__ import annotations

import warnings

import pruned
import pytest
import tiny
import torch
from decoded import recorded
from sweeps import untouched
from transformers import LogitsProcessor

from biaslab.evaluation.decoding import static_loop
from biaslab.evaluation.decoding.one_generate import static_options
from biaslab.pruning import parse_schedule, prune
from biaslab.pruning.engine.prune import engaged

WORDS = ("fastv@0.7@1+fastv@0.4@3", "divprune@0.6@0+fastv@0.3@2", "divprune@0.8@0+random@0.5@1+fastv@0.3@3")


@pytest.fixture
def no_other_way():
    """A decoding that went the dynamic way would equal itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "decode=")
        yield


@pytest.mark.usefixtures("no_other_way")
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("positions", ["original", "renumber"])
def test_a_static_step_is_the_dynamic_one_and_a_masked_recompute(word, positions):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    tokens, logits, kept = recorded(vlm, enc, word, None, "static", positions)
    others, want, also = recorded(vlm, enc, word, None, "dynamic", positions)
    assert torch.equal(tokens, others)
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(kept, also, strict=True))
    finite = want.isfinite()  # suppressed tokens
    assert torch.equal(finite, logits.isfinite())
    assert float((logits - want)[finite].abs().max()) <= 1e-5
    with prune(vlm, schedule=word, positions=positions) as state:
        vlm.forward(enc)
    gone = [pruned.dropped_positions(enc, chosen) for chosen in state.stages]
    layers = [stage.layer for stage in parse_schedule(word)]
    slow = pruned.oracle(vlm, enc.inputs, tokens, gone, layers, positions == "renumber")
    assert float((logits - slow)[finite].abs().max()) <= 1e-4
    assert untouched(vlm)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_other_families(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    lowest = pruned.lowest_layer(vlm)
    word = f"divprune@0.6@{lowest}+fastv@0.3@3"
    tokens, logits, _ = recorded(vlm, enc, word, None, "static")
    others, want, _ = recorded(vlm, enc, word, None, "dynamic")
    finite = want.isfinite()
    assert torch.equal(tokens, others) and float((logits - want)[finite].abs().max()) <= 1e-5


class End(LogitsProcessor):
    """Ends the first row at its second token."""

    step = 0

    def __call__(self, ids, scores):
        self.step += 1
        if self.step == 2:
            scores = scores.clone()
            scores[0], scores[0, 7] = -1e9, 0
        return scores


@pytest.mark.filterwarnings("ignore:decode=")
@pytest.mark.parametrize("word", ["random@0.5@0", *WORDS])
def test_rows_that_end_early_where_a_model_allows_no_static_step(word, monkeypatch):
    vlm, answers = tiny.vlm("internvl"), []
    enc = tiny.encoded(vlm, 3)
    monkeypatch.setattr(static_loop, "not_static", lambda vlm: "its step is not known")
    for way in ("dynamic", "static"):
        with engaged(vlm, word, positions="original", seed=0) as engine, vlm.running(enc) as inputs, torch.no_grad():
            options = static_options(vlm, way, 8, engine, "original", None) | {"eos_token_id": 7, "pad_token_id": 0}
            ids = vlm.model.generate(
                **inputs, max_new_tokens=8, do_sample=False, logits_processor=[End()], **options
            )  # fmt: skip
            answers.append(ids[:, enc.last + 1 :])
    assert answers[0][0, 1] == 7 and torch.equal(*answers)
