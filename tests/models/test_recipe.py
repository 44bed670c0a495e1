"""How a model was loaded, as a value that another process loads the same model with."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import tiny
import torch

import biaslab as bl
from biaslab.errors import InputError, ModelError
from biaslab.models.load_options import check_arguments
from biaslab.models.recipe import LoadRecipe, recipe_of
from biaslab.models.registry import grounder_folder
from biaslab.workflows.before_loading import known_model


def test_another_process_gets_the_same_model():
    vlm = bl.load("grounder", device="cpu", dtype="float64", attn_implementation="eager").set_image_options(max_tiles=1)
    recipe = pickle.loads(pickle.dumps(recipe_of(vlm)))
    assert json.loads(json.dumps(recipe.described())) == {"attn_implementation": "eager"} == vlm.loading["loading"]
    again = recipe.load(device="cpu")
    assert again.fingerprint == vlm.fingerprint and again.image_options == {"max_tiles": 1}
    assert again.model.config._attn_implementation == "eager" and again.model.dtype == torch.float64
    for mine, other in zip(vlm.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert bl.load("grounder", device="cpu").loading == {}


def test_weights_that_changed_in_memory_are_found_out():
    vlm = bl.load("grounder", device="cpu")
    with torch.no_grad():
        vlm.model.lm_head.weight += 1e-3 * torch.randn(vlm.model.lm_head.weight.shape)
    with pytest.raises(ModelError, match="other weights than the model in memory"):
        recipe_of(vlm).load()


def test_a_wrapped_model_has_no_recipe():
    wrapped = tiny.vlm("internvl")
    assert wrapped.recipe is None and wrapped.loading == {}
    with pytest.raises(InputError, match="save the model and load it from its folder"):
        recipe_of(wrapped)


def test_settings_are_passed_on_recorded_and_make_another_model():
    plain = bl.load("grounder", device="cpu")
    coarse = {"text_config": {"rms_norm_eps": 0.5}}
    vlm = bl.load("grounder", device="cpu", **coarse)
    assert vlm.loading == {"loading": {"arguments": coarse}}
    assert vlm.decoder.norm.variance_epsilon == 0.5 != plain.decoder.norm.variance_epsilon
    assert vlm.fingerprint.startswith(f"{plain.fingerprint} with-")
    assert recipe_of(vlm).load().fingerprint == vlm.fingerprint
    # what only places the weights changes no answer
    assert bl.load("grounder", device="cpu", low_cpu_mem_usage=True).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "name",
    "trust_remote_code code_revision use_kernels kernel_config allow_all_kernels use_safetensors weights_only "
    "state_dict gguf_file subfolder variant config tp_plan device_mesh ignore_mismatched_sizes _from_auto "
    "torch_dtype".split(),
)
def test_dangerous_arguments_are_refused_before_anything_is_read(name, monkeypatch):
    monkeypatch.setattr("biaslab.models.loading.local_folder", lambda *_: pytest.fail("looked for the files"))
    with pytest.raises(InputError, match=f"^{name} is not taken: "):
        bl.load("grounder", **{name: True})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attn_implementation": "kernels-community/flash-attn2"}, "code from a hub"),
        ({"attn_implementation": "flsh"}, "unknown attention 'flsh': use sdpa, eager"),
        ({"attn_implementation": None}, "an attention is a name"),
        ({"load_in": "2bit"}, "unknown load_in='2bit': use 4bit or 8bit"),
        ({"load_in": "4bit", "quantization_config": {}}, "not both"),
        ({"sliding_windw": 3}, "sliding_windw is no setting of this model's configuration"),
        ({"text_config": {"num_hidden_layers": 3}}, "does not take these settings: .*layer_types"),
        ({"adapter": grounder_folder()}, "is no adapter: give a folder with adapter_config.json"),
        ({"adapter": "no such thing"}, "unknown model 'no such thing'"),
        ({"revision": "main"}, "is for hub models"),
    ],
)
def test_other_bad_arguments_are_refused_before_weights_are_read(given, words, monkeypatch):
    monkeypatch.setattr("biaslab.models.loading._model", lambda *_: pytest.fail("read weights"))
    monkeypatch.setattr("biaslab.models.load_options._is_installed", lambda name: False)
    with pytest.raises(InputError, match=words):
        bl.load("grounder", device="cpu", **given)


@pytest.mark.parametrize("given", [{"load_in": "8bit"}, {"attn_implementation": "flash_attention_2"}])
def test_a_missing_library_is_named(given, monkeypatch):
    monkeypatch.setattr("biaslab.models.load_options._is_installed", lambda name: False)
    with pytest.raises(InputError, match="needs bitsandbytes: pip install|needs the library flash_attn"):
        bl.load("grounder", **given)


def test_arguments_that_are_documented_are_taken():
    check_arguments({"max_memory": {0: "1GiB"}, "offload_folder": "x", "quantization_config": {}})


@pytest.mark.parametrize("how", ["4bit", "8bit"])
def test_quantised_at_loading(how):
    pytest.importorskip("bitsandbytes")
    plain, vlm = bl.load("grounder", device="cpu"), bl.load("grounder", device="cpu", load_in=how)
    assert vlm.fingerprint.startswith(f"{plain.fingerprint} quantised-") and vlm.loading["loading"] == {"load_in": how}
    projection = type(vlm.decoder.layers[0].self_attn.q_proj).__name__
    assert projection == {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[how]
    assert recipe_of(vlm).load().fingerprint == vlm.fingerprint
    assert known_model(LoadRecipe(name="grounder", load_in=how)).vlm.fingerprint == vlm.fingerprint  # before loading


def test_an_adapter_on_top_of_any_base(tmp_path):
    peft = pytest.importorskip("peft")
    base = bl.load("grounder", device="cpu")
    lora = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(base.model, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    want = bl.wrap(adapted, base.processor)
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="names no base model"):
        bl.load(tmp_path / "adapter", device="cpu")
    got = bl.load("grounder", adapter=tmp_path / "adapter", device="cpu")
    made = bl.scenes.scene("test", 0)
    encoded = got.encode_grounding([made.image], ["cat"])
    assert torch.equal(got.forward(encoded).logits, want.forward(encoded).logits)
    plain = bl.load("grounder", device="cpu")
    assert not torch.equal(got.forward(encoded).logits, plain.forward(encoded).logits)
    assert got.fingerprint.endswith(f" on {plain.fingerprint}") and got.name == str(tmp_path / "adapter")
    assert got.loading["loading"] == {"adapter": str(tmp_path / "adapter")}
    assert recipe_of(got).load().fingerprint == got.fingerprint
    known = known_model(replace(got.recipe, fingerprint=None)).vlm  # before loading
    assert (known.name, known.revision, known.fingerprint) == (got.name, got.revision, got.fingerprint)
    with pytest.raises(InputError, match="is an adapter itself"):
        bl.load(tmp_path / "adapter", adapter=tmp_path / "adapter")


def test_a_checkpoint_that_is_stored_quantised(tmp_path):
    pytest.importorskip("bitsandbytes")
    made = bl.load("grounder", device="cpu", load_in="4bit")
    made.model.save_pretrained(tmp_path)
    made.processor.save_pretrained(tmp_path)
    stored = bl.load(tmp_path, device="cpu")
    assert type(stored.decoder.layers[0].self_attn.q_proj).__name__ == "Linear4bit" and stored.recipe.load_in is None
    assert stored.fingerprint.startswith("weights-") and " quantised-" not in stored.fingerprint
    image = bl.scenes.scene("test", 0).image
    assert stored.locate(image, "cat") == made.locate(image, "cat")
