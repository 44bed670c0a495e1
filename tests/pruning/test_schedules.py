"""Several cuts in one prefill, against one cut, no cut, and a recomputation without cache and with masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from devices import spread
from methods import RASTER
from pruned import FlatProfile, dropped_positions, generate, lowest_layer, method_for, oracle, run
from tape import Waits

from biaslab.attention.capture import capture
from biaslab.core.sub_layout import sub_layout
from biaslab.errors import InputError, ProfileMismatchError, UnsupportedError
from biaslab.pruning import METHODS, FastV, Random, Relative, Schedule, Stage, budget, make, parse_schedule, prune
from biaslab.pruning.context import TokenContext
from biaslab.pruning.schedule import is_schedule

LAYERS = 6
FAMILIES = [tiny.quick(family) for family in tiny.FAMILIES]
#: first method, second method, layers, positions: every family meets one, every one meets several families
PLANS = [
    ("divprune", "d2pruner", (0, 3), "original"),
    ("fastv", "fastv", (2, 4), "original"),
    ("relative", "random", (2, 5), "original"),
    ("uniform", "layer_ratio", (0, 4), "original"),
]
PAIRS = [(f, PLANS[i % len(PLANS)]) for i, f in enumerate(tiny.FAMILIES)]


def build(family, **options):
    return tiny.vlm(family, layers=LAYERS, **options)


def stages(vlm, plan, keeps=(0.6, 0.25)):
    """The plan's stages, moved up where the model allows no cut so low."""
    first, second, layers, _ = plan
    lowest = lowest_layer(vlm)
    layers = (max(layers[0], lowest), max(layers[1], lowest + 1))
    return [Stage(k, method_for(name), keep) for k, name, keep in zip(layers, (first, second), keeps, strict=True)]


def check(vlm, enc, schedule, positions="original", inputs=None):
    """A schedule's cached answer equals one forward in which each layer's dropped keys are masked."""
    plain = run(vlm, enc)[1]
    with prune(vlm, schedule=schedule, positions=positions) as state:
        answer, logits = run(vlm, enc)
    layers = [stage.layer for stage in schedule]
    gone = [dropped_positions(enc, chosen) for chosen in state.stages]
    want = oracle(vlm, enc.inputs, answer, gone, layers, positions == "renumber")
    assert (logits - want).abs().max() <= 1e-4
    assert (logits - plain).abs().max() > 1e-2
    for stage, chosen in zip(schedule, state.stages, strict=True):
        assert [len(s.indices) for s in chosen] == [budget(stage.keep, x.n) for x in enc.layouts]
    for before, after in zip(state.stages, state.stages[1:], strict=False):
        for a, b in zip(before, after, strict=True):
            assert torch.isin(b.indices, a.indices).all() and (b.indices.diff() > 0).all()
    return state


@pytest.mark.parametrize(("family", "plan"), [tiny.quick(f, p) for f, p in PAIRS])
def test_cached_generation_equals_masked_recompute(family, plan):
    """Three prompts of different length, tiling and kept sets in one left-padded batch."""
    vlm = build(family)
    enc = tiny.encoded(vlm, 3)
    assert enc.inputs["attention_mask"].min() == 0
    check(vlm, enc, stages(vlm, plan), plan[3])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("positions", ["original", "renumber"])
def test_every_plan_in_both_positions(plan, positions):
    vlm = build("internvl")
    check(vlm, tiny.encoded(vlm, 3), stages(vlm, plan), positions)


def test_three_stages_and_other_decoders():
    three = [Stage(0, "random", 0.7), Stage(2, "fastv", 0.4), Stage(4, method_for("d2pruner"), 0.2)]
    for options in ({}, {"attn": "eager"}, {"text": "llama", "kv": 4}, {"text": "qwen3", "kv": 1}):
        vlm = build("internvl", **options)
        check(vlm, tiny.encoded(vlm, 3), three)


