"""Capture: no logit changes, rows equal eager attention, and every way it is combined or refused."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest
import tiny
import torch
from eager import assert_rows_equal, eager, eager_attention, text_after

from biaslab.attention.capture import capture, no_rope
from biaslab.attention.hook import watch
from biaslab.errors import InputError, UnsupportedError

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)
SHAPES = [(family, {"kv": 2}) for family in tiny.FAMILIES] + [
    *(tiny.quick(family, {"kv": kv}) for family in tiny.FAMILIES for kv in (4, 1)),
    ("internvl", {"text": "llama"}),
    ("internvl", {"text": "qwen3", "head_dim": 16}),
]
each_shape = pytest.mark.parametrize(("family", "shape"), SHAPES, ids=str)


# ------------------------------------------------------------------------------------------ contract 1
@each_shape
@pytest.mark.parametrize("n", [1, 3])
def test_forward_equals_eager_and_changes_nothing(family, shape, n):
    vlm = tiny.vlm(family, **shape)
    enc = tiny.encoded(vlm, n)
    before = vlm.forward(enc).logits
    with capture(vlm, queries="text") as text:
        during = vlm.forward(enc).logits
    with capture(vlm, queries="last") as last:
        vlm.forward(enc)
    assert torch.equal(before, during)
    assert torch.equal(before, vlm.forward(enc).logits)
    attention = eager_attention(vlm, enc)
    assert text.layers == list(text) == list(range(4)) and len(text) == 4
    end = torch.full((n, 1), enc.last)
    for layer in range(4):
        where = (enc.visual, enc.visual_mask)
        assert_rows_equal(text[layer], attention[layer], *text_after(vlm, enc), *where)
        assert_rows_equal(last[layer], attention[layer], end, torch.ones_like(end), *where)
        assert text[layer].values.dtype == torch.float32 and text[layer].kept is None


@each_family
def test_generate_records_the_prefill(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    plain = tiny.sequences(vlm, enc)
    with capture(vlm, [0, 2], queries="last") as rows:
        assert torch.equal(tiny.sequences(vlm, enc), plain)
    attention = eager_attention(vlm, enc)
    end = torch.full((3, 1), enc.last)
    for layer in (0, 2):
        assert_rows_equal(rows[layer], attention[layer], end, torch.ones_like(end), enc.visual, enc.visual_mask)


@each_family
def test_works_around_the_plain_model(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, [1], queries="text") as ours:
        vlm.generate(enc, max_new_tokens=2)
    with capture(vlm, [1], queries="text") as raw:
        vlm.model(**enc.inputs)
    with capture(vlm, [1], queries="text") as generated:
        vlm.model.generate(**vlm.vision(enc).inputs, max_new_tokens=2, do_sample=False)
    for b, layout in enumerate(enc.layouts):
        # a call that was not announced shows every placeholder, those that show no place included
        own, shown = ours[1].values[b, ..., : layout.n], torch.from_numpy(layout.placeholder_index.copy())
        assert torch.equal(own, generated[1].values[b][..., shown])
        # generate() counts positions without the padding, a plain forward with it: the same rotation up to rounding
        assert (own - raw[1].values[b][..., shown]).abs().max() < 3e-5


@each_family
def test_beams_and_repeated_sequences(family):
    # generate() repeats each prompt: the rows are those of the repeated batch
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [1]) as once:
        vlm.forward(enc)
    with capture(vlm, [1]) as rows:
        tiny.sequences(vlm, enc, num_beams=3)
    expected = once[1].values.repeat_interleave(3, 0)
    assert (rows[1].values - expected).abs().max() < 1e-5


def test_each_prefill_replaces_the_one_before():
    vlm = tiny.vlm("internvl")
    with capture(vlm, [1]) as rows:
        vlm.forward(tiny.encoded(vlm, 3))
        assert rows[1].values.shape[0] == 3
        vlm.forward(tiny.encoded(vlm, 1))
        assert rows[1].values.shape[0] == 1
    assert rows[1].values.shape == (1, 4, 1, 12), "readable after the block"


def test_a_turn_without_an_image_is_left_alone():
    vlm = tiny.vlm("internvl")
    text = vlm.processor.tokenizer("Where is the red circle?", return_tensors="pt")
    with capture(vlm, [1]) as rows:
        vlm.forward(tiny.encoded(vlm, 2))
        vlm.model(**text)
    assert rows[1].values.shape[0] == 2


@each_family
def test_eager_models_can_be_captured(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    attention = eager_attention(vlm, enc)
    with eager(vlm):
        plain = vlm.forward(enc).logits
        with capture(vlm, [2], queries="text") as rows:
            assert torch.equal(vlm.forward(enc).logits, plain)
        assert vlm.decoder.config._attn_implementation == "eager"
    where = (*text_after(vlm, enc), enc.visual, enc.visual_mask)
    assert_rows_equal(rows[2], attention[2], *where)


def test_bfloat16_rows_are_float32_sharp():
    vlm = tiny.wrap(tiny.build("internvl").bfloat16(), tiny.processor("internvl"))
    enc = tiny.encoded(vlm, 3)
    seen = {}

    def keep(module, query, key, value, attention_mask, scaling, **kw):
        seen.update(q=query.double(), k=key.double(), scaling=scaling, mask=attention_mask)

    with watch(vlm.model, {1: keep}), capture(vlm, [1]) as rows:
        vlm.forward(enc)
    k = seen["k"].repeat_interleave(2, 1)
    scores = (seen["q"] @ k.transpose(2, 3) * seen["scaling"]).masked_fill(~seen["mask"], float("-inf"))
    full = scores.softmax(-1)
    assert rows[1].values.dtype == torch.float32
    end = torch.full((3, 1), enc.last)
    assert_rows_equal(rows[1], full, end, torch.ones_like(end), enc.visual, enc.visual_mask, tolerance=1e-5)


# ------------------------------------------------------------------------------------------ choices
def test_heads_mean():
    vlm = tiny.vlm("llava")
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, [1], queries="text") as every, capture(vlm, [1], queries="text", heads="mean") as mean:
        vlm.forward(enc)
    assert mean[1].values.shape[1] == 1
    assert torch.allclose(mean[1].values[:, 0], every[1].values.mean(1))


def test_explicit_queries():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    attention = eager_attention(vlm, enc)
    padding = enc.inputs["attention_mask"].bool()
    for queries in (torch.tensor([-1, -5]), torch.tensor([[3, -1], [40, -2], [0, 7]])):
        with capture(vlm, [1], queries=queries) as rows:
            vlm.forward(enc)
        absolute = queries.remainder(enc.last + 1).expand(3, -1)
        valid = padding.gather(1, absolute)
        assert_rows_equal(rows[1], attention[1], absolute, valid, enc.visual, enc.visual_mask)


def test_last_is_the_last_prompt_token_under_right_padding():
    vlm = tiny.vlm("internvl")
    single = tiny.encoded(vlm, 1)
    with capture(vlm, [2]) as expected:
        vlm.forward(single)
    ids = torch.nn.functional.pad(single.inputs["input_ids"], (0, 4), value=0)
    mask = torch.nn.functional.pad(single.inputs["attention_mask"], (0, 4), value=0)
    with capture(vlm, [2]) as rows:
        vlm.model(input_ids=ids, attention_mask=mask, pixel_values=single.inputs["pixel_values"])
    assert (rows[2].values - expected[2].values).abs().max() < 1e-6


def test_negative_and_single_layers():
    vlm = tiny.vlm("internvl")
    with capture(vlm, -1) as rows:
        vlm.forward(tiny.encoded(vlm, 1))
    assert rows.layers == [3] and rows[3].values.shape[1] == 4


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"layers": [4]}, "layers 0 to 3"),
        ({"layers": -5}, "layers 0 to 3"),
        ({"layers": []}, "no layer"),
        ({"layers": [1.5]}, "layers 0 to 3, not .1.5."),
        ({"queries": "first"}, "'last', 'text'"),
        ({"queries": torch.tensor([0.5])}, "LongTensor"),
        ({"heads": "max"}, "heads must be"),
        ({"heads": None}, "write heads='all'"),
        ({"score": "cosine"}, "score must be"),
    ],
)
def test_bad_choices(kw, words):
    vlm = tiny.vlm("internvl")
    with pytest.raises(InputError, match=words), capture(vlm, **kw):
        raise AssertionError("not reached")


def test_rows_that_are_not_there():
    vlm = tiny.vlm("internvl")
    with capture(vlm, [1]) as rows:
        with pytest.raises(InputError, match="nothing captured yet"):
            rows[1]
        with pytest.raises(InputError, match=r"captured layers: \[1\]"):
            rows[2]
        with pytest.raises(InputError, match="padded prompt"), capture(vlm, [1], queries=torch.tensor([9999])):
            vlm.forward(tiny.encoded(vlm, 1))


# ------------------------------------------------------------------------------------------ other scores
def plain_attention_without_rope(vlm, layer, hidden, padding, prefix):
    """Softmax over scores, causal unless ``prefix``, of q and k straight from their projections: (B, H, N, N)."""
    module = vlm.decoder.layers[layer].self_attn
    b, n, _ = hidden.shape
    q, k = (proj(hidden).view(b, n, -1, module.head_dim) for proj in (module.q_proj, module.k_proj))
    if hasattr(module, "q_norm"):
        q, k = module.q_norm(q), module.k_norm(k)
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    keep = (causal | prefix) & padding[:, None, None, :].bool()
    return (q @ k.transpose(2, 3) * module.scaling).masked_fill(~keep, float("-inf")).softmax(-1)


@each_family
def test_no_rope_undoes_the_rotation(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    inputs = {}
    handle = vlm.decoder.layers[2].self_attn.register_forward_pre_hook(
        lambda m, a, kw: inputs.update(hidden=kw["hidden_states"]), with_kwargs=True
    )
    with capture(vlm, [2], queries="text", score=no_rope) as rows:
        logits = vlm.forward(enc).logits
    handle.remove()
    assert torch.equal(logits, vlm.forward(enc).logits)
    prefix = "token_type_ids" in enc.inputs  # the prompt attends both ways
    expected = plain_attention_without_rope(vlm, 2, inputs["hidden"], enc.inputs["attention_mask"], prefix)
    where = (*text_after(vlm, enc), enc.visual, enc.visual_mask)
    assert_rows_equal(rows[2], expected, *where)
    with capture(vlm, [2], queries="text") as rotated:
        vlm.forward(enc)
    assert (rotated[2].values - rows[2].values).abs().max() > 1e-2, "position matters in this model"


def test_a_callable_score_gets_everything():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)

    def norms(q, k, v, cos, sin, *, rows, cols, scaling, attention_mask, **kw):
        assert q.shape[1] == 4 and k.shape[1] == v.shape[1] == 2
        assert cos.shape == sin.shape and cos.shape[1] == q.shape[2]
        picked = v.gather(2, cols[:, None, :, None].expand(-1, 2, -1, v.shape[3])).float().norm(dim=-1)
        return picked.repeat_interleave(2, 1)[:, :, None, :].expand(-1, -1, rows.shape[1], -1)

    with capture(vlm, [0, 3], score=norms) as rows:
        vlm.forward(enc)
    assert rows[3].values.shape == (2, 4, 1, 12) and (rows[3].values[0] > 0).all()
    assert (rows[3].values[1, :, :, ~rows[3].mask[1]] == 0).all()


# ------------------------------------------------------------------------------------------ nesting, undoing
def test_nested_captures_in_any_order_of_closing():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    first, second = ExitStack(), ExitStack()
    a = first.enter_context(capture(vlm, [1], queries="last"))
    b = second.enter_context(capture(vlm, [1, 2], queries="text", heads="mean", score=no_rope))
    vlm.forward(enc)
    assert a[1].values.shape[2] == 1 and b[1].values.shape[2] > 1 and list(b) == [1, 2]
    before = b[1].values
    first.close()
    vlm.forward(tiny.encoded(vlm, 1))
    assert a[1].values.shape[0] == 2 and b[1].values.shape[0] == 1 and before.shape[0] == 2
    assert vlm.decoder.config._attn_implementation == "biaslab_sdpa"
    second.close()
    assert vlm.decoder.config._attn_implementation == "sdpa"


def test_everything_is_undone_after_an_exception():
    from biaslab.attention import hook as attention

    vlm = tiny.vlm("llava")
    enc = tiny.encoded(vlm, 1)
    vlm.forward(enc)  # transformers leaves hooks of its own behind on first use

    def hooks():
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules()]

    before = hooks()

    def broken(*_, **kw):
        raise RuntimeError("score failed")

    with pytest.raises(RuntimeError, match="score failed"), capture(vlm, score=broken):
        vlm.forward(enc)
    assert vlm.decoder.config._attn_implementation == "sdpa"
    assert hooks() == before
    assert not attention._CALLBACKS and not attention._ROPE and not attention._SWITCHED
    assert vlm.prefill.encoded is None


def test_the_vision_tower_keeps_its_attention():
    vlm = tiny.vlm("internvl")
    with capture(vlm, [1]):
        assert vlm.model.model.vision_tower.config._attn_implementation == "sdpa"


def test_watch_sees_prefill_and_decode_in_listed_layers_only():
    vlm = tiny.vlm("internvl")
    lengths = {0: [], 2: []}

    def note(layer):
        return lambda module, query, key, *_, **kw: lengths[layer].append((query.shape[2], key.shape[2]))

    enc = tiny.encoded(vlm, 2)
    with watch(vlm.model, {0: note(0), 2: note(2)}):
        tiny.sequences(vlm, enc, max_new_tokens=3)
    n = enc.last + 1
    assert lengths[0] == lengths[2] == [(n, n), (1, n + 1), (1, n + 2)]
    with pytest.raises(InputError, match="layers 0 to 3"), watch(vlm.model, {7: note(0)}):
        pass


@pytest.mark.slow
def test_importing_registers_nothing():
    code = "import biaslab.attention.capture, sys; print('transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False", "the wrapper cannot have been registered"


# ------------------------------------------------------------------------------------------ refusals
def test_refuses_what_it_cannot_see():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    embeds = vlm.model.get_input_embeddings()(enc.inputs["input_ids"])
    with pytest.raises(UnsupportedError, match="input_ids") as caught, capture(vlm, [1]):
        vlm.model(inputs_embeds=embeds, attention_mask=enc.inputs["attention_mask"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedError, match="input_ids"), capture(vlm, [1]):
        vlm.decoder(inputs_embeds=embeds)


def test_refuses_a_second_image_on_a_filled_cache():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    cache = vlm.forward(enc).past_key_values
    n = enc.last + 1
    ones = torch.ones(1, 2 * n, dtype=torch.long)
    with pytest.raises(UnsupportedError, match="first prefill"), capture(vlm, [1]):
        vlm.model(**{**enc.inputs, "attention_mask": ones}, past_key_values=cache)


def test_refuses_other_attention_functions():
    vlm = tiny.vlm("internvl")
    config = vlm.decoder.config
    config._attn_implementation = "flex_attention"
    try:
        with pytest.raises(UnsupportedError, match="attn_implementation='sdpa'"), capture(vlm, [1]):
            pass
        assert config._attn_implementation == "flex_attention"
    finally:
        config._attn_implementation = "sdpa"


def test_the_package_face_is_the_function():
    import biaslab as bl
    import biaslab.maps.collect

    assert callable(bl.capture) and callable(bl.collect)
