"""Collecting maps: against captures of single images and plain numpy; kills, resumption, bad images, bad folders."""

from __future__ import annotations

import shutil
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from biaslab.attention.capture import capture, no_rope
from biaslab.core.images import content_hash
from biaslab.datasets.calibration import PROMPT
from biaslab.datasets.image_sources import find_images
from biaslab.errors import InputError, RunFolderError
from biaslab.maps import stored
from biaslab.maps.collect import collect
from biaslab.maps.stored import StoredMaps, load_maps
from biaslab.profiles.estimators.mean import MeanProfile

NAMES = ("mean", "var", "log_mean", "log_var")


# ------------------------------------------------------------------------------------------ collect
@pytest.mark.filterwarnings("ignore:std is 0, not measured, for tile layouts")
@pytest.mark.parametrize("family", tiny.CROSSED)
@pytest.mark.parametrize("heads", ["mean", "all"])
def test_collect_equals_one_capture_per_image(family, heads, tmp_path):
    vlm, images = tiny.vlm(family), tiny.images(7)
    prompts = tiny.texts(7)  # of different lengths, so that the number of query rows differs in a batch
    kw = {"queries": "text", "prompt": prompts, "heads": heads, "batch_size": 3, "progress": False}
    stored = collect(vlm, images, layers=[1, 3], out=tmp_path / "m", **kw)
    streamed = collect(vlm, images, layers=[1, 3], **kw)
    assert stored.heads == streamed.heads == ("mean" if heads == "mean" else 4)
    for i, image in enumerate(images):
        with capture(vlm, [1, 3], queries="text") as rows:
            vlm.forward(vlm.encode([image], [prompts[i]]))
        for layer in (1, 3):
            expected = rows[layer].values[0].mean(1)
            expected = expected.mean(0, keepdim=True) if heads == "mean" else expected
            np.testing.assert_allclose(stored.image(i, layer), expected.numpy(), atol=2e-6)
        assert stored.record(i).layout.size == image.size
        assert stored.record(i).id == content_hash(image)
    for layer in (1, 3):
        for key in stored.layouts:
            a, b = stored.moments(layer, key), streamed.moments(layer, key)
            assert a.n == b.n
            for name in NAMES:
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            picks = [i for i in range(7) if stored.record(i).layout.key == key]
            assert a.n == len(picks)
            together = np.stack([stored.image(i, layer) for i in picks]).astype(np.float64)
            np.testing.assert_allclose(a.mean, together.mean(0), rtol=1e-12)
            np.testing.assert_allclose(a.var, together.var(0), rtol=1e-9, atol=1e-16)
    assert stored.provenance == streamed.provenance
    assert MeanProfile().fit(stored).hash == MeanProfile().fit(streamed).hash


def test_prompts_queries_and_scores():
    vlm, images = tiny.vlm("internvl"), tiny.images(2, sizes=[(60, 60)])

    def mean(**kw):
        maps = collect(vlm, images, layers=1, progress=False, **kw)
        return maps.provenance["prompt"], maps.moments(1, next(iter(maps.layouts))).mean

    generic = mean()
    assert generic[0] == PROMPT == "Please describe the provided image."
    assert np.array_equal(generic[1], mean(prompt=PROMPT)[1])
    where = mean(prompt="Where?")
    assert where[0] == "Where?" and not np.allclose(where[1], generic[1])
    both = mean(prompt=["Where?", PROMPT])
    assert both[0].startswith("one per image (") and not np.allclose(both[1], generic[1])
    assert both[0] != mean(prompt=[PROMPT, "Where?"])[0]
    explicit = mean(queries=torch.tensor([-1]))
    np.testing.assert_allclose(explicit[1], generic[1], rtol=1e-6)
    assert not np.allclose(mean(score=no_rope)[1], generic[1])
    maps = collect(vlm, images, layers=[-1, 1], score=no_rope, queries=torch.tensor([-1, -2]), progress=False)
    assert maps.layers == [1, 3]
    assert (maps.provenance["score"], maps.provenance["queries"]) == ("no_rope", "indices [-1, -2]")


