"""Analytic FLOPs and memory against torch's counter and real caches on tiny models, and against published numbers."""

import re
from types import SimpleNamespace

import pytest
import tiny
import torch
from pruned import lowest_layer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import biaslab as bl
from biaslab import cost
from biaslab.errors import InputError, UnsupportedError
from biaslab.pruning import Uniform

_PROJECTOR = re.compile(r"\.(multi_modal_projector|visual\.merger|visual\.deepstack_merger_list\.\d+|connector)$")
_INNER = re.compile(r"visual\.(merger|deepstack_merger_list)")  # projectors that are part of the tower's module


@pytest.fixture(scope="module", params=tiny.CROSSED)
def vlm(request):
    return tiny.vlm(request.param)


def _encoded(vlm, size=None):
    return vlm.encode(tiny.images(1, sizes=[size] if size else None), tiny.texts(1))


def _count(function):
    """Total FLOPs, and FLOPs by module."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops(), {k: sum(v.values()) for k, v in counter.get_flop_counts().items()}


def _generated(vlm, encoded, method=None, layer=0, steps=3, cache="full"):
    """A greedy answer of exactly ``steps`` tokens from features made before; returns generate's output."""
    options = {"max_new_tokens": steps, "min_new_tokens": steps, "do_sample": False, "return_dict_in_generate": True}
    if method is None:
        with vlm.running(encoded) as inputs, torch.no_grad():
            return vlm.model.generate(**inputs, **options), None
    with bl.prune(vlm, method, layer, cache=cache) as run, vlm.running(encoded) as inputs, torch.no_grad():
        return vlm.model.generate(**inputs, **options), run


# -- FLOPs -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(112, 56), (90, 150)])
def test_parts_equal_torchs_counter(vlm, size):
    encoded = _encoded(vlm, size)
    total, by_module = _count(lambda: vlm.model(**encoded.inputs, logits_to_keep=1))
    (layout,) = encoded.layouts
    found = cost.prompt_flops(vlm.model.config, [cost.VisionInput.of(layout)], encoded.last + 1 - layout.n)
    projectors = {k: v for k, v in by_module.items() if _PROJECTOR.search(k)}
    tower = next(v for k, v in by_module.items() if k.endswith((".vision_tower", ".visual", ".vision_model")))
    assert found.projector == sum(projectors.values()) > 0
    assert found.vision == tower - sum(v for k, v in projectors.items() if _INNER.search(k))
    assert found.total == total


@pytest.mark.parametrize(("deeper", "keep"), [(0, 4), (1, 1), (2, 5)])
def test_pruned_prefill_and_decode_equal_torchs_counter(vlm, deeper, keep):
    layer = min(lowest_layer(vlm) + deeper, vlm.n_layers - 1)
    encoded = vlm.vision(_encoded(vlm))
    n = encoded.layouts[0].n
    sizes = (vlm.model.config.text_config, n, encoded.last + 1 - n)
    full, _ = _count(lambda: _generated(vlm, encoded))
    pruned, _ = _count(lambda: _generated(vlm, encoded, Uniform(keep=keep), layer))
    assert cost.decoder_flops(*sizes, new_tokens=3)[0] == full
    assert cost.decoder_flops(*sizes, keep_n=keep, layer=layer, new_tokens=3)[0] == pruned < full
    if deeper == 1:
        trimmed, _ = _count(lambda: _generated(vlm, encoded, Uniform(keep=keep), layer, cache="trimmed"))
        assert cost.decoder_flops(*sizes, keep_n=keep, layer=layer, new_tokens=3, cache="trimmed")[0] == trimmed
        assert trimmed < pruned


def test_prefill_and_decode_add_up(vlm):
    image, text = cost.VisionInput.of(_encoded(vlm).layouts[0]), 7
    whole, first = (
        cost.prompt_flops(vlm.model.config, [image], text, keep_n=2, layer=1, new_tokens=new) for new in (3, 1)
    )
    assert whole.prefill == first.decoder and first.decode == 0
    assert whole.decode == whole.decoder - first.decoder > 0
    assert cost.prompt_flops(
        vlm.model.config, [image], text, keep_n=image.tokens, layer=1, new_tokens=1
    ) == cost.prompt_flops(vlm.model.config, [image], text)


