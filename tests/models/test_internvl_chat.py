"""InternVL checkpoints in their original layout, against the published forward pass in plain torch."""

from __future__ import annotations

import json
import re
import shutil
import sys

import original
import original_forward
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import biaslab as bl
from biaslab.errors import InputError, ModelError

SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
OLD = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
TOWER_6B = {"qk_normalization": True, "norm_type": "rms_norm", "qkv_bias": False}


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch):
    """transformers asks on stdin whether remote code may run."""

    def asked(*_):
        raise AssertionError("a question was asked on stdin")

    monkeypatch.setattr("builtins.input", asked)
    yield
    assert not [name for name in sys.modules if name.startswith("transformers_modules")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of each kind; "8b": InternLM2 in shards, "1b": Qwen2 in one file."""
    root = tmp_path_factory.mktemp("original")
    return {
        "8b": original.write(root / "8b", "internlm2", shards=3),
        "1b": original.write(root / "1b", "qwen2"),
    }


@pytest.fixture
def copy(folders, tmp_path):
    def copied(name="8b"):
        return shutil.copytree(folders[name], tmp_path / name)

    return copied


def edit(folder, name="config.json", **changes):
    path = folder / name
    original.write_json(path, {**json.loads(path.read_text()), **changes})


def edit_tensors(folder, change):
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def check_logits(folder, size=(200, 90), **kw):
    vlm = bl.load(folder, device="cpu", **kw)
    encoded = vlm.encode(tiny.images(1, sizes=[size]), ["Where is the red cat?"])
    ours = vlm.forward(encoded).logits[0]
    theirs = original_forward.logits(folder, encoded.inputs["input_ids"][0], encoded.inputs["pixel_values"])
    assert len(encoded.inputs["pixel_values"]) > 3 and theirs.std() > 0.3, "several tiles, and logits that differ"
    assert (ours - theirs).abs().max() <= 1e-5
    return vlm


# ------------------------------------------------------------------------------------------ the same numbers
@pytest.mark.parametrize("name", ["8b", "1b"])
def test_logits_are_those_of_the_published_model(name, folders, capfd):
    vlm = check_logits(folders[name])
    assert (vlm.family.name, vlm.name, vlm.n_layers) == ("internvl", str(folders[name]), 3)
    assert vlm.revision.startswith("local-") and type(vlm.model).__name__ == "InternVLForConditionalGeneration"
    assert capfd.readouterr() == ("", "")


def test_the_alias_finds_the_cached_checkpoint(folders, tmp_path, monkeypatch):
    repo, commit = tmp_path / "models--OpenGVLab--InternVL2_5-8B", "a" * 40
    shutil.copytree(folders["8b"], repo / "snapshots" / commit, ignore=shutil.ignore_patterns("*.py"))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    vlm = bl.load("internvl2.5", device="cpu")
    assert (vlm.name, vlm.revision, vlm.n_layers) == ("OpenGVLab/InternVL2_5-8B", commit, 3)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("internlm2", {"vision": TOWER_6B, "llm": {"num_attention_heads": 8, "num_key_value_heads": 2}}),
        ("internlm2", {"llm": {"bias": True, "num_key_value_heads": 4}}),
        ("internlm2", {"llm": {"max_position_embeddings": 60}}),  # dynamic rope beyond the trained length
        ("internlm2", {"llm": {"rope_scaling": {"type": "linear", "factor": 4.0}}, "select_layer": -2}),
        ("qwen2", {"llm": {"rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0}}}),
        ("qwen3", {}),
        ("llama", {}),
    ],
)
def test_logits_of_other_architectures(kind, changes, tmp_path):
    check_logits(original.write(tmp_path, kind, shards=2, **changes))


@pytest.mark.parametrize("shards", [1, 2])
def test_bfloat16(shards, tmp_path):
    folder = original.write(tmp_path, "internlm2", shards=shards, dtype=torch.bfloat16)
    assert bl.load(folder, device="cpu").model.dtype == torch.bfloat16
    check_logits(folder, dtype="float32")


def test_dtype_of_the_weights_where_the_config_is_silent(tmp_path):
    folder = original.write(tmp_path, "qwen2", dtype=torch.bfloat16)
    edit(folder, torch_dtype=None)
    assert bl.load(folder, device="cpu").model.dtype == torch.bfloat16


def test_tied_embeddings(tmp_path):
    folder = original.write(tmp_path, "qwen2", llm={"tie_word_embeddings": True})
    assert not bl.load(folder, device="cpu").model.config.tie_word_embeddings, "the file has both"
    edit_tensors(folder, lambda t: t.pop("language_model.lm_head.weight"))
    model = check_logits(folder).model
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_device_maps_and_offloading(folders, tmp_path):
    plain = bl.load(folders["8b"], device="cpu")
    encoded = tiny.encoded(plain, 1)
    expected = plain.forward(encoded).logits
    halves = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "model.language_model": "disk",
              "lm_head": "disk"}  # fmt: skip
    for device_map in ("cpu", {"": "cpu"}, halves):
        vlm = bl.load(folders["8b"], device_map=device_map, offload_folder=tmp_path)
        assert torch.equal(vlm.forward(encoded).logits, expected)


def test_saved_it_is_a_native_checkpoint(folders, tmp_path):
    vlm = bl.load(folders["8b"], device="cpu")
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "internvl"
    native = bl.load(tmp_path, device="cpu")
    encoded, same = tiny.encoded(vlm, 2), tiny.encoded(native, 2)
    assert torch.equal(encoded.inputs["input_ids"], same.inputs["input_ids"])
    assert torch.equal(vlm.forward(encoded).logits, native.forward(same).logits)


# ------------------------------------------------------------------------------------------ what goes in
@pytest.mark.parametrize("size", [(56, 56), (60, 60), (112, 56), (200, 40), (90, 150), (333, 250)])
def test_tiles_are_those_of_the_published_preprocessing(size, folders):
    vlm = bl.load(folders["1b"], device="cpu")
    image = tiny.images(1, sizes=[size])[0]
    ours = vlm.encode([image], ["a"]).inputs["pixel_values"]
    theirs = original_forward.tiles(image, original.TILE, 1, 12)
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize(("dynamic", "tiles"), [(True, (2, 5)), (False, (1, 1))])
def test_tile_limits_come_from_the_config(dynamic, tiles, copy):
    folder = copy("1b")
    edit(folder, min_dynamic_patch=2, max_dynamic_patch=5, dynamic_image_size=dynamic)
    processor = bl.load(folder, device="cpu").processor
    assert (processor.image_processor.min_patches, processor.image_processor.max_patches) == tiles
    assert processor.image_seq_length == 4


def test_prompt_and_ids_of_internlm2(folders):
    import sentencepiece

    vlm = bl.load(folders["8b"], device="cpu")
    prompt = vlm.family.chat_prompt(vlm.processor, "Where is the  cat?")
    start = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    assert prompt == f"{start}<IMG_CONTEXT>\nWhere is the  cat?<|im_end|>\n<|im_start|>assistant\n"
    added = original.added_tokens("internlm2")
    assert {token: vlm.processor.tokenizer.convert_tokens_to_ids(token) for token in added} == added
    assert vlm.image_token_id == vlm.model.config.image_token_id == added["<IMG_CONTEXT>"]
    assert vlm.model.config.text_config.vocab_size == max(added.values()) + 1

    pieces = sentencepiece.SentencePieceProcessor(model_proto=original.sentencepiece_model())
    tile = f"<img>{'<IMG_CONTEXT>' * 4}</img>"
    for text in ["Where is the  cat?", "  zwei  Räume 猫", "<ref>[[1, 2]]</ref> a", "x\n\n y"]:
        whole = vlm.family.chat_prompt(vlm.processor, text).replace("<IMG_CONTEXT>", tile)
        ids = [added["<s>"]]
        for part in filter(None, re.split("(" + "|".join(map(re.escape, added)) + ")", whole)):
            ids += [added[part]] if part in added else pieces.encode(part)
        assert vlm.encode(tiny.images(1), [text], max_tiles=1).inputs["input_ids"][0].tolist() == ids
    answer = vlm.processor.tokenizer.decode([added["<box>"], *pieces.encode("[[1, 2, 3, 4]]"), added["</box>"]])
    assert answer.replace("<box>", "").replace("</box>", "").strip() == "[[1, 2, 3, 4]]"


def test_prompt_and_ids_of_qwen(folders, copy):
    vlm = bl.load(folders["1b"], device="cpu")
    added = original.added_tokens("qwen2")
    tokenizer = vlm.processor.tokenizer
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in added} == added
    assert tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids, "no beginning token"
    assert vlm.image_token_id == added["<IMG_CONTEXT>"]
    assert vlm.model.generation_config.eos_token_id == [added["<|im_end|>"]]
    older = copy("1b")  # before added_tokens_decoder, ids were in added_tokens.json only
    settings = json.loads((older / "tokenizer_config.json").read_text())
    del settings["added_tokens_decoder"]
    original.write_json(older / "tokenizer_config.json", settings)
    again = bl.load(older, device="cpu").processor
    assert {token: again.tokenizer.convert_tokens_to_ids(token) for token in added} == added


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"template": "internlm2-chat"}, f"<|im_start|>system\n{OLD}<|im_end|><|im_start|>user\n"),
        ({"template": "Hermes-2"}, f"<|im_start|>system\n{OLD}<|im_end|><|im_start|>user\n"),
        ({"system_message": None}, f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"),
        ({"system_message": 'Say "END" {{ IMAGE }}'},
         '<|im_start|>system\nSay "END" {{ IMAGE }}<|im_end|>\n<|im_start|>user\n'),
    ],
)  # fmt: skip
def test_templates(changes, start, copy):
    folder = copy("1b")
    edit(folder, **changes)
    vlm = bl.load(folder, device="cpu")
    end = "" if "template" in changes else "\n"
    tail = f"<|im_end|>{end}<|im_start|>assistant\n"
    assert vlm.family.chat_prompt(vlm.processor, "Q", 2) == f"{start}<IMG_CONTEXT>\n<IMG_CONTEXT>\nQ{tail}"
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    given = vlm.processor.apply_chat_template(turns, tokenize=False)
    assert given == f"<|im_start|>system\nS<|im_end|>{end}<|im_start|>user\nQ<|im_end|>{end}"


def test_ends_of_an_answer(copy):
    folder, ids = copy(), original.added_tokens("internlm2")
    both = sorted([ids["<|im_end|>"], ids["<|im_start|>"]])
    assert bl.load(folder, device="cpu").model.generation_config.eos_token_id == both
    (folder / "generation_config.json").unlink()
    config = bl.load(folder, device="cpu").model.generation_config
    assert config.eos_token_id == [ids["<|im_end|>"]] and config.pad_token_id == ids["</s>"]


def test_it_locates(folders):
    vlm = bl.load(folders["8b"], device="cpu")
    images = tiny.images(2)
    with bl.capture(vlm, layers=[1], queries="last") as rows:
        grounded = vlm.locate_answers(images, ["the red cat", "the square"], max_new_tokens=4)
    assert len(grounded) == 2 and all(isinstance(g.text, str) for g in grounded)
    assert rows[1].values.shape[-1] == max(len(layout) for layout in tiny.encoded(vlm, 2).layouts)


# ------------------------------------------------------------------------------------------ what is refused
def refused(folder, words, error=ModelError, **kw):
    with pytest.raises(error, match=words) as caught:
        bl.load(folder, device="cpu", **kw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("mlp1.0.weight"), r"shard-1 has no mlp1.0.weight.*says it has"),
        (lambda t: t.update({"vision_model.encoder.layers.0.attn.qkv.lora_A": torch.ones(2)}), None),
        (lambda t: t.update({"mlp1.0.weight": torch.ones(7)}),
         r"1 weights of another shape.*mlp1.0.weight \[7\] for \[128\]"),
        (lambda t: t.update({"language_model.model.layers.1.attention.wqkv.weight": torch.ones(96, 64)}),
         r"wqkv.weight \[96, 64\] for \[128, 64\]"),
    ],
)  # fmt: skip
def test_wrong_tensors_in_a_shard(change, words, copy):
    folder = copy()
    keys = {"mlp1.0.weight", "language_model.model.layers.1.attention.wqkv.weight"}
    table = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    everything = {}
    for path in sorted(folder.glob("*.safetensors")):
        everything |= load_file(path)
        path.unlink()
    change(everything)
    for path in set(table.values()):  # as before, apart from the change
        save_file({k: v for k, v in everything.items() if table.get(k) == path}, folder / path)
    if words is None:  # a tensor the index does not list is never looked at
        check_logits(folder)
    else:
        assert keys <= table.keys()
        refused(folder, words.replace("shard-1", table["mlp1.0.weight"]))


def test_wrong_tensors_in_one_file(copy):
    folder = copy("1b")
    edit_tensors(folder, lambda t: [t.pop(f"vision_model.encoder.layers.1.{n}") for n in ("ls1", "attn.qkv.bias")])
    refused(folder, r"lacks 2 weights, such as vision_model.*1.attn.qkv.bias, vision_model.encoder.layers.1.ls1")
    edit_tensors(folder, lambda t: t.update(original.weights(original.config("qwen2"))))
    attention = "language_model.model.layers.0.self_attn"
    edit_tensors(folder, lambda t: t.update({f"{attention}.q_proj.lora_A": torch.ones(2)}))
    refused(folder, rf"has 1 unknown weights, such as {attention}.q_proj.lora_A: ")
    edit_tensors(folder, lambda t: t.pop(f"{attention}.q_proj.lora_A"))
    edit_tensors(folder, lambda t: t.update({f"{attention}.rotary_emb.inv_freq": torch.ones(8)}))
    check_logits(folder)  # a buffer old versions saved


def test_incomplete_folders(copy):
    folder = copy()
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "missing: model-00002-of-00003.safetensors: copy the whole checkpoint")
    (folder / "tokenizer.model").unlink()
    refused(folder, "missing: model-00002-of-00003.safetensors, tokenizer.model: ")
    folder = copy("1b")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    refused(folder, "missing: vocab.json, merges.txt, tokenizer_config.json: ")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    edit(folder)
    shutil.copy(folder / "config.json", folder / "tokenizer.json")
    shutil.copy(folder / "config.json", folder / "tokenizer_config.json")
    refused(folder, "the processor in .* cannot be loaded")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ps_version": "v1"}, "ps_version 'v1'"),
        ({"llm_config": {"architectures": ["Phi3ForCausalLM"]}}, "decoder Phi3ForCausalLM is not served"),
        ({"llm_config": {}}, "decoder None is not served"),
        ({"llm_config": {"architectures": ["Qwen2ForCausalLM"]}}, "no llm_config.vocab_size"),
        ({"vision_config": None}, "no vision_config"),
        ({"template": "phi3-chat"}, "unknown conversation template 'phi3-chat'"),
        ({"quantization_config": {"quant_method": "awq"}}, "is quantised"),
        ({"use_llm_lora": 16}, "not merged"),
        ({"pad2square": True}, "pad2square"),
        ({"use_thumbnail": False}, "use_thumbnail"),
        ({"force_image_size": 112}, "force_image_size 112 differs"),
        ({"force_image_size": "x"}, "the configuration in .* cannot be loaded: invalid literal"),
    ],
)
def test_configs_that_cannot_be_right(changes, words, copy):
    folder = copy("1b")
    edit(folder, **changes)
    refused(folder, words)


def test_qk_norm_of_another_epsilon(tmp_path):
    refused(original.write(tmp_path, "internlm2", vision={**TOWER_6B, "layer_norm_eps": 1e-5}), "layer_norm_eps 1e-05")


def test_tokenizers_that_do_not_belong(copy):
    folder = copy()
    ids = original.added_tokens("internlm2")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    edit(folder, "added_tokens.json", **{"<box>": 7})
    refused(folder, f"token <box> should have the id 7 and is {ids['<box>']}")
    edit(folder, "added_tokens.json", **{"<box>": ids["<box>"]})
    kept = {i: t for i, t in settings["added_tokens_decoder"].items() if t["content"] not in original.CHAT}
    edit(folder, "tokenizer_config.json", added_tokens_decoder=kept, additional_special_tokens=original.VISUAL)
    refused(folder, r"its tokenizer has no <\|im_start\|>, <\|im_end\|>")
    folder = copy("1b")
    config = json.loads((folder / "config.json").read_text())
    edit(folder, llm_config={**config["llm_config"], "vocab_size": 300})
    refused(folder, "beyond the vocabulary of 300")


@pytest.mark.parametrize("option", ["subfolder", "variant", "state_dict", "config", "key_mapping"])
def test_options_that_name_other_weights(option, folders):
    refused(folders["1b"], f"^{option} is not taken: it names other files or weights", InputError, **{option: "x"})


def test_an_unknown_option_is_named(folders):
    refused(folders["1b"], "nonsense is no setting of this model", InputError, nonsense=1)