def test_only_the_wanted_layers_run():
    vlm, images = tiny.vlm("internvl"), tiny.images(2)
    ran = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(vlm.decoder.layers)
    ]
    try:
        collect(vlm, images, layers=[0, 1], progress=False)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1]
    assert vlm.prefill.encoded is None and vlm.decoder.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in vlm.decoder.layers)


@pytest.mark.parametrize(("workers", "batches"), [(0, 1), (1, 3), (2, 3)])
def test_images_are_held_one_batch_at_a_time(workers, batches):
    """With threads, two batches ahead; one more is being drawn."""
    vlm, alive, most = tiny.vlm("llava"), [], []

    def stream():
        for image in (im for i in range(12) for im in tiny.images(1, seed=i)):
            alive.append(weakref.ref(image))
            most.append(sum(ref() is not None for ref in alive))
            yield image
            del image

    maps = collect(vlm, stream(), layers=[0], batch_size=2, progress=False, workers=workers)
    assert maps.n == 12 and max(most) <= 2 * (batches + 1)
    assert len(maps._moments) <= maps.folds, "what is kept does not grow with the images"


def test_progress_goes_to_stderr(capfd):
    collect(tiny.vlm("llava"), tiny.images(2), layers=[0])
    assert capfd.readouterr().out == ""
    collect(tiny.vlm("llava"), tiny.images(2), layers=[0], progress=False)
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------ sources and names
def save(folder, n=4):
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(tiny.images(n)):
        image.save(folder / f"{i}.png")
    return folder


def test_broken_images_are_reported_not_fatal(tmp_path):
    folder = save(tmp_path / "p")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:500])
    (folder / "2.png").write_text("no image")
    paths = [*find_images(folder), folder / "absent.png"]
    with pytest.warns(UserWarning, match="3 images skipped, the first: .*1.png cannot be read"):
        maps = collect(tiny.vlm("llava"), paths, layers=[0], out=tmp_path / "m", progress=False)
    assert maps.n == 2 and [maps.record(i).id for i in range(2)] == ["0.png", "3.png"]
    assert [name for name, _ in maps.failures] == ["1.png", "2.png", "absent.png"]
    with pytest.raises(InputError, match="no image to collect from; 1 image skipped"):
        collect(tiny.vlm("llava"), [folder / "2.png"], layers=[0], progress=False)
    with pytest.raises(InputError, match="no image to collect from"):
        collect(tiny.vlm("llava"), [], layers=[0], progress=False)


def test_names_of_images(tmp_path):
    vlm, image = tiny.vlm("llava"), tiny.images(1)[0]
    folder = save(tmp_path / "p", 1)

    def ids(images, **kw):
        maps = collect(vlm, images, layers=[0], out=tmp_path / str(len(list(tmp_path.iterdir()))), progress=False, **kw)
        return [maps.record(i).id for i in range(maps.n)]

    path = folder / "0.png"
    assert ids([path, str(path), image, image]) == [
        "0.png",
        "0.png#2",
        content_hash(image),
        f"{content_hash(image)}#2",
    ]
    method = SimpleNamespace(id="a", image_id="scene 7", image=lambda: image)
    attribute = SimpleNamespace(id="b", image=image)
    assert ids([method, attribute]) == ["scene 7", "b"]
    assert ids([image, image], ids=["x", "y"]) == ["x", "y"]


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"layers": [9]}, "layers 0 to 3"),
        ({"layers": []}, "no layer"),
        ({"ids": ["a"]}, "1 entries in ids for 2 images"),
        ({"prompt": ["a"]}, "1 entries in prompt for 2 images"),
        ({"prompt": " "}, "empty prompt"),
        ({"prompt": "see <image>"}, "must not contain the image token '<image>'"),
        ({"batch_size": 0}, "batch_size"),
        ({"folds": 1}, "folds"),
        ({"heads": "max"}, "heads must be"),
        ({"heads": None}, "write heads='all'"),
        ({"queries": "first"}, "queries must be"),
        ({"queries": torch.tensor([[-1], [-1]])}, "shape"),
    ],
)
def test_bad_arguments(kw, words):
    with pytest.raises(InputError, match=words):
        collect(tiny.vlm("llava"), tiny.images(2), progress=False, **kw)


