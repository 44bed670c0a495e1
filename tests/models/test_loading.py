"""Names, checkpoint folders and what is wrong with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import tiny
import torch

from biaslab.errors import InputError, ModelError, UnsupportedError
from biaslab.models import aliases, load, resolve, wrap
from biaslab.models.checkpoints.files import missing_files
from biaslab.models.devices import chosen_dtype

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


# ------------------------------------------------------------------------------------------ names
def test_listing_models_needs_no_torch():
    code = "import sys; from biaslab.models import known_models; print(len(known_models()), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(len(aliases())), "False"]


def test_aliases_resolve():
    table = aliases()
    assert {"grounder", "observer", "internvl3-8b", "internvl2.5-8b-mpo", "llava-1.5-7b", "qwen2.5-vl-3b"} <= set(table)
    for name, hub_id in table.items():
        if hub_id != "embedded":
            assert resolve(name).hub_id == hub_id == resolve(hub_id).hub_id
    assert resolve("InternVL3-1B").name == "OpenGVLab/InternVL3-1B-hf"
    assert resolve("internvl2.5").hub_id == resolve("internvl2.5-8b").hub_id == "OpenGVLab/InternVL2_5-8B"
    assert {table[f"internvl2.5-{s.lower()}"] for s in ("1B", "2B", "4B", "26B")} == {
        f"OpenGVLab/InternVL2_5-{s}" for s in ("1B", "2B", "4B", "26B")
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("internv3-8b", "did you mean internvl3-8b"),
        ("lava-1.5-7b", "llava-1.5-7b"),
        ("zzzz", "`biaslab models` lists the aliases"),
        ("./no/such/folder", "no alias, folder or hub id"),
        ("", "unknown model"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(InputError, match=words):
        load(name)


def test_a_missing_hub_model_is_one_line_with_the_command(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    def nothing(*_, **kw):
        raise LocalEntryNotFoundError("not cached\nsecond line")

    def offline(*_, **kw):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    for name, hub_id in [("internvl3-1b", "OpenGVLab/InternVL3-1B-hf"), ("internvl2.5", "OpenGVLab/InternVL2_5-8B")]:
        with pytest.raises(ModelError) as caught:
            load(name, revision="v1")
        assert f"`hf download {hub_id} --revision v1`" in str(caught.value)
        assert "\n" not in str(caught.value) and caught.value.__cause__ is None


def test_a_download_brings_all_that_an_original_checkpoint_needs():
    from fnmatch import fnmatch

    from biaslab.models.checkpoints.files import PATTERNS

    needed = ["config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.model",
              "vocab.json", "model-00001-of-00004.safetensors", "merges.txt", "tokenizer_config.json",
              "added_tokens.json"]  # fmt: skip
    assert all(any(fnmatch(name, pattern) for pattern in PATTERNS) for name in needed)
    assert not any(fnmatch(name, pattern) for pattern in PATTERNS for name in ("modeling_internvl_chat.py", "x.bin"))


# ------------------------------------------------------------------------------------------ folders
@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoint folders as a user would have them, one per family."""
    folders = {}
    for family in tiny.FAMILIES:
        folders[family] = tmp_path_factory.mktemp("saved") / family
        tiny.vlm(family).model.save_pretrained(folders[family])
        tiny.vlm(family).processor.save_pretrained(folders[family])
    return folders


@each_family
def test_load_a_folder(family, saved, capfd):
    vlm = load(str(saved[family]), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert vlm.name == str(saved[family]) and vlm.revision.startswith("local-")
    assert (vlm.n_layers, vlm.device.type, vlm.family.name) == (4, "cpu", family)
    original = tiny.vlm(family)
    enc, same = tiny.encoded(vlm, 3), tiny.encoded(original, 3)
    assert [a.key for a in enc.layouts] == [b.key for b in same.layouts]
    assert torch.equal(vlm.forward(enc).logits, original.forward(same).logits)
    assert "torchvision" not in sys.modules


def test_a_folder_has_one_name_however_it_is_given(saved, monkeypatch):
    folder = saved["internvl"]
    monkeypatch.chdir(folder.parent)
    for given in ("internvl", "./internvl/", f"../{folder.parent.name}/internvl", folder):
        assert resolve(given).name == str(folder)
    assert load("internvl", device="cpu").name == str(folder)


def test_a_single_file_goes_before_an_index(saved, tmp_path):
    """An index without its shards may be left over beside a merged file, which transformers reads."""
    folder = shutil.copytree(saved["internvl"], tmp_path / "merged")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    assert missing_files(folder) == [] and load(folder, device="cpu").n_layers == 4
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match=r"missing: model\.safetensors\.index\.json"):
        load(folder)
    for garbled in ("[]", '{"weight_map": {"a": 3}}', "{"):
        (folder / "model.safetensors.index.json").write_text(garbled)
        assert missing_files(folder) == ["a readable model.safetensors.index.json"]


