"""Profiles read from the hub: the real client and a hub that is a folder; and its cache, without a network."""

import socket

import fake_hub
import pytest

import biaslab as bl
from biaslab.errors import BiaslabError, InputError
from biaslab.maps.simulate import simulate
from biaslab.profiles import MeanProfile, save
from biaslab.profiles.hub import HubName

LAYOUT = bl.TokenLayout.raster(4, 4, size=(56, 56), family="demo")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """Two profiles of one kind, and the bytes of their files."""
    folder = tmp_path_factory.mktemp("profiles")
    fitted = [MeanProfile().fit(simulate("u-shaped", {LAYOUT: 60}, seed=seed).maps) for seed in (0, 1)]
    return [(profile, save(profile, folder / f"{i}").read_bytes()) for i, profile in enumerate(fitted)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = fake_hub.FakeHub(tmp_path / "hub")
    with fake_hub.serving(hub) as address:
        fake_hub.use(hub, address, monkeypatch, tmp_path / "cache")
        yield hub


def said(*arguments, **options):
    """Return the one line with which a profile is refused."""
    with pytest.raises(BiaslabError) as caught:
        bl.load_profile(*arguments, **options)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is None
    return str(caught.value)


def test_a_profile_is_read_by_name_at_a_branch_a_commit_and_as_it_is_now(hub, profiles):
    (first, one), (second, two) = profiles
    old = hub.put("me/bias", {"profile.safetensors": one})
    assert bl.load_profile("me/bias").hash == first.hash
    hub.put("me/bias", {"profile.safetensors": two})
    hub.put("me/bias", {"profile.safetensors": one}, revision="v1")
    assert bl.load_profile("me/bias").hash == second.hash  # not the copy of before
    assert bl.load_profile("me/bias", revision="v1").hash == first.hash == bl.load_profile("me/bias@v1").hash
    assert bl.load_profile(f"me/bias@{old}").hash == first.hash


def test_what_the_hub_does_not_have_is_one_line(hub, profiles, monkeypatch):
    content = {"profile.safetensors": profiles[0][1]}
    for repo, files in (("me/bias", content), ("me/weights", {"model.safetensors": b""}), ("me/gated", content)):
        hub.put(repo, files)
    hub.private.add("me/bias")
    hub.gated.add("me/gated")
    assert bl.load_profile("me/bias").hash == profiles[0][0].hash  # its owner
    with pytest.raises(InputError, match="has no revision 'v9': name a branch, a tag or a commit as me/bias@main"):
        bl.load_profile("me/bias@v9")
    assert "holds no profile.safetensors" in said("me/weights")
    assert "no file me/none here, and no such repository on the hub, or a private one" in said("me/none")
    assert "ask for access on its page" in said("me/gated")
    fake_hub.use(hub, hub.address, monkeypatch, hub.folder.parent / "other-cache", token=None)
    assert "or a private one" in said("me/bias") and "hf auth login" in said("me/bias")
    assert bl.load_profile("me/bias", token=fake_hub.TOKEN).hash == profiles[0][0].hash
    assert "no repository of the hub (Cannot have --" in said("me/a--b").replace("can be ", "")


def test_what_the_hub_has_is_checked_like_a_file(hub, profiles):
    hub.put("me/cut", {"profile.safetensors": profiles[0][1][:200]})
    assert "not a whole one" in said("me/cut")
    hub.put("me/pickle", {"profile.safetensors": b"\x80\x04K\x01."})
    assert "is not a safetensors file" in said("me/pickle")


def test_without_a_network_the_copy_is_read(tmp_path, monkeypatch, profiles):
    """The layout of the client's cache, as a machine with a network leaves it; nothing answers."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("no network is asked"))
    commit = "a" * 40
    top = tmp_path / "cache" / "models--me--bias"
    (top / "refs").mkdir(parents=True)
    (top / "refs" / "main").write_text(commit)
    (top / "snapshots" / commit).mkdir(parents=True)
    (top / "snapshots" / commit / "profile.safetensors").write_bytes(profiles[0][1])
    fake_hub.use(None, "http://127.0.0.1:9", monkeypatch, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("me/bias", f"me/bias@{commit}"):
        assert bl.load_profile(name).hash == profiles[0][0].hash
    line = said("me/other@v1")
    assert "`hf download me/other profile.safetensors --revision v1` where there is a network" in line


def test_an_unreachable_hub_is_one_line_and_the_copy_is_read(hub, profiles, monkeypatch, tmp_path):
    hub.put("me/bias", {"profile.safetensors": profiles[0][1]})
    bl.load_profile("me/bias")
    fake_hub.use(hub, "http://127.0.0.1:9", monkeypatch, tmp_path / "cache")  # nobody listens there
    assert bl.load_profile("me/bias").hash == profiles[0][0].hash
    assert "the hub cannot be reached: run `hf download me/none profile.safetensors`" in said("me/none")


def test_what_is_here_goes_first(hub, profiles, tmp_path, monkeypatch):
    (first, one), (second, two) = profiles
    hub.put("runs/bias", {"profile.safetensors": one})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    save(second, "runs/bias")
    assert said("runs/bias") == "no profile at runs/bias: did you mean runs/bias.safetensors?"
    (tmp_path / "runs" / "bias").write_bytes(two)
    asked = len(hub.asked)
    assert bl.load_profile("runs/bias").hash == second.hash and len(hub.asked) == asked
    (tmp_path / "runs" / "bias").unlink()
    (tmp_path / "runs" / "bias.safetensors").unlink()
    assert bl.load_profile("runs/bias").hash == first.hash
    folder = tmp_path / "downloaded"  # by `hf download me/bias --local-dir downloaded`
    folder.mkdir()
    assert "a folder without profile.safetensors" in said(folder)
    (folder / "profile.safetensors").write_bytes(two)
    assert bl.load_profile(folder).hash == bl.load_profile("downloaded").hash == second.hash
    assert "is on this machine" in said(folder, revision="v1")


@pytest.mark.parametrize("name", ["bias", "a/b/c", "me/bias.safetensors", "/me/bias", "../me/bias", "me/bias@", "~/x"])
def test_other_names_are_files(name):
    assert HubName.read(name) is None


def test_a_revision_is_said_once():
    with pytest.raises(InputError, match="say it once"):
        HubName.read("me/bias@v1", "v2")