def test_a_generator_longer_than_its_ids():
    with pytest.raises(InputError, match="ids has 1 entries"):
        collect(tiny.vlm("llava"), iter(tiny.images(2)), layers=[0], ids=["a"], progress=False)


# ------------------------------------------------------------------------------------------ resuming
def run(out, n=5, **kw):
    kw = {"layers": [0, 2], "batch_size": 1, "progress": False, **kw}
    return collect(tiny.vlm("internvl"), tiny.images(n), out=out, **kw)


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "maps"
    run(folder)
    return folder


@pytest.mark.parametrize("seed", range(12))
def test_resumes_after_a_kill_at_any_byte(finished, tmp_path, seed):
    """What a kill leaves: every file cut at some point, values never behind the index."""
    whole = contents(finished)
    folder = shutil.copytree(finished, tmp_path / "maps")
    rng = np.random.default_rng(seed)
    kept = int(rng.integers(0, len(whole["images.jsonl"]) + 1))
    complete = whole["images.jsonl"][:kept].count(b"\n")
    reference = StoredMaps(finished)
    least = 4 * sum(reference.record(i).layout.n for i in range(complete))
    (folder / "images.jsonl").write_bytes(whole["images.jsonl"][:kept])
    for name in ("layer-000.f32", "layer-002.f32"):
        (folder / name).write_bytes(whole[name][: int(rng.integers(least, len(whole[name]) + 1))])
    assert StoredMaps(folder).n == complete
    run(folder)
    assert contents(folder) == whole


def test_values_lost_behind_the_index_are_computed_again(finished, tmp_path):
    # a power cut can lose data that was written before the index
    folder = shutil.copytree(finished, tmp_path / "maps")
    path = folder / "layer-002.f32"
    path.write_bytes(path.read_bytes()[:100])
    partial = StoredMaps(folder)
    assert partial.n < 5
    run(folder)
    assert contents(folder) == contents(finished)