@pytest.mark.parametrize(("kinds", "layers"), [("ssff", (2, 3)), ("sfff", (1, 3)), ("fsff", (2, 3))])
def test_windows_below_the_first_stage(kinds, layers):
    vlm = tiny.windowed(kinds, 9)
    check(vlm, tiny.encoded(vlm, 3), [Stage(layers[0], "fastv", 0.6), Stage(layers[1], "fastv", 0.3)])


@pytest.mark.parametrize("family", FAMILIES)
def test_one_stage_is_the_method_and_keeping_all_first_changes_nothing(family):
    vlm = build(family)
    enc, lowest = tiny.encoded(vlm, 3), lowest_layer(vlm)
    for name, layers in (("d2pruner", (max(2, lowest), 4)), ("divprune", (lowest, 4))):
        with prune(vlm, method_for(name, 0.3), 4) as one:
            want = run(vlm, enc)
        for schedule in (
            [Stage(4, method_for(name), 0.3)],
            [Stage(layers[0], method_for(name), 1.0), Stage(4, method_for(name), 0.3)],
        ):
            with prune(vlm, schedule=schedule) as state:
                tokens, logits = run(vlm, enc)
            assert torch.equal(tokens, want[0]) and torch.equal(logits, want[1])
            for a, b in zip(one.selections, state.selections, strict=True):
                assert torch.equal(a.indices, b.indices) and a.info == b.info
                assert a.scores is None or torch.equal(a.scores, b.scores)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_schedule_that_keeps_all_is_the_unpruned_model(family):
    vlm = build(family)
    enc, lowest = tiny.encoded(vlm, 3), lowest_layer(vlm)
    tokens, logits = run(vlm, enc)
    whole = [Stage(lowest, "divprune", 1.0), Stage(lowest + 1, "fastv", 1.0), Stage(LAYERS - 1, "uniform", 1.0)]
    with prune(vlm, schedule=whole) as state:
        got = run(vlm, enc)
    assert torch.equal(got[0], tokens) and torch.equal(got[1], logits)
    assert state.mean_share() == 1 and [len(s.indices) for s in state.selections] == [x.n for x in enc.layouts]


@pytest.mark.parametrize("plan", PLANS)
def test_a_sample_does_not_depend_on_its_batch_mates(plan):
    vlm = build("internvl")
    pictures, questions, ids = tiny.images(3), tiny.texts(3), ["a", "b", "c"]

    def answer(rows):
        images, texts, names = ([column[i] for i in rows] for column in (pictures, questions, ids))
        enc = vlm.encode(images, texts, sample_ids=names)
        with prune(vlm, schedule=stages(vlm, plan), seed=7) as state:
            tokens, logits = run(vlm, enc, steps=3)
        return {i: ([s[k] for s in state.stages], tokens[k], logits[k]) for k, i in enumerate(rows)}

    together, turned = answer([0, 1, 2]), answer([2, 0])
    for i in range(3):
        chosen, tokens, logits = answer([i])[i]
        for others in (together, turned) if i != 1 else (together,):
            assert all(torch.equal(a.indices, b.indices) for a, b in zip(others[i][0], chosen, strict=True))
            assert torch.equal(others[i][1], tokens) and (others[i][2] - logits).abs().max() < 1e-4


def test_several_images_in_one_prompt():
    vlm = build("internvl")
    enc = vlm.encode([tiny.images(2), tiny.images(1)], tiny.texts(2))
    check(vlm, enc, stages(vlm, PLANS[0]))
    check(vlm, enc, stages(vlm, PLANS[1]))


