"""Folders that say less, or more, than a plain checkpoint: old processors, other towers, adapters, parts on disk."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import tiny
import torch

from biaslab.attention.capture import capture
from biaslab.errors import InputError, ModelError, UnsupportedError
from biaslab.models import load, wrap
from biaslab.pruning import D2Pruner, prune


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoint folders as a user would have them."""
    folders = {}
    for family in ("internvl", "llava", "llava_next", "llava_onevision"):
        folders[family] = tmp_path_factory.mktemp("saved") / family
        tiny.vlm(family).model.save_pretrained(folders[family])
        tiny.vlm(family).processor.save_pretrained(folders[family])
    return folders


# ------------------------------------------------------------------------------------------ processors
LEFT_OUT = ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy", "num_image_tokens")


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision"])
def test_what_a_processor_leaves_out_comes_from_the_model(family, saved, tmp_path):
    folder = shutil.copytree(saved[family], tmp_path / family)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    gone = [config.pop(name) for name in LEFT_OUT if name in config]
    assert len(gone) > 1
    path.write_text(json.dumps(config))
    vlm, original = load(folder, device="cpu"), tiny.vlm(family)
    enc, same = tiny.encoded(vlm, 3), tiny.encoded(original, 3)
    assert [a.key for a in enc.layouts] == [b.key for b in same.layouts]
    assert torch.equal(vlm.forward(enc).logits, original.forward(same).logits)


@pytest.mark.parametrize(
    ("family", "strategy", "why"),
    [
        ("llava", "full", "hands on its class token"),
        ("llava_next", "full", "hands on its class token"),
        ("llava_onevision", "default", "loses its first patch"),
    ],
)
def test_towers_that_keep_other_tokens_are_refused_with_the_reason(family, strategy, why, monkeypatch):
    model = tiny.vlm(family).model
    monkeypatch.setattr(model.config, "vision_feature_select_strategy", strategy)
    with pytest.raises(UnsupportedError, match=f"vision_feature_select_strategy='{strategy}'.*{why}") as caught:
        wrap(model, tiny.processor(family))
    assert "\n" not in str(caught.value)


def test_a_tower_without_a_class_token_keeps_all_patches():
    import transformers

    config = tiny.config("llava")
    config.vision_config = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    config.vision_feature_select_strategy = "full"
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration._from_config(config).eval()
    vlm = wrap(model, tiny.processor("llava"))
    enc = tiny.encoded(vlm, 2)
    assert [layout.n for layout in enc.layouts] == [16, 16] and len(vlm.generate(enc, max_new_tokens=2)) == 2


# ------------------------------------------------------------------------------------------ adapters
@pytest.fixture
def adapter(saved, tmp_path):
    """A folder as PEFT saves it, beside its base model."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(saved["internvl"]), "peft_type": "LORA"})
    )
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_an_adapter_without_peft_is_one_line(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"is an adapter, which needs PEFT: pip install 'biaslab\[peft\]'"):
        load(adapter)


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"base_model_name_or_path": None}, ModelError, "names no base model"),
        ({"peft_type": "PROMPT_TUNING"}, InputError, "prompt tuning adds tokens"),
    ],
)
def test_adapters_that_cannot_be_loaded_say_why(adapter, change, error, why):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=why):
        load(adapter)


def test_pickled_and_unreadable_adapters_are_refused(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"lacks adapter_model\.safetensors"):
        load(adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load(adapter)


def test_an_adapter_is_loaded_with_its_base(saved, tmp_path):
    peft = pytest.importorskip("peft")
    base = load(saved["internvl"], device="cpu")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, lora_dropout=0.5, init_lora_weights=False)
    adapted = peft.get_peft_model(base.model, config)
    adapted.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(saved["internvl"])}))
    with pytest.warns(UserWarning, match="was in train mode"):  # fresh adapters have their dropout on
        want = wrap(adapted, base.processor)
    got = load(tmp_path / "adapter", device="cpu")
    enc = tiny.encoded(got, 2)
    assert got.name == str(tmp_path / "adapter") and got.revision.startswith("local-") and " on local-" in got.revision
    assert torch.equal(got.forward(enc).logits, want.forward(enc).logits)
    assert not torch.equal(got.forward(enc).logits, tiny.vlm("internvl").forward(enc).logits)
    assert not any(p.requires_grad for p in got.model.parameters())


# ------------------------------------------------------------------------------------------ disk
def test_a_model_whose_first_parts_wait_on_disk(saved, tmp_path):
    where = {"model.vision_tower": "disk", "model.multi_modal_projector": "disk"}
    where |= {"model.language_model": "cpu", "lm_head": "cpu"}
    vlm = load(saved["internvl"], device_map=where, offload_folder=tmp_path)
    assert vlm.model.device.type == "meta" and vlm.device.type == "cpu"
    original = tiny.vlm("internvl")
    enc, method = tiny.encoded(original, 2), D2Pruner(keep=0.3, debias="none")
    found = []
    for each in (vlm, original):
        with capture(each, heads="mean") as rows, prune(each, method, 2) as state:
            answers = each.ask(tiny.images(2), tiny.texts(2), max_new_tokens=3)
        kept = [s.indices.tolist() for s in state.selections]
        found.append((answers, kept, [maps.tolist() for _, maps in rows.per_image(enc)]))
    assert found[0] == found[1]
