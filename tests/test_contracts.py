"""The engine's and capture's contracts on every family: decoders crossed pairwise with kinds of prompts and with K.

Families come from the registry: a new one is tested without a line here. Row ``i`` of the families meets prompt
kind ``j`` at ``KS[(i + j) % 4]``, so that every two of (family, prompt, K) meet once.
"""

from __future__ import annotations

import pytest
import tiny
import torch
from eager import eager_attention
from pruned import dropped_positions, method_for, oracle, refused, run, words_only

from biaslab.attention.capture import capture
from biaslab.models import families
from biaslab.pruning import budget, prune

LAYERS = 6
KS = (0, 2, LAYERS // 2, LAYERS - 1)
VARIANTS = [(family, decoder) for family in tiny.FAMILIES for decoder in families()[family].decoders]
PROMPTS = ("one", "padded batch", "two images", "grouped heads")
PAIRS = [(v, p, KS[(i + j) % len(KS)]) for i, v in enumerate(VARIANTS) for j, p in enumerate(PROMPTS)]
# the hardest kinds stand for the others
SLOW = [p not in (("padded batch", "two images") if v[0] in tiny.QUICK else ("padded batch",)) for v, p, _ in PAIRS]
NAMES = [f"{family}-{text}-{prompt}-K{k}".replace(" ", "_") for (family, text), prompt, k in PAIRS]


def build(variant, prompt="one"):
    family, text = variant
    sizes = {"heads": 8, "kv": 2} if prompt == "grouped heads" else {"heads": 4, "kv": 4}
    window = {"sliding_window": None} if text == "mistral" else {}  # as LLaVA-NeXT's checkpoints have it
    return tiny.vlm(family, layers=LAYERS, text=text, **sizes, **window)


def encode(vlm, prompt):
    n = 3 if prompt == "padded batch" else 1
    pictures = tiny.images(n, seed=1)
    if prompt == "two images":
        pictures = [tiny.images(2, seed=1)]
    return vlm.encode(pictures, tiny.texts(n), sample_ids=[f"s{i}" for i in range(n)])


@pytest.mark.parametrize(
    ("variant", "prompt", "layer"),
    [pytest.param(*pair, marks=pytest.mark.slow if slow else ()) for pair, slow in zip(PAIRS, SLOW, strict=True)],
    ids=NAMES,
)
def test_contracts(variant, prompt, layer):
    vlm = build(variant, prompt)
    enc = encode(vlm, prompt)
    if prompt == "padded batch":
        assert enc.inputs["attention_mask"].min() == 0
    tokens, plain = run(vlm, enc)
    # 1: capture changes nothing and equals eager attention
    with capture(vlm) as rows:
        seen = run(vlm, enc)
    assert torch.equal(seen[0], tokens) and (seen[1] - plain).abs().max() == 0
    for index, attention in enumerate(eager_attention(vlm, enc)):
        for row in range(len(enc)):
            own = enc.visual[row, enc.visual_mask[row]]
            got = rows[index].values[row, :, 0, rows[index].mask[row]]
            assert (got - attention[row, :, enc.last, own]).abs().max() <= 1e-4
    if refused(vlm, layer):
        return
    for name in ("fastv", "d2pruner") if layer else ("divprune",):
        # 2: keeping all changes nothing
        with prune(vlm, method_for(name, 1.0), layer):
            same = run(vlm, enc)
        assert torch.equal(same[0], tokens) and (same[1] - plain).abs().max() == 0
        # 2, 3, 4: pruned and cached is masked and recomputed; the budget is exact; text stays
        with prune(vlm, method_for(name, 0.3), layer) as state:
            answer, logits = run(vlm, enc)
        assert [len(s.indices) for s in state.selections] == [budget(0.3, x.n) for x in enc.layouts]
        assert all((s.indices.diff() > 0).all() for s in state.selections)
        want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), layer)
        assert (logits - want).abs().max() <= 1e-4
        assert (logits - plain).abs().max() > 1e-3
        lengths = state.kv_lengths()
        assert len(set(lengths[:layer])) <= 1 and len(set(lengths[layer:])) == 1 and lengths[-1] < enc.last + 1


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=[f"{f}-{t}" for f, t in VARIANTS])
def test_beams_and_samples_equal_masked_recompute(variant):
    """The log-probabilities with which tokens were chosen are those of a recomputation without cache."""
    vlm, layer, steps = build(variant), LAYERS // 2, 4
    enc = tiny.encoded(vlm, 2)
    options = {"max_new_tokens": steps, "return_dict_in_generate": True, **words_only(vlm)}
    with prune(vlm, method_for("d2pruner", 0.3), layer) as state, torch.no_grad():
        with vlm.running(enc) as inputs:
            beams = vlm.model.generate(**inputs, num_beams=3, do_sample=False, output_scores=True, **options)
        gone = dropped_positions(enc, state.selections)
        with vlm.running(enc) as inputs:
            torch.manual_seed(3)
            sampled = vlm.model.generate(**inputs, do_sample=True, top_k=0, output_logits=True, **options)
        with vlm.running(enc) as inputs:
            torch.manual_seed(3)
            again = vlm.model.generate(**inputs, do_sample=True, top_k=0, **options)
    assert torch.equal(again.sequences, sampled.sequences)
    answer = sampled.sequences[:, -steps:]
    want = oracle(vlm, enc.inputs, answer, gone, layer)
    assert (torch.stack(sampled.logits, 1) - want).abs().max() <= 1e-4
    answer = beams.sequences[:, -steps:]
    chosen = vlm.model.compute_transition_scores(beams.sequences, beams.scores, beams.beam_indices)
    want = oracle(vlm, enc.inputs, answer, gone, layer).log_softmax(-1).gather(2, answer[..., None])[..., 0]
    assert (chosen - want).abs().max() <= 1e-4
