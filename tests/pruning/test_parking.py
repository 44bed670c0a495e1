"""Tokens that are parked and come back: against a stock model whose states are changed by loops, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from decoded import recorded
from devices import spread
from methods import RASTER, TILED, context
from pruned import dropped_positions, generate, lowest_layer, oracle, run, unpadded, words_only
from tape import Waits
from torch.nn.functional import cosine_similarity

from biaslab.attention.capture import capture
from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.matching import mean_share
from biaslab.pruning import Random, Schedule, Stage, SwiftVLM, budget, parse_schedule, prune

LAYERS = 6
WORD = "swiftvlm@0.6@1+swiftvlm@0.4@3+swiftvlm@0.2@4"


def build(family="internvl", **options):
    return tiny.vlm(family, layers=LAYERS, **options)


class Parking:
    """What enters each layer of a model that runs the whole sequence: means set in, parked tokens brought back."""

    def __init__(self, enc, stages, layers):
        self.enc, self.stages, self.layers = enc, stages, layers
        self.entered, self.seen = None, {}

    def __call__(self, index, hidden):
        if index not in self.layers:
            return hidden
        number, out = self.layers.index(index), hidden.clone()
        if number:
            self.bring_back(self.stages[number - 1], hidden, out)
        self.seen[index] = self.entered = out.clone()
        for own, chosen in self.images(self.stages[number]):
            for leader, group in groups(chosen).items():
                out[own[leader][0], own[leader][1]] = torch.stack([self.entered[own[i]] for i in group]).mean(0)
        return out

    def images(self, stage):
        """Of each image the row and position of every token, and what was chosen."""
        for row, (first, last), chosen in zip(self.enc.owners, self.enc.spans, stage, strict=True):
            yield [(row, int(at)) for at in self.enc.visual[row, first:last]], chosen

    def bring_back(self, stage, hidden, out):
        for own, chosen in self.images(stage):
            kept = set(chosen.indices.tolist())
            followed = {i: leader for leader, group in groups(chosen).items() for i in group}
            for i, place in enumerate(own):
                if i in followed:
                    mean = torch.stack([self.entered[own[j]] for j in groups(chosen)[followed[i]]]).mean(0)
                    out[place] = self.entered[place] + (hidden[own[followed[i]]] - mean)
                elif i not in kept:
                    out[place] = self.entered[place]


def groups(chosen):
    """Token -> tokens that it is the mean of, itself among them."""
    if chosen.merge is None:
        return {}
    rows = [weights.nonzero()[:, 0].tolist() for weights in chosen.merge]
    return {int(i): own for i, own in zip(chosen.indices, rows, strict=True) if len(own) > 1}


def check(vlm, enc, schedule, positions="original"):
    """A cached answer is one forward over the whole sequence: masks, and the states of `Parking`."""
    plain = run(vlm, enc)[1]
    with prune(vlm, schedule=schedule, positions=positions) as state:
        answer, logits = run(vlm, enc)
    layers = [stage.layer for stage in state.schedule]
    gone = [dropped_positions(enc, chosen) for chosen in state.stages]
    parking = Parking(enc, state.stages, layers)
    want = oracle(vlm, enc.inputs, answer, gone, layers, positions == "renumber", states=parking)
    assert (logits - want).abs().max() <= 1e-4
    assert (logits - plain).abs().max() > 1e-2
    lost = oracle(vlm, enc.inputs, answer, gone, layers, positions == "renumber")
    assert (logits - lost).abs().max() > 1e-3
    for stage, chosen in zip(state.schedule, state.stages, strict=True):
        assert [len(s.indices) for s in chosen] == [budget(stage.keep, x.n) for x in enc.layouts]
    return state, parking


def three(vlm, **options):
    low = max(1, lowest_layer(vlm))
    rule = SwiftVLM(**options)
    return [Stage(k, rule, keep) for k, keep in ((low, 0.6), (max(3, low + 1), 0.4), (max(4, low + 2), 0.2))]


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_cached_generation_equals_a_recompute_by_loops(family):
    """Three prompts of different length and kept sets in one left-padded batch; tokens return that were left out."""
    vlm = build(family)
    enc = tiny.encoded(vlm, 3)
    state, _ = check(vlm, enc, three(vlm))
    back = [~torch.isin(b.indices, a.indices) for a, b in zip(state.stages[0], state.stages[1], strict=True)]
    assert any(bool(own.any()) for own in back)


@pytest.mark.parametrize(
    ("options", "built", "positions"),
    [
        ({"means": 0.6, "leaders": "best"}, {"attn": "eager"}, "original"),
        ({"merge": False}, {"text": "llama", "kv": 4}, "original"),
        ({"queries": "text", "score": "no_rope", "heads": [0, 2]}, {"text": "qwen3", "kv": 1}, "original"),
        ({}, {}, "renumber"),
    ],
)
def test_options_decoders_and_positions(options, built, positions):
    vlm = build(**built)
    check(vlm, tiny.encoded(vlm, 3), three(vlm, **options), positions)


def test_several_images_of_a_prompt():
    vlm = build()
    check(vlm, vlm.encode([tiny.images(2), tiny.images(1)], tiny.texts(2)), WORD)


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_ranked_are_all_tokens_by_what_they_came_back_as(family):
    """Scores of a later stage are softmax attention over queries and keys of the restored states."""
    vlm = build(family)
    enc = tiny.encoded(vlm, 1)
    state, parking = check(vlm, enc, WORD)
    n, own = enc.last + 1, enc.visual[0, : enc.layouts[0].n]
    for chosen, layer in zip(state.stages, state.schedule, strict=True):
        block = vlm.decoder.layers[layer.layer]
        x = block.input_layernorm(parking.seen[layer.layer][:, :n])
        q, k = (p(x).unflatten(2, (-1, block.self_attn.head_dim)).transpose(1, 2)
                for p in (block.self_attn.q_proj, block.self_attn.k_proj))  # fmt: skip
        cos, sin = vlm.decoder.rotary_emb(x, torch.arange(n)[None])
        q, k = (t * cos[:, None] + torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * sin[:, None]
                for t in (q, k))  # fmt: skip
        logits = q[0, :, -1:] @ k[0].repeat_interleave(q.shape[1] // k.shape[1], 0).mT * block.self_attn.scaling
        want = logits.softmax(-1)[:, 0, own].mean(0)
        torch.testing.assert_close(chosen[0].scores, want, rtol=1e-4, atol=1e-6)


def test_a_batch_is_each_alone_and_beams_share_their_sample():
    vlm, pictures, questions = build(), tiny.images(3), tiny.texts(3)
    with prune(vlm, schedule=WORD) as state:
        tokens, logits = run(vlm, vlm.encode(pictures, questions))
        together = state.stages
        beams = vlm.generate(vlm.encode(pictures, questions), max_new_tokens=3, num_beams=2)
        for i in range(3):
            one = vlm.encode(pictures[i : i + 1], questions[i : i + 1])
            assert vlm.generate(one, max_new_tokens=3, num_beams=2) == beams[i : i + 1]
            alone = run(vlm, one)
            assert torch.equal(alone[0][0], tokens[i]) and (alone[1][0] - logits[i]).abs().max() <= 1e-4
            for stage, own in zip(together, state.stages, strict=True):
                assert torch.equal(stage[i].indices, own[0].indices)


@pytest.mark.parametrize("family", [tiny.quick(family) for family in tiny.FAMILIES])
def test_keeping_all_changes_nothing(family):
    vlm = build(family)
    enc = tiny.encoded(vlm, 2)
    tokens, plain = run(vlm, enc)
    with prune(vlm, schedule=[replace(stage, keep=1.0) for stage in three(vlm)]) as state:
        same = run(vlm, enc)
    assert torch.equal(same[0], tokens) and torch.equal(same[1], plain) and state.mean_share() == 1


def test_caches_capture_shares_and_later_turns():
    vlm = build()
    enc = tiny.encoded(vlm, 1)
    total, text = enc.layouts[0].n, enc.last + 1 - enc.layouts[0].n
    with capture(vlm) as rows, prune(vlm, schedule=WORD) as state:
        vlm.forward(enc, use_cache=True)
    left = [budget(keep, total) for keep in (0.6, 0.4, 0.2)]  # means count
    seen = [total, left[0], left[0], left[1], left[2], left[2]]
    assert state.kv_lengths() == [text + n for n in seen] and state.kept_per_layer() == seen
    assert state.mean_share() == pytest.approx(mean_share(LAYERS, [1, 3, 4], total, left))
    assert [s[0].info["means"] for s in state.stages] == [round(0.25 * n) for n in left]
    for index, number in ((1, 0), (2, 0), (3, 1), (4, 2), (5, 2)):
        assert rows[index].kept[0, rows[index].mask[0]].tolist() == state.stages[number][0].indices.tolist()
    question = torch.randint(10, 200, (1, 4), generator=torch.Generator().manual_seed(0))
    with prune(vlm, schedule=WORD) as state, torch.no_grad():
        first = vlm.forward(enc, use_cache=True)
        real = torch.cat([enc.inputs["attention_mask"], torch.ones_like(question)], 1)
        second = vlm.model(input_ids=question, attention_mask=real, past_key_values=first.past_key_values).logits
        kind = {"max_new_tokens": 2, "do_sample": False, **words_only(vlm)}
        with vlm.running(enc) as inputs, pytest.raises(UnsupportedError, match="assisted decoding would prune"):
            vlm.model.generate(**inputs, prompt_lookup_num_tokens=2, **kind)
    gone = [dropped_positions(enc, chosen) for chosen in state.stages]
    want = oracle(vlm, enc.inputs, question, gone, [1, 3, 4], states=Parking(enc, state.stages, [1, 3, 4]))
    assert (second[:, :-1] - want[:, 1:]).abs().max() <= 1e-4


def test_several_devices():
    vlm = build()
    enc = tiny.encoded(vlm, 3)
    with prune(vlm, schedule=WORD):
        tokens, logits = run(vlm, enc)
    with spread(vlm), prune(vlm, schedule=WORD):
        got = run(vlm, enc)
    assert torch.equal(getattr(got[0], "held", got[0]), tokens)
    torch.testing.assert_close(getattr(got[1], "held", got[1]), logits, atol=1e-4, rtol=0)


def test_bringing_tokens_back_waits_for_no_device():
    vlm, found = build(), []
    enc = tiny.encoded(vlm, 3)
    for word in (WORD.replace("swiftvlm", "pyramiddrop"), WORD):  # each asks behind the last layer: are rows finite?
        with prune(vlm, schedule=word), Waits() as waits:
            vlm.forward(enc)
        found.append(waits.n)
    assert found[0] == found[1]


@pytest.mark.filterwarnings("error:decode=")
@pytest.mark.parametrize("positions", ["original", "renumber"])
def test_a_static_step_is_the_dynamic_one(positions):
    vlm = build()
    enc = tiny.encoded(vlm, 3)
    tokens, logits, kept = recorded(vlm, enc, WORD, None, "static", positions)
    others, want, also = recorded(vlm, enc, WORD, None, "dynamic", positions)
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(kept, also, strict=True))
    finite = want.isfinite()  # suppressed tokens
    assert torch.equal(tokens, others) and float((logits - want)[finite].abs().max()) <= 1e-5


@pytest.mark.parametrize("merge", [True, False])
def test_fillers_come_back_as_what_they_were(merge):
    """Rows without padding of which one drops more: what fills it up is a parked token that some layers have run."""
    vlm = build()
    told = unpadded(vlm)
    with prune(vlm, schedule=[replace(stage, method=SwiftVLM(merge=merge)) for stage in parse_schedule(WORD)]) as state:
        answer, logits = generate(vlm, told.inputs)
    gone = [dropped_positions(told, chosen) for chosen in state.stages]
    want = oracle(vlm, told.inputs, answer, gone, [1, 3, 4], states=Parking(told, state.stages, [1, 3, 4]))
    assert (logits - want).abs().max() <= 1e-4


# -- the rule ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("leaders", ["even", "best"])
@pytest.mark.parametrize("layout", [RASTER, TILED], ids=["raster", "tiles"])
def test_the_rule_is_its_loop(layout, leaders):
    ctx = context(layout, 40)
    method = SwiftVLM(means=0.3, leaders=leaders)
    chosen = method.select(ctx)
    order = ctx.attention.mean((0, 1)).argsort(descending=True, stable=True).tolist()
    best, rest = order[:28], order[28:]
    leads = rest[:12] if leaders == "best" else [sorted(rest)[k * len(rest) // 12] for k in range(12)]
    groups_of = {leader: [leader] for leader in leads}
    for i in set(rest) - set(leads):
        near = max(sorted(leads), key=lambda j: float(cosine_similarity(ctx.features[i], ctx.features[j], 0)))
        groups_of[near].append(i)
    assert chosen.indices.tolist() == sorted(best + leads) and chosen.info == {"means": 12}
    want = torch.zeros(40, layout.n)
    for row, token in enumerate(chosen.indices.tolist()):
        own = groups_of.get(token, [token])
        want[row, own] = 1 / len(own)
    torch.testing.assert_close(chosen.merge, want)
    assert chosen.merge.sum(0).gt(0).all()  # every token goes on, alone or in a mean
    without = SwiftVLM(merge=False).select(ctx)
    assert without.merge is None and without.indices.tolist() == sorted(order[:40])
    assert SwiftVLM(means=0).select(ctx).merge is None


def test_layers_and_refusals():
    at = [(k, round(rule.keep, 4)) for k, rule in SwiftVLM(keep=0.064).own_stages(32)]
    assert at == [(3, 0.4), (11, 0.16), (15, 0.064)]
    assert [k for k, _ in SwiftVLM().own_stages(10)] == [1, 3, 5] and SwiftVLM().own_stages(6, 0)[0][0] == 1
    for options, match in (
        ({"means": 1}, "means must be"),
        ({"leaders": "first"}, "leaders must be"),
        ({"merge": 1}, "merge must be true or false"),
        ({"restore": "yes"}, "restore must be true or false"),
        ({"reads_layer": "previous"}, "has not seen the parked tokens"),
    ):
        with pytest.raises(InputError, match=match):
            SwiftVLM(**options)
    for word, match in (
        ("random@0.5@1+swiftvlm@0.2@3", "other methods drop for good"),
        ("swiftvlm@0.5@1+fastv@0.2@3", "other methods drop for good"),
        ("swiftvlm@0.5@0+swiftvlm@0.2@3", "before the decoder nothing can be brought back"),
    ):
        with pytest.raises(InputError, match=match) as told:
            parse_schedule(word)
        assert "\n" not in str(told.value)
    vlm = build()
    mixed = "random@0.6@1+swiftvlm:restore=false:reads_layer=previous@0.3@3"
    for schedule in (mixed, "swiftvlm@0.4@0", [Stage(2, Random(), 0.5), Stage(4, SwiftVLM(restore=False), 0.2)]):
        with prune(vlm, schedule=schedule) as state:
            run(vlm, tiny.encoded(vlm, 2))
        assert len(state.stages) == len(state.schedule)
    again = Schedule.from_options(parse_schedule(WORD).options())
    assert again.label == WORD and again.options_hash == parse_schedule(WORD).options_hash
