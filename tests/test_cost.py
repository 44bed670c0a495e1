"""Analytic FLOPs against torch's counter on tiny models, and against published numbers."""

from types import SimpleNamespace

import pytest
import torch
import transformers as T
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from biaslab import cost
from biaslab.errors import InputError, UnsupportedError

IMG = 250


def _text(**kw):
    base = {
        "vocab_size": 256,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return base | kw


def _internvl(decoder="qwen2", **kw):
    text = {"qwen2": T.Qwen2Config, "llama": T.LlamaConfig, "qwen3": T.Qwen3Config}[decoder](**_text(**kw))
    vision = T.InternVLVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=(56, 56),
        patch_size=(14, 14),
    )
    config = T.InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=IMG, tie_word_embeddings=False
    )
    return config, {"pixel_values": torch.zeros(2, 3, 56, 56)}, 8, None


def _llava():
    vision = T.CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=56,
        patch_size=14,
        projection_dim=16,
    )
    config = T.LlavaConfig(
        vision_config=vision,
        text_config=T.LlamaConfig(**_text()),
        image_token_id=IMG,
        vision_feature_layer=-2,
    )
    return config, {"pixel_values": torch.zeros(1, 3, 56, 56)}, 16, None


def _qwen():
    text = _text(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]})
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = T.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMG, video_token_id=251
    )
    rows, cols = 3, 5  # windows of 2 x 2 tokens do not divide it
    extra = {
        "pixel_values": torch.zeros(4 * rows * cols, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * cols]]),
    }
    return config, extra, rows * cols, (rows, cols)


BUILDERS = {
    "internvl-qwen2": _internvl,
    "internvl-llama": lambda: _internvl("llama", num_key_value_heads=4),
    "internvl-qwen3": lambda: _internvl("qwen3", head_dim=24),
    "llava": _llava,
    "qwen2_5_vl": _qwen,
}