@pytest.mark.parametrize("first", [0, 2])
def test_kv_lengths_tokens_per_layer_and_mean_share(first):
    vlm = build("internvl")
    enc = tiny.encoded(vlm, 1)
    n_visual, n = enc.layouts[0].n, enc.last + 1
    schedule = [Stage(first, "random", 0.6), Stage(4, "random", 0.25)]
    with prune(vlm, schedule=schedule) as state:
        vlm.forward(enc, use_cache=True)
    kept = [n_visual] * first + [budget(0.6, n_visual)] * (4 - first) + [budget(0.25, n_visual)] * 2
    assert state.kv_lengths() == [n - n_visual + k for k in kept]
    assert state.kept_per_layer() == kept
    assert state.mean_share() == pytest.approx(sum(kept) / n_visual / LAYERS)


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_fillers_are_hidden_when_there_is_no_padding_to_fill_with(attn, first):
    vlm = build("internvl", attn=attn)
    enc = vlm.encode(tiny.images(2), ["Where is it?", "x"])
    a, b = enc.inputs["input_ids"]
    b = b[enc.inputs["attention_mask"][1] == 1]
    ids = torch.stack([a, torch.cat([b, a[-6:].repeat(20)[: len(a) - len(b)]])])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": enc.inputs["pixel_values"]}
    visual = [row.nonzero().squeeze(1) for row in ids == vlm.image_token_id]
    schedule = [Stage(first, "divprune", 0.75), Stage(3, "fastv", 0.5), Stage(5, "fastv", 0.25)]
    with capture(vlm) as rows, prune(vlm, schedule=schedule) as state:
        answer, logits = generate(vlm, inputs)
    gone = []
    for stage in state.stages:
        gone.append(torch.zeros_like(ids, dtype=torch.bool))
        for row, selection in enumerate(stage):
            gone[-1][row, visual[row]] = True
            gone[-1][row, visual[row][selection.indices]] = False
    assert (logits - oracle(vlm, inputs, answer, gone, [first, 3, 5])).abs().max() <= 1e-4
    for index in range(first, LAYERS):
        seen = state.stages[sum(k <= index for k in (first, 3, 5)) - 1]
        for row, selection in enumerate(seen):
            assert rows[index].kept[row, rows[index].mask[row]].tolist() == selection.indices.tolist()


def test_later_stages_read_the_rows_of_the_tokens_that_are_left():
    """Attention of K - 1, and of a layer below an earlier cut, against transformers' own maps of the same forward."""
    vlm = build("internvl", attn="eager")
    enc, seen = tiny.encoded(vlm, 2), []

    class Look(FastV):
        name = "look"

        def attention_layers(self, layer):
            return (layer - 1, 1)

        def importance(self, ctx):
            seen.append(ctx)
            return super().importance(ctx)

    with capture(vlm, [1, 3]) as rows, prune(vlm, schedule=[Stage(2, "fastv", 0.6), Stage(4, Look(), 0.3)]) as state:
        vlm.forward(enc)
    for row, ctx in enumerate(seen):
        kept = state.stages[0][row].indices
        assert torch.equal(ctx.survivors, kept) and ctx.original is enc.layouts[row] and ctx.layer == 4
        assert ctx.budget == budget(0.3, enc.layouts[row].n) and ctx.n == len(kept)
        early = rows[1].values[row, :, :, : enc.layouts[row].n][..., kept]
        torch.testing.assert_close(ctx.earlier[1], early)
        torch.testing.assert_close(ctx.attention, rows[3].values[row][..., rows[3].mask[row]])
        last = state.selections[row]
        assert len(last.scores) == enc.layouts[row].n
        assert last.scores[kept].isfinite().all() and last.scores.isfinite().sum() == len(kept)


def test_profiles_are_evaluated_on_the_whole_layout_and_asked_at_every_stage():
    vlm, profiles = build("internvl"), [FlatProfile(), FlatProfile()]
    enc = tiny.encoded(vlm, 2)
    schedule = [Stage(k, Relative(profile=p), keep) for k, p, keep in ((2, profiles[0], 0.6), (4, profiles[1], 0.2))]
    with capture(vlm, [3]) as rows, prune(vlm, schedule=schedule) as state:
        vlm.forward(enc)
    for row, layout in enumerate(enc.layouts):
        kept = state.stages[0][row].indices
        attention = rows[3].values[row][..., rows[3].mask[row]].mean((0, 1))
        want = attention / (torch.linspace(1, 2, layout.n)[kept] + 1e-7)
        torch.testing.assert_close(state.selections[row].scores[kept], want)
    for layer, profile in zip((1, 3), profiles, strict=True):
        assert {asked["layer"] for asked in profile.checks} == {layer}
        keys = [asked["layout"].key for asked in profile.checks if asked["layout"] is not None]
        assert sorted(keys) == sorted({layout.key for layout in enc.layouts})
    refusing = [Stage(0, "random", 0.5), Stage(1, Relative(profile=FlatProfile()), 0.2)]
    with pytest.raises(ProfileMismatchError), prune(vlm, schedule=refusing):
        pass


