"""Streamed moments go on after an interruption, and fit-bias with them."""

import json

import numpy as np
import pytest
import tiny
from commands import run as command
from PIL import Image

from biaslab.errors import InputError, RunFolderError
from biaslab.maps.collect import collect
from biaslab.models.vlm import VLM
from biaslab.scenes import scene

N = 7


def pictures(n=N):
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (128, 64)]  # two tilings
    return [Image.fromarray(rng.integers(0, 256, (*sizes[i % 2][::-1], 3), dtype=np.uint8)) for i in range(n)]


def collected(vlm, checkpoint=None, images=None, **options):
    images = pictures() if images is None else images
    options = {"batch_size": 2, "progress": False, "heads": "all", **options}
    return collect(vlm, images, checkpoint=checkpoint, ids=[str(i) for i in range(len(images))], **options)


def same(a, b):
    assert a.n == b.n and a.provenance == b.provenance and list(a.layouts) == list(b.layouts)
    for key in a.layouts:
        for layer in a.layers:
            for fold in range(a.folds):
                one, other = (m.moments(layer, key, fold=fold) for m in (a, b))
                assert one.n == other.n
                for name in ("mean", "var", "log_mean", "log_var"):
                    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_interrupted_anywhere_it_ends_at_the_same_moments(at, tmp_path, monkeypatch):
    vlm, file = tiny.vlm("internvl"), tmp_path / "a.partial"
    whole = collected(vlm)
    forward, calls = vlm.forward, []

    def stop(*args, **kw):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return forward(*args, **kw)

    monkeypatch.setattr(vlm, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        collected(vlm, file)
    assert file.exists() == (at > 1)
    again = collected(vlm, file)
    assert len(calls) == 5, "four batches and the one that was interrupted: nothing is done twice"
    same(again, whole)
    collected(vlm, file)
    assert len(calls) == 5, "all is there"
    again.discard()
    assert not file.exists() and not list(tmp_path.iterdir())


def test_interrupted_between_moments_and_count_nothing_counts_twice(tmp_path, monkeypatch):
    vlm, file = tiny.vlm("internvl"), tmp_path / "a.partial"
    whole = collected(vlm)
    from biaslab.maps.base import AttentionMaps

    count, calls = AttentionMaps._count, []

    def stop(self, *args):
        calls.append(1)
        if len(calls) == 4:  # the second image of the second batch: its moments are in, its id is not
            raise KeyboardInterrupt
        count(self, *args)

    monkeypatch.setattr(AttentionMaps, "_count", stop)
    with pytest.raises(KeyboardInterrupt):
        collected(vlm, file)
    monkeypatch.undo()
    same(collected(vlm, file), whole)


def test_a_collection_without_an_image_leaves_no_file(tmp_path, monkeypatch):
    vlm = tiny.vlm("internvl")
    monkeypatch.setattr(vlm, "prepare", lambda *_, **__: (_ for _ in ()).throw(InputError("too long")))
    with pytest.raises(InputError, match="no image to collect from"):
        collected(vlm, tmp_path / "a.partial")
    assert not list(tmp_path.iterdir())


def test_files_of_other_collections_and_damaged_ones_are_refused(tmp_path):
    vlm, file = tiny.vlm("internvl"), tmp_path / "a.partial"
    collected(vlm, file)
    with pytest.raises(RunFolderError, match="another heads"):
        collected(vlm, file, heads="mean")
    with pytest.raises(RunFolderError, match="another number of images"):
        collected(vlm, file, images=pictures(4))
    with pytest.raises(InputError, match="resume by themselves"):
        collected(vlm, file, out=tmp_path / "maps")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RunFolderError, match="delete it"):
        collected(vlm, file)


def test_states_are_written_now_and_then(tmp_path, monkeypatch):
    from biaslab.maps import checkpointed as mapcheckpoint

    monkeypatch.setattr(mapcheckpoint, "_EVERY", 0.0)
    monkeypatch.setattr(mapcheckpoint, "_SHARE", 0)
    vlm, file, seen = tiny.vlm("internvl"), tmp_path / "a.partial", []
    write = mapcheckpoint.ResumableMaps._write
    monkeypatch.setattr(mapcheckpoint.ResumableMaps, "_write", lambda self: (write(self), seen.append(file.exists())))
    collected(vlm, file)
    assert len(seen) == 5 and all(seen)  # four batches and the end


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(8):
        scene("calibration", i).image.resize((224 + 16 * (i % 3), 224)).save(folder / f"{i:02d}.jpg", quality=90)
    (folder / "05.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("grounder_at_hand")
def test_fit_bias_auto_goes_on_after_interrupts_and_skips_a_broken_picture(capsys, photographs, tmp_path, monkeypatch):
    arguments = ["fit-bias", "--images", photographs, "--estimator", "auto", "--batch-size", 1, "--json"]
    arguments += ["--layers", "1,3"]
    status, out, err = command(capsys, *arguments, "--out", tmp_path / "whole.safetensors")
    assert status == 0, err
    whole = json.loads(out)
    assert whole["n"] == 7 and whole["failures"][0][0] == "05.jpg" and "1 image skipped" in err
    for kept in (False, True):  # moments beside the profile, or a folder of maps
        with monkeypatch.context() as patch:
            _goes_on(kept, whole, arguments, capsys, tmp_path / f"kept {kept}", patch)


def _goes_on(kept, whole, arguments, capsys, tmp_path, monkeypatch):
    """The command ends at the ``whole`` run's profile after two interrupts."""
    tmp_path.mkdir()
    mine, calls, forward = tmp_path / "mine.safetensors", [], VLM.forward

    def stop(self, *args, **kw):
        calls.append(1)
        if len(calls) in (3, 7):
            raise KeyboardInterrupt
        return forward(self, *args, **kw)

    monkeypatch.setattr(VLM, "forward", stop)
    arguments = [*arguments, "--out", mine, *(["--maps", tmp_path / "maps"] if kept else [])]
    for _ in range(2):
        status, _, err = command(capsys, *arguments)
        assert status == 130 and "the same command goes on" in err
    status, out, err = command(capsys, *arguments)
    assert status == 0 and len(calls) == 7 + 2, err
    resumed = json.loads(out)
    assert resumed == {**whole, "files": resumed["files"]}  # the profile's hash included
    assert not mine.with_suffix(".partial").exists()