@pytest.fixture(scope="module", params=BUILDERS)
def case(request):
    config, extra, n_visual, grid = BUILDERS[request.param]()
    torch.manual_seed(0)
    model = T.AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    ids = torch.tensor([[5, 6, 7, *[IMG] * n_visual, 8, 9]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}
    if "image_grid_thw" in extra:
        inputs["mm_token_type_ids"] = (ids == IMG).int()
    return model, inputs, n_visual, 5, grid


def _count(function):
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter


def test_parts_equal_torchs_counter(case):
    model, inputs, n_visual, n_text, grid = case
    counter = _count(lambda: model(**inputs, logits_to_keep=1))
    by_module = {k: sum(v.values()) for k, v in counter.get_flop_counts().items()}
    flops = cost.image_flops(model.config, n_visual, n_text, grid=grid)
    assert flops.total == counter.get_total_flops()
    projector = next(
        v for k, v in by_module.items() if k.endswith(("multi_modal_projector", "visual.merger"))
    )
    tower = next(v for k, v in by_module.items() if k.endswith((".vision_tower", ".visual")))
    assert flops.projector == projector
    # Qwen's merger is inside its tower, the others' projector is not
    assert flops.vision == tower - (projector if grid else 0)


@pytest.mark.parametrize(("layer", "keep"), [(1, 5), (2, 1), (0, 4)])
def test_pruned_prefill_and_decode_equal_torchs_counter(case, layer, keep):
    """A hand-pruned forward: hidden states, angles and the causal mask shortened from layer K on, one
    cache.
    """
    model, _, n_visual, n_text, grid = case
    decoder, head = model.get_decoder(), model.lm_head
    embeds = torch.zeros(1, n_visual + n_text, model.config.text_config.hidden_size)

    def prefill_and_two_steps():
        cache = T.DynamicCache(config=model.config.text_config)
        for step, length in enumerate((n_visual + n_text, 1, 1)):
            hidden = embeds[:, :length]
            if step == 0 and layer == 0:
                hidden = hidden[:, : keep + n_text]
            position = torch.arange(hidden.shape[1])[None]
            position = position if not grid else position[None].expand(3, 1, -1)
            angles = decoder.rotary_emb(hidden, position)
            for i, block in enumerate(decoder.layers):
                if step == 0 and i == layer:
                    hidden = hidden[:, : keep + n_text]
                    angles = tuple(a[:, : keep + n_text] for a in angles)
                out = block(
                    hidden,
                    attention_mask=None,
                    position_embeddings=angles,
                    past_key_values=cache,
                    use_cache=True,
                )
                hidden = out[0] if isinstance(out, tuple) else out
            head(hidden[:, -1:])

    measured = _count(prefill_and_two_steps).get_total_flops()
    flops = cost.image_flops(model.config, n_visual, n_text, keep, layer, new_tokens=3, grid=grid)
    assert flops.decoder == measured
    assert flops.prefill == cost.image_flops(model.config, n_visual, n_text, keep, layer, grid=grid).decoder
    assert flops.decode == flops.decoder - flops.prefill > 0


def test_keeping_everything_costs_the_same_and_less_costs_less():
    config, _, n, _ = _internvl()
    full = cost.image_flops(config, n, 5)
    assert cost.image_flops(config, n, 5, keep_n=n, layer=1) == full
    pruned = cost.image_flops(config, n, 5, keep_n=1, layer=1)
    assert pruned.decoder < full.decoder and (pruned.vision, pruned.projector) == (
        full.vision,
        full.projector,
    )


def test_published_numbers():
    # FastV formula on LLaVA-1.5-7B, 576 -> 128 tokens at K = 2: 73.3 - 73.4 % without text
    llava = {"layer": 2, "n_layers": 32, "hidden": 4096, "intermediate": 11008}
    assert cost.fastv_reduction(576, 128, **llava) == pytest.approx(0.734, abs=0.001)
    assert cost.fastv_reduction(576, 128, **llava, gated=True) == pytest.approx(0.733, abs=0.001)
    assert cost.fastv_reduction(576, 64, **llava, n_text=60, gated=True) == pytest.approx(0.758, abs=0.001)
    # decoder of InternVL2.5-8B, 13 tiles + 80 text tokens at K = 2: 53.66 TFLOPs, 8.83 at keep 10 %
    text = SimpleNamespace(
        model_type="llama",
        hidden_size=4096,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_hidden_layers=32,
        vocab_size=92553,
        head_dim=128,
    )
    assert cost.decoder_flops(text, 3328, 80)[0] / 1e12 == pytest.approx(53.66, abs=0.01)
    assert cost.decoder_flops(text, 3328, 80, 332, 2)[0] / 1e12 == pytest.approx(8.83, abs=0.01)


def test_qwen_windows_count_as_full_without_a_grid():
    config, _, n, grid = _qwen()
    exact = cost.vision_flops(config, n, grid)[0]
    assert exact < cost.vision_flops(config, n)[0] < 1.1 * exact
    assert cost.vision_flops(config, 16, (4, 4)) == cost.vision_flops(config, 16)


def test_bad_input_is_refused():
    config, _, n, _ = _internvl()
    with pytest.raises(InputError, match="keep_n"):
        cost.image_flops(config, n, 5, keep_n=n + 1)
    with pytest.raises(InputError, match="prune layer"):
        cost.image_flops(config, n, 5, keep_n=1, layer=3)
    with pytest.raises(InputError, match="whole number of tiles"):
        cost.image_flops(config, n + 1, 5)
    with pytest.raises(InputError, match="grid"):
        cost.image_flops(_qwen()[0], 15, 5, grid=(4, 4))
    with pytest.raises(UnsupportedError, match="decoder"):
        cost.decoder_flops(SimpleNamespace(model_type="mamba"), 4, 4)
    with pytest.raises(UnsupportedError, match="vision tower"):
        cost.vision_flops(SimpleNamespace(vision_config=SimpleNamespace(model_type="swin")), 4)