@pytest.mark.parametrize("kind", ["relative", "pore"])
def test_every_map_over_positions_is_that_of_the_whole_layout(kind):
    class Exponential(FlatProfile):
        name = "exponential"

    profile, whole = Exponential(), RASTER
    method = Relative(profile=profile) if kind == "relative" else make("pore", c="fitted", profile=profile)
    attention = torch.rand(1, 1, whole.n, generator=torch.Generator().manual_seed(0))
    some = torch.arange(0, whole.n, 3)
    want = method.importance(TokenContext(whole, 5, layer=2, attention=attention))[some]
    part = TokenContext(
        sub_layout(whole, some.numpy()), 5, layer=2, attention=attention[..., some], survivors=some, original=whole
    )
    torch.testing.assert_close(method.importance(part), want)


def test_positions_that_a_method_reports_are_those_of_the_image():
    vlm = build("internvl")
    with prune(vlm, schedule=[Stage(1, "random", 0.9), Stage(3, method_for("d2pruner"), 0.7)]) as state:
        run(vlm, tiny.encoded(vlm, 2))
    for selection in state.selections:
        assert selection.info["pivot_indices"]
        assert set(selection.info["pivot_indices"]) <= set(selection.indices.tolist())


@pytest.mark.parametrize(("family", "plan"), [("internvl", PLANS[0]), ("llava", PLANS[3]), ("qwen2_5_vl", PLANS[2])])
@pytest.mark.parametrize("positions", ["original", "renumber"])
def test_stages_on_several_devices(family, plan, positions):
    vlm = build(family)
    if positions == "renumber" and "mrope_section" in (vlm.decoder.config.rope_parameters or {}):
        return
    enc = tiny.encoded(vlm, 3)
    schedule = stages(vlm, plan)
    with prune(vlm, schedule=schedule, positions=positions) as state:
        tokens, logits = run(vlm, enc)
        kept = [[s.indices.tolist() for s in chosen] for chosen in state.stages]
    with spread(vlm) as devices, prune(vlm, schedule=schedule, positions=positions) as state:
        got = run(vlm, enc)
        assert [[s.indices.tolist() for s in chosen] for chosen in state.stages] == kept
        assert state.selections[0].scores is None or len(state.selections[0].scores) == enc.layouts[0].n
    assert devices[schedule[1].layer] != devices[schedule[0].layer]
    assert torch.equal(getattr(got[0], "held", got[0]), tokens)
    torch.testing.assert_close(getattr(got[1], "held", got[1]), logits, atol=1e-4, rtol=0)


def test_stages_wait_for_no_layer():
    """What is asked is asked before the first layer, for each kind of rows, or behind the last: are the rows finite?"""
    vlm, found = build("internvl"), {}
    enc = tiny.encoded(vlm, 3)
    one, two, three = "fastv@0.6@2", "fastv@0.6@2+fastv@0.4@3", "fastv@0.6@2+fastv@0.4@3+divprune@0.2@4"
    for word in (one, two, three):
        with prune(vlm, schedule=word), Waits() as waits:
            vlm.forward(enc)
        found[word] = waits.n
    assert found[two] == found[one] + 1  # the second stage's rows
    assert found[three] == found[two] + 1  # the prompt as a method without rows sees it


def test_beams_share_their_sample():
    vlm = build("internvl")
    enc = tiny.encoded(vlm, 2)
    for schedule in ("fastv@0.6@2+fastv@0.3@4", "divprune@0.6@0+fastv@0.3@4"):
        with prune(vlm, schedule=schedule) as state:
            both = vlm.generate(enc, max_new_tokens=4, num_beams=3)
            kept = [s.indices.tolist() for s in state.selections]
            assert len(kept) == 2
            for i in range(2):
                one = vlm.encode(tiny.images(2)[i : i + 1], tiny.texts(2)[i : i + 1])
                assert vlm.generate(one, max_new_tokens=4, num_beams=3) == [both[i]]
                assert state.selections[0].indices.tolist() == kept[i]