def test_two_images_cost_both(vlm):
    """The tower's part is what two prompts with one image each cost; the decoder sees all tokens at once."""
    layouts = vlm.encode(tiny.images(2), tiny.texts(2)).layouts
    one, two = (cost.VisionInput.of(layout) for layout in layouts)
    config = vlm.model.config
    both = cost.prompt_flops(config, [one, two], 9)
    apart = [cost.prompt_flops(config, [p], 9) for p in (one, two)]
    assert (both.vision, both.projector) == tuple(sum(getattr(f, k) for f in apart) for k in ("vision", "projector"))
    assert both.decoder == cost.decoder_flops(config.text_config, one.tokens + two.tokens, 9)[0]


def _mistral(window):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, sliding_window=window, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return MistralForCausalLM._from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("window", [None, 8])
def test_sliding_windows_shorten_decoding(window):
    model = _mistral(window)
    ids = torch.arange(12)[None]
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
    out = model.generate(ids, **options)
    total, _ = _count(lambda: model.generate(ids, **options))
    assert cost.decoder_flops(model.config, 0, 12, new_tokens=4)[0] == total
    lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert cost.kv_entries(model.config, 0, 12, new_tokens=4) == lengths == [15 if window is None else 7] * 2


def test_siglips_pooling_head_is_counted():
    import transformers as T

    vision = T.SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=56, patch_size=14
    )
    config = SimpleNamespace(
        vision_config=vision, text_config=SimpleNamespace(hidden_size=16), vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    model = T.SiglipVisionModel(vision).eval()
    total, _ = _count(lambda: model(torch.zeros(1, 3, 56, 56)))
    assert vision.vision_use_head and cost.vision_flops(config, 16)[0] == total


def test_published_numbers():
    # FastV formula on LLaVA-1.5-7B, 576 -> 128 tokens at K = 2: 73.3 - 73.4 % without text
    llava = {"layer": 2, "n_layers": 32, "hidden": 4096, "intermediate": 11008}
    assert cost.fastv_reduction(576, 128, **llava) == pytest.approx(0.734, abs=0.001)
    assert cost.fastv_reduction(576, 128, **llava, gated=True) == pytest.approx(0.733, abs=0.001)
    assert cost.fastv_reduction(576, 64, **llava, n_text=60, gated=True) == pytest.approx(0.758, abs=0.001)
    # decoder of InternVL2.5-8B, 13 tiles + 80 text tokens at K = 2: 53.66 TFLOPs, 8.83 at keep 10 %
    text = _internlm2_7b()
    assert cost.decoder_flops(text, 3328, 80)[0] / 1e12 == pytest.approx(53.66, abs=0.01)
    assert cost.decoder_flops(text, 3328, 80, keep_n=332, layer=2)[0] / 1e12 == pytest.approx(8.83, abs=0.01)


def _internlm2_7b():
    return SimpleNamespace(
        model_type="llama", hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8,
        num_hidden_layers=32, vocab_size=92553, head_dim=128,
    )  # fmt: skip


def test_qwen_windows_count_as_full_without_a_grid():
    config = tiny.config("qwen2_5_vl")
    exact = cost.vision_flops(config, 15, grid=(3, 5))[0]  # windows of 2 x 2 tokens do not divide it
    assert exact < cost.vision_flops(config, 15)[0] < 1.1 * exact
    assert cost.vision_flops(config, 16, grid=(4, 4)) == cost.vision_flops(config, 16)


def test_tiles_that_are_cut_after_the_tower_count_in_full():
    """Unpadding removes tokens, not work: two sizes with the same tiling and other tokens cost the same."""
    config = SimpleNamespace(
        vision_config=tiny.config("llava").vision_config, text_config=SimpleNamespace(hidden_size=64),
        vision_feature_layer=-2, vision_feature_select_strategy="default",
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
    )  # fmt: skip
    five = cost.vision_flops(config, 70, size=(100, 90))
    assert five == cost.vision_flops(config, 80, size=(112, 112)) == cost.vision_flops(config, 1, tiles=5)
    assert cost.vision_flops(config, 40, size=(112, 56))[1] * 5 == five[1] * 3
    assert cost.vision_flops(config, 16)[1] * 5 == five[1]  # the image alone, no raster
    with pytest.raises(InputError, match="tiles="):
        cost.vision_flops(config, 70)


def test_a_tower_is_registered_from_one_place(monkeypatch):
    monkeypatch.setattr(cost.vision, "VISION", cost.VISION | {})

    @cost.register_vision("swin")
    def swin(config, image):
        return 10 * image.tokens, image.tokens

    config = SimpleNamespace(vision_config=SimpleNamespace(model_type="swin"))
    assert cost.vision_flops(config, 4) == (40, 4)


def test_bad_input_is_refused():
    config, n = tiny.config("internvl"), 8
    with pytest.raises(InputError, match="keep_n"):
        cost.image_flops(config, n, 5, keep_n=n + 1)
    with pytest.raises(InputError, match="prune layer"):
        cost.image_flops(config, n, 5, keep_n=1, layer=4)
    with pytest.raises(InputError, match="whole number of tiles"):
        cost.image_flops(config, n + 1, 5)
    with pytest.raises(InputError, match="cache must be"):
        cost.image_flops(config, n, 5, cache="half")
    with pytest.raises(InputError, match="grid"):
        cost.image_flops(tiny.config("qwen2_5_vl"), 15, 5, grid=(4, 4))
    with pytest.raises(UnsupportedError, match="decoder"):
        cost.decoder_flops(SimpleNamespace(model_type="mamba"), 4, 4)
    with pytest.raises(UnsupportedError, match="vision tower"):
        cost.vision_flops(SimpleNamespace(vision_config=SimpleNamespace(model_type="vgg")), 4)


# -- memory ----------------------------------------------------------------------------------------------------
def test_parameters_equal_the_models(vlm):
    found = cost.parameters(vlm.model.config)
    assert found.total == sum(p.numel() for p in vlm.model.parameters())
    tower = next(m for n, m in vlm.model.named_modules() if n.endswith((".vision_tower", ".visual", ".vision_model")))
    assert found.vision >= sum(p.numel() for p in tower.parameters()) > 0
    assert found.decoder >= sum(p.numel() for p in vlm.decoder.parameters()) > 0
    assert found.bytes("bfloat16") * 2 == found.bytes(torch.float32) == 4 * found.total


def test_kv_cache_equals_the_real_one(vlm):
    layer = max(1, lowest_layer(vlm))
    encoded = vlm.vision(_encoded(vlm))
    n = encoded.layouts[0].n
    sizes = (vlm.model.config.text_config, n, encoded.last + 1 - n)
    for method, kept, cache in ((None, None, "full"), (Uniform(keep=3), 3, "full"), (Uniform(keep=3), 3, "trimmed")):
        out, run = _generated(vlm, encoded, method, layer, cache=cache)
        layers = out.past_key_values.layers
        given = {"keep_n": kept, "layer": layer, "new_tokens": 3, "cache": cache}
        entries = cost.kv_entries(*sizes, **given)
        assert entries == [x.keys.shape[2] for x in layers]
        assert run is None or entries == run.kv_lengths()
        real = sum(t.numel() * t.element_size() for x in layers for t in (x.keys, x.values))
        assert cost.kv_bytes(*sizes, **given, dtype=torch.float32) == real


def test_published_sizes():
    assert cost.kv_bytes(_internlm2_7b(), 3328, 80) == 2 * 32 * 3408 * 8 * 128 * 2  # 426 MiB in bfloat16
    with pytest.raises(InputError, match="dtype"):
        cost.kv_bytes(_internlm2_7b(), 8, 8, dtype="int3000")
