"""A model is known by its weights: a hub copy and a folder are one, other weights under the same name are not."""

import json
import shutil
import sys
from types import ModuleType

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import biaslab as bl
from biaslab.errors import ProfileMismatchError, RunFolderError
from biaslab.models.checkpoints.fingerprint import weights_fingerprint
from biaslab.models.fingerprints import loaded_fingerprint, memory_fingerprint

HUB_ID = "somebody/tiny-internvl"
USE = {"queries": "last", "score": "attention", "heads": "mean"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint folder of the tiny InternVL."""
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tiny.vlm("internvl").model.save_pretrained(path)
    tiny.vlm("internvl").processor.save_pretrained(path)
    return path


def to_cache(folder, root, commit):
    """Lay a checkpoint into a hub cache as the hub's client does: blobs by hash, links to them in the snapshot."""
    repo = root / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    for each in (snapshot, repo / "blobs", repo / "refs"):
        each.mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    for i, path in enumerate(sorted(folder.iterdir())):
        blob = repo / "blobs" / f"{commit}{i}"
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(blob)
    return snapshot


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """The same checkpoint as a hub model, loaded without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    to_cache(folder, tmp_path / "cache", "a" * 40)
    return bl.load(HUB_ID, device="cpu")


def changed(folder, to, **tensors):
    """A copy of a checkpoint in which something was added to tensors."""
    shutil.copytree(folder, to)
    held = load_file(to / "model.safetensors")
    for name, added in tensors.items():
        (key,) = [key for key in held if key.endswith(name.replace("__", "."))]
        held[key] = (held[key] + added).contiguous()
    save_file(held, to / "model.safetensors", metadata={"format": "pt"})
    return to


def fitted(vlm):
    maps = bl.collect(vlm, tiny.images(2, [(56, 56)]), prompt="Where?", layers=[1], progress=False)
    return bl.MeanProfile().fit(maps), maps


def who(vlm):
    return {"model": vlm.name, "revision": vlm.revision, "fingerprint": vlm.fingerprint, "family": vlm.family.name}


def test_a_profile_of_a_hub_model_fits_its_copy_and_no_other_weights(hub, folder, tmp_path):
    profile, maps = fitted(hub)
    origin = profile.provenance_
    assert (origin["model"], origin["revision"]) == (HUB_ID, "a" * 40)
    assert origin["fingerprint"] == hub.fingerprint == maps.settings["fingerprint"]
    copy = bl.load(folder, device="cpu")
    assert copy.fingerprint == hub.fingerprint and copy.revision != hub.revision
    profile.check(**who(copy), **USE)
    with bl.prune(copy, bl.pruning.Relative(keep=0.5, profile=profile), layer=2):
        pass
    other = bl.load(changed(folder, tmp_path / "other", lm_head__weight=1e-3), device="cpu")
    with pytest.raises(ProfileMismatchError, match=f"fitted for model '{HUB_ID}'"):
        profile.check(**who(other), **USE)
    same_name = {**who(other), "model": HUB_ID, "revision": "a" * 40}
    with pytest.raises(ProfileMismatchError, match=f"fitted for '{HUB_ID}' with other weights: fit one"):
        profile.check(**same_name, **USE)
    # a commit later that touched no weight, such as of the README
    profile.check(**{**who(hub), "revision": "b" * 40}, **USE)


def test_files_without_a_fingerprint_are_compared_as_they_were(hub, folder):
    profile, _ = fitted(hub)
    del profile.provenance_["fingerprint"]
    profile.check(**who(hub), **USE)
    with pytest.raises(ProfileMismatchError, match="fitted for model"):
        profile.check(**who(bl.load(folder, device="cpu")), **USE)
    with pytest.raises(ProfileMismatchError, match="model revision"):
        profile.check(**{**who(hub), "revision": "b" * 40}, **USE)


def test_maps_and_runs_of_a_hub_model_go_on_with_its_copy(hub, folder, tmp_path):
    copy = bl.load(folder, device="cpu")
    other = bl.load(changed(folder, tmp_path / "other", lm_head__weight=1e-3), device="cpu")
    other.name, other.revision = hub.name, hub.revision
    pictures, scenes = tiny.images(2, [(56, 56)]), bl.load_dataset("scenes", n=2)
    collect = {"prompt": "Where?", "layers": [1], "out": tmp_path / "maps", "progress": False}
    run = {"methods": "none", "keep": 1.0, "out": tmp_path / "run", "progress": False, "max_new_tokens": 2}
    bl.collect(hub, pictures[:1], ids=["0"], **collect)
    assert bl.collect(copy, pictures, ids=["0", "1"], **collect).n == 2
    bl.evaluate(hub, scenes, n=1, **run)
    assert len(bl.evaluate(copy, scenes, **run).samples) == 2
    model = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["model"]
    assert (model["name"], model["fingerprint"]) == (HUB_ID, hub.fingerprint)
    for again in (
        lambda: bl.collect(other, pictures, ids=["0", "1"], **collect),
        lambda: bl.evaluate(other, scenes, **run),
    ):
        with pytest.raises(RunFolderError, match=r"fingerprint.*weights-"):
            again()


def test_every_tensor_counts_and_only_what_changes_answers(folder, tmp_path):
    mine = weights_fingerprint(folder)
    for i, name in enumerate(("layers__2__self_attn__v_proj__weight", "multi_modal_projector__layer_norm__weight")):
        assert weights_fingerprint(changed(folder, tmp_path / str(i), **{name: 1e-3})) != mine
    copy = shutil.copytree(folder, tmp_path / "sharded")
    tiny.vlm("internvl").model.save_pretrained(copy, max_shard_size="100KB")
    (copy / "model.safetensors").unlink()
    shutil.copyfile(folder / "model.safetensors", copy / "left-over.safetensors")  # not in the index: not loaded
    config = json.loads((copy / "config.json").read_text())
    config |= {"transformers_version": "0", "_name_or_path": "elsewhere"}
    (copy / "config.json").write_text(json.dumps(config, indent=4))
    assert len(list(copy.glob("model-*.safetensors"))) > 2 and weights_fingerprint(copy) == mine
    config["text_config"]["rms_norm_eps"] = 1e-3
    (copy / "config.json").write_text(json.dumps(config))
    assert weights_fingerprint(copy) != mine
    assert loaded_fingerprint(folder, {"load_in_4bit": True}) not in (mine, loaded_fingerprint(folder, {"bits": 8}))
    assert weights_fingerprint(tmp_path) is None
    (copy / "model-00001-of-00002.safetensors").write_bytes(b"\xff" * 9)
    (copy / "model.safetensors").write_bytes(b"\xff" * 9)
    assert weights_fingerprint(copy) is None  # loading says what is wrong


def test_a_changed_page_is_seen_at_the_start_the_middle_and_the_end_of_a_large_tensor(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    seen = set()
    for at in (None, 0, 2**15, 2**16 - 1):
        values = torch.zeros(2**16)
        if at is not None:
            values[at] = 1
        save_file({"a": values}, tmp_path / "model.safetensors")
        seen.add(weights_fingerprint(tmp_path))
    assert len(seen) == 4


def test_wrapped_models_of_one_name_differ_by_their_weights():
    base, merged = tiny.build("internvl"), tiny.build("internvl")
    assert memory_fingerprint(base) == memory_fingerprint(merged)
    attention = merged.get_decoder().layers[1].self_attn
    with torch.no_grad():
        attention.q_proj.weight += 1e-3 * torch.randn(attention.q_proj.weight.shape)
    processor = tiny.processor("internvl")
    mine, other = (bl.wrap(model, processor, name="mine", revision="1") for model in (base, merged))
    profile, _ = fitted(mine)
    profile.check(**who(mine), **USE)
    with pytest.raises(ProfileMismatchError, match="'mine' with other weights"):
        profile.check(**who(other), **USE)
    half = bl.wrap(tiny.build("internvl").bfloat16(), processor, name="mine", revision="1")
    profile.check(**who(half), **USE)  # rounded values cannot be compared: by the name, as far as that goes
    with torch.device("meta"):
        assert memory_fingerprint(torch.nn.Linear(2, 2)) is None


def test_an_adapter_is_another_model_than_its_base(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("biaslab.models.loading.with_adapter", lambda model, _: model)  # PEFT is not needed for names
    monkeypatch.setitem(sys.modules, "peft", ModuleType("peft"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()

    def fingerprint(value, base):
        save_file({"lora_A": torch.full((2, 2), value)}, adapter / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(base)}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        return bl.load(adapter, device="cpu").fingerprint

    mine = fingerprint(1.0, folder)
    assert mine.startswith("weights-") and mine.endswith(f" on {weights_fingerprint(folder)}")
    assert fingerprint(1.0, shutil.copytree(folder, tmp_path / "moved")) == mine
    assert fingerprint(2.0, folder) != mine
    assert fingerprint(1.0, changed(folder, tmp_path / "other", lm_head__weight=1e-3)) != mine