def test_a_later_turn_goes_on_and_a_changed_cache_is_refused():
    vlm = build("internvl")
    enc = tiny.encoded(vlm, 2)
    question = torch.randint(10, 200, (2, 4), generator=torch.Generator().manual_seed(0))
    with prune(vlm, schedule="fastv@0.6@2+fastv@0.3@4") as state, torch.no_grad():
        first = vlm.forward(enc, use_cache=True)
        real = torch.cat([enc.inputs["attention_mask"], torch.ones_like(question)], 1)
        turn = {"input_ids": question, "attention_mask": real, "past_key_values": first.past_key_values}
        second = vlm.model(**turn).logits
        cache = vlm.forward(enc, use_cache=True).past_key_values
        cache.layers[4].crop(-1)
        with pytest.raises(UnsupportedError, match="changed since"):
            vlm.model(**{**turn, "past_key_values": cache})
    gone = [dropped_positions(enc, chosen) for chosen in state.stages]
    want = oracle(vlm, enc.inputs, question, gone, [2, 4])  # logits before each token of the question
    assert (second[:, :-1] - want[:, 1:]).abs().max() <= 1e-4
    with prune(vlm, schedule="divprune@0.6@0+fastv@0.3@4"), torch.no_grad():
        cache = vlm.forward(enc, use_cache=True).past_key_values
        with pytest.raises(UnsupportedError, match="at K = 0"):
            vlm.model(input_ids=question, past_key_values=cache)


def test_prompts_without_image_pass_through():
    vlm = build("internvl")
    ids = torch.randint(10, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tokens, logits = generate(vlm, inputs)
    for word in ("fastv@0.5@2+fastv@0.2@4", "random@0.5@0+fastv@0.2@4"):
        with prune(vlm, schedule=word) as state:
            pruned = generate(vlm, inputs)
        assert torch.equal(pruned[0], tokens) and torch.equal(pruned[1], logits)
        assert state.stages == [] and state.kept_per_layer() == [] and state.mean_share() == 1


def test_query_positions_at_visual_tokens_are_refused_behind_a_cut():
    vlm = build("internvl")
    enc = tiny.encoded(vlm, 2)
    at = int(enc.visual[0, 1])
    visual = [Stage(1, "random", 0.5), Stage(3, FastV(queries=(at,)), 0.2)]
    with prune(vlm, schedule=visual), pytest.raises(InputError, match="visual tokens, which an earlier stage"):
        vlm.forward(enc)
    with prune(vlm, schedule=[Stage(2, FastV(queries=(-1, -2)), 0.5), Stage(3, FastV(queries=(-1,)), 0.2)]):
        vlm.forward(enc)


def test_a_count_keeps_what_is_left():
    vlm = build("internvl")
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, schedule=[Stage(1, "random", 0.5), Stage(3, "fastv", 5)]) as state:
        vlm.forward(enc)
    assert [len(s.indices) for s in state.selections] == [min(5, budget(0.5, x.n)) for x in enc.layouts]


# -- words and refusals --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        ("divprune@0.4@2+fastv@0.5@4", "cannot grow"),
        ("divprune@0.4@2+fastv@0.2@2", "must ascend"),
        ("divprune@0.4@4+fastv@0.2@2", "must ascend"),
        ("divprune@0.4", "lacks its keep or its layer"),
        ("divprune@0.4@x", "must be numbers"),
        ("divprune@1.4@2", "keep must be a ratio"),
        ("none@0.4@2", "needs a pruning method"),
        ("fastw@0.4@2", "unknown pruning method"),
        ("divprune@0.4@-1", "0 or more"),
        ([], "a schedule is a list of stages"),
        ([FastV()], "a schedule is a list of stages"),
        (3, "a schedule is a list of stages"),
    ],
)
def test_schedules_that_cannot_be(schedule, match):
    with pytest.raises(InputError, match=match), prune(build("internvl"), schedule=schedule):
        pytest.fail("was not refused before any work")