def test_a_full_disk_is_named_and_what_is_complete_stays(finished, tmp_path, monkeypatch):
    write, calls = stored.write_all, []

    def full(file, data):
        calls.append(1)
        if len(calls) == 6:  # the second layer of the third image
            write(file, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write(file, data)

    folder = tmp_path / "maps"
    with monkeypatch.context() as patch:
        patch.setattr(stored, "write_all", full)
        with pytest.raises(RunFolderError, match="maps: disk full; make room and run the same command again"):
            run(folder)
    sizes = {len(values) for name, values in contents(folder).items() if name.endswith(".f32")}
    assert len(sizes) == 1 and StoredMaps(folder).n == 2 and StoredMaps(folder).lost == 0
    run(folder)
    assert contents(folder) == contents(finished)


def test_damage_is_said_where_maps_are_read(finished, tmp_path, caplog):
    folder = shutil.copytree(finished, tmp_path / "maps")
    n = load_maps(folder).n
    assert not caplog.records
    layer = max(folder.glob("*.f32"))
    layer.write_bytes(layer.read_bytes()[:-4])
    assert load_maps(folder).n == n - 1
    assert "damaged: 1 image without values" in caplog.text and "`fit-bias --maps` collects" in caplog.text


def test_a_folder_without_an_image_takes_other_settings(tmp_path):
    settings = {"layers": [1], "folds": 5, "heads": "mean", "prompt": "too long"}
    StoredMaps.create(tmp_path / "maps", settings)
    assert StoredMaps.create(tmp_path / "maps", {**settings, "prompt": "short"}).settings["prompt"] == "short"


def test_interrupted_while_running(finished, tmp_path, monkeypatch):
    vlm, folder = tiny.vlm("internvl"), tmp_path / "maps"
    forward, calls = vlm.forward, []

    def stop_at_third(*args, **kw):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*args, **kw)

    monkeypatch.setattr(vlm, "forward", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    assert StoredMaps(folder).n == 2
    run(folder)
    assert contents(folder) == contents(finished)
    assert len(calls) == 6, "three before the interruption, three after: nothing is done twice"
    run(folder)
    assert len(calls) == 6, "a finished run is a no-op"


def test_more_images_append(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "maps")
    more = collect(tiny.vlm("internvl"), tiny.images(8), layers=[0, 2], out=folder, batch_size=1, progress=False)
    assert more.n == 8
    assert contents(folder)["images.jsonl"].startswith(contents(finished)["images.jsonl"])


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"layers": [0, 1]}, r"layers=\[0, 2\], not \[0, 1\]"),
        ({"prompt": "Where?"}, "prompt="),
        ({"heads": "all"}, "heads='mean', not 'all'"),
        ({"queries": "text"}, "queries='last'"),
        ({"folds": 4}, "folds=5, not 4"),
    ],
)
def test_another_runs_folder_is_refused(finished, tmp_path, kw, words):
    folder = shutil.copytree(finished, tmp_path / "maps")
    before = contents(folder)
    with pytest.raises(RunFolderError, match=words):
        run(folder, **kw)
    assert contents(folder) == before, "nothing already computed is lost"


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot write"):
        run(tmp_path / "file")
    with pytest.raises(RunFolderError, match="cannot write"):
        run(tmp_path / "file" / "below")
    with pytest.raises(RunFolderError, match="holds other files"):
        run(tmp_path)
    with pytest.raises(RunFolderError, match="no attention maps in"):
        StoredMaps(tmp_path)
    (tmp_path / "maps.json").write_text('{"format": 99}')
    with pytest.raises(RunFolderError, match="another version"):
        StoredMaps(tmp_path)
    (tmp_path / "maps.json").write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        StoredMaps(tmp_path)
    for foreign, words in (("[1]", "not of attention maps"), ('{"format": 1, "folds": 5}', "does not say layers")):
        (tmp_path / "maps.json").write_text(foreign)
        with pytest.raises(RunFolderError, match=words):
            StoredMaps(tmp_path)


def test_a_picture_the_processor_refuses_is_skipped_alone():
    vlm = tiny.vlm("qwen2_5_vl")
    pictures = [*tiny.images(2), Image.new("RGB", (2000, 3)), tiny.images(3)[2]]
    with pytest.warns(UserWarning, match="1 image skipped.*2000x3.*aspect ratio"):
        maps = collect(vlm, pictures, batch_size=4, ids=list("abcd"), progress=False)
    assert maps.n == 3 and [name for name, _ in maps.failures] == ["c"]
    with pytest.raises(InputError, match="no image to collect from; 1 image skipped"):
        collect(vlm, pictures[2:3], progress=False)


def test_attention_that_is_not_finite_costs_its_image_only():
    from biaslab.attention.scores import attention

    calls = []

    def overflowing(*args, **kw):
        calls.append(1)
        return attention(*args, **kw) * (float("nan") if len(calls) == 4 else 1)  # layer 2 of the second image

    with pytest.warns(UserWarning, match="1 image skipped, the first: attention of layer 2 is not finite"):
        maps = run(None, n=3, score=overflowing, ids=list("abc"))
    assert maps.n == 2 and [name for name, _ in maps.failures] == ["b"]
    with pytest.raises(InputError, match="no image to collect from; 1 image skipped.*not finite"):
        run(None, n=1, score=lambda *args, **kw: attention(*args, **kw) * float("inf"))


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks there")
def test_two_writers_exclude_each_other(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "maps")
    with (
        StoredMaps(folder).writing(),
        pytest.raises(RunFolderError, match="another process is writing"),
    ):
        run(folder, n=8)
    assert run(folder, n=8).n == 8