def test_revision_names_the_weights(saved, tmp_path):
    a = load(saved["internvl"], device="cpu").revision
    assert load(saved["internvl"], device="cpu").revision == a
    changed = tiny.build("internvl")
    with torch.no_grad():
        changed.lm_head.weight += 1
    changed.save_pretrained(tmp_path)
    tiny.processor("internvl").save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").revision != a


def test_sharded_folder_lacking_a_shard(tmp_path):
    tiny.build("internvl").save_pretrained(tmp_path, max_shard_size="100KB")
    tiny.processor("internvl").save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").n_layers == 4
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=f"missing: {shard.name}"):
        load(tmp_path)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_incomplete_folders(saved, tmp_path):
    def copy(name):
        return shutil.copytree(saved["internvl"], tmp_path / name)

    with pytest.raises(ModelError, match="no config.json"):
        load(tmp_path)
    folder = copy("bare")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="missing: model.safetensors"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled"):
        load(folder)
    folder = copy("deeper")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    layers = {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}
    edit_config(folder, text_config={**text, **layers})
    with pytest.raises(ModelError, match="lacks 12 weights, such as model.language_model.layers.4"):
        load(folder)
    folder = copy("cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="model in .* cannot be loaded") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    folder = copy("wider")
    edit_config(folder, text_config={**text, "hidden_size": 80})
    with pytest.raises(ModelError, match="model in .* cannot be loaded"):
        load(folder)
    folder = copy("garbled")
    assert missing_files(folder) == []
    (folder / "config.json").write_text("{")
    assert missing_files(folder) == ["a readable config.json"]
    with pytest.raises(ModelError, match="config.json cannot be read"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="config.json holds no configuration"):
        load(folder)
    folder = copy("mistyped")
    edit_config(folder, text_config={**text, "hidden_act": 0})
    with pytest.raises(ModelError, match="in .* cannot be loaded: Validation error for field 'hidden_act': TypeError"):
        load(folder)
    folder = copy("half-original")
    edit_config(folder, model_type="internvl_chat")
    with pytest.raises(ModelError, match="no vision_config or no llm_config"):
        load(folder)
    folder = copy("other")
    edit_config(folder, model_type="bert")
    with pytest.raises(UnsupportedError, match="no adapter for model type 'bert'.*internvl"):
        load(folder)
    folder = copy("tokenless")
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (folder / name).unlink()
    assert missing_files(folder) == ["preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
    with pytest.raises(ModelError, match="missing: preprocessor_config.json, tokenizer.json, tokenizer_config.json"):
        load(folder)
    folder = copy("unprocessed")
    (folder / "processor_config.json").write_text("{")
    with pytest.raises(ModelError, match="processor in .* cannot be loaded") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_half_precision_on_a_cpu(saved, tmp_path):
    half = shutil.copytree(saved["internvl"], tmp_path / "half")
    tiny.build("internvl").half().save_pretrained(half)
    assert load(half, device="cpu").model.dtype == torch.float32
    assert load(half, device="cpu", dtype="float16").model.dtype == torch.float16
    assert load(half, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert chosen_dtype("auto", half, torch.device("cuda")) == "auto", "on a GPU the checkpoint's own type stays"


def test_bad_load_arguments(saved):
    folder = saved["internvl"]
    for kw, words in [
        ({"device": "quantum"}, "unknown device"),
        ({"device": "xpu:7"}, "no device 'xpu:7' here: use device='cpu'"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"dtype": "float99"}, "unknown dtype"),
        ({"device": "cpu", "device_map": "auto"}, "not both"),
        ({"revision": "main"}, "is a folder"),
    ]:
        with pytest.raises(InputError, match=words):
            load(folder, **kw)
    with pytest.raises(InputError, match="is a file"):
        load(folder / "config.json")


def test_wrap_checks_the_pair():
    model = tiny.vlm("internvl").model
    with pytest.raises(InputError, match="not the tokenizer"):
        wrap(model, tiny.tokenizer("internvl"))
    with pytest.raises(ModelError, match="disagree on the image token"):
        wrap(model, tiny.processor("llava"))
    assert wrap(model, tiny.processor("internvl"), name="mine").name == "mine"


def test_processor_keeps_its_stock_name(saved):
    config = json.loads((saved["qwen2_5_vl"] / "processor_config.json").read_text())
    assert config["processor_class"] == "Qwen2_5_VLProcessor"