def test_other_refusals():
    vlm = build("internvl")
    for arguments, match in (((Random(), 2), "leave out method and layer"), ((), "needs a method")):
        schedule = "fastv@0.5@2" if arguments else None
        with pytest.raises(InputError, match=match), prune(vlm, *arguments, schedule=schedule):
            pass
    with (
        pytest.raises(UnsupportedError, match="at K = 0 there is none"),
        prune(vlm, schedule="fastv@0.5@0+fastv@0.2@2"),
    ):
        pass
    with (
        pytest.raises(InputError, match="layer must be a decoder layer"),
        prune(vlm, schedule="fastv@0.5@2+fastv@0.2@9"),
    ):
        pass
    with pytest.raises(InputError, match="use K >= 2"), prune(vlm, schedule="random@0.5@0+layer_ratio@0.2@1"):
        pass
    with pytest.raises(InputError, match="make it the first stage"):
        Schedule([Stage(0, "random", 0.5), Stage(2, method_for("lookahead"), 0.2)])


def test_words_are_read_back():
    for word in (
        "divprune@0.4@2+d2pruner:theta=0.7@0.06@4",
        "fastv:score=no_rope@64@8",
        "layer_ratio:eps=1e-07@1.0@3+random@1@5",
    ):
        schedule = parse_schedule(word)
        assert parse_schedule(schedule.label).label == schedule.label
        again = Schedule.from_options(schedule.options())
        assert (again.label, again.options_hash) == (schedule.label, schedule.options_hash)
    assert parse_schedule("relative:eps=1e+5@0.4@2").stages[0].rule.eps == 1e5
    assert parse_schedule("random@40%@2 + random@1@31").label == "random@0.4@2+random@1@31"
    file = "/tmp/no@where+2/weights.safetensors"  # a path may hold what joins stages
    assert file in parse_schedule(f"random@0.4@2+mmr:by=external:{file}@0.1@4")[1].label
    assert not is_schedule(f"mmr:by=external:{file}") and is_schedule(f"mmr:by=external:{file}@0.1@4")
    a, b = parse_schedule("divprune@0.4@2+fastv@0.1@4"), parse_schedule("divprune@0.4@2+fastv@0.1@5")
    assert a.options_hash != b.options_hash and a.name == b.name == "divprune+fastv"
    with prune(build("internvl"), "fastv@0.5@2+fastv@0.2@4") as state:
        assert state.schedule.label == "fastv@0.5@2+fastv@0.2@4" and state.layer == 4


def test_layouts_of_some_tokens_and_maps_at_them():
    some = np.array([3, 20, 95])
    layout = sub_layout(RASTER, some)
    assert np.array_equal(layout.centers_px, RASTER.centers_px[some]) and layout.key != RASTER.key
    ctx = TokenContext(layout, 2, survivors=torch.from_numpy(some), original=RASTER)
    assert ctx.whole_layout is RASTER and ctx.left(torch.arange(96)).tolist() == some.tolist()
    assert TokenContext(RASTER, 2).whole_layout is RASTER


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_can_be_a_later_stage_or_says_why_not(name):
    vlm = build("internvl")
    enc = tiny.encoded(vlm, 2)
    method = method_for(name)
    if method.conditional:
        with pytest.raises(InputError, match="first stage"):
            Schedule([Stage(1, "random", 0.6), Stage(4, method, 0.3)])
        return
    if method.restores:  # tests/pruning/test_parking.py
        with pytest.raises(InputError, match="write restore=false"):
            Schedule([Stage(1, "random", 0.6), Stage(4, method, 0.3)])
        method = replace(method, restore=False)
    if method.merges:  # a recomputation with masks merges nothing
        method = replace(method, merge=False)
    check(vlm, enc, [Stage(1, "random", 0.6), Stage(4, method, 0.3)])
