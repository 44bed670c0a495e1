"""Images of a collection prepared ahead: maps, failures and their order are those of none ahead, bit by bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tiny
from PIL import Image

from biaslab.errors import InputError
from biaslab.maps.collect import collect
from biaslab.maps.stored import load_maps


def pictures(folder):
    """Eleven, of which two are no images, one is too narrow for the family, and one has no name."""
    paths = []
    for i, image in enumerate(tiny.images(10)):
        paths.append(folder / f"{i}.png")
        image.save(paths[-1])
    paths[3].write_bytes(b"no picture")
    paths[8].unlink()
    Image.new("RGB", (1500, 3)).save(paths[5])
    return [*paths, []]


@pytest.mark.parametrize("heads", ["mean", "all"])
def test_the_maps_are_the_same(heads, tmp_path):
    vlm, found = tiny.vlm("qwen2_5_vl"), {}
    images = pictures(tmp_path)
    for workers in (0, 1, 3):
        with pytest.warns(UserWarning, match="4 images skipped"):
            maps = collect(
                vlm, iter(images), layers=[1, 3], heads=heads, out=tmp_path / str(workers), batch_size=3,
                progress=False, workers=workers,
            )  # fmt: skip
        assert [name for name, _ in maps.failures] == ["3.png", "5.png", "8.png", "10"]
        found[workers] = maps
    for workers in (1, 3):
        for a, b in zip((tmp_path / "0").iterdir(), (tmp_path / str(workers)).iterdir(), strict=True):
            assert a.name == b.name and a.read_bytes() == b.read_bytes()
        assert found[workers].failures == found[0].failures
    assert load_maps(tmp_path / "3").n == 7


def test_what_a_generator_raises_comes_after_the_images_before_it(tmp_path):
    def stream():
        yield from tiny.images(4)
        assert threading.current_thread() is threading.main_thread()
        raise OSError("the disk is gone")

    for workers in (0, 2):
        with pytest.raises(OSError, match="the disk is gone"):
            collect(
                tiny.vlm("llava"), stream(), layers=[0], out=tmp_path / str(workers), batch_size=2, progress=False,
                workers=workers,
            )  # fmt: skip
        assert load_maps(tmp_path / str(workers)).n == 4


def test_an_unforeseen_error_of_a_picture_ends_it_in_its_turn(tmp_path):
    class Torn:
        id = "torn"

        def image(self):
            raise RuntimeError("torn")

    images = [*tiny.images(4), Torn(), *tiny.images(2)]
    for workers in (0, 2):
        with pytest.raises(RuntimeError, match="torn"):
            collect(
                tiny.vlm("llava"), images, layers=[0], out=tmp_path / str(workers), batch_size=2, progress=False,
                workers=workers,
            )  # fmt: skip
        assert load_maps(tmp_path / str(workers)).n == 4


def test_ids_that_run_out_are_refused_in_their_turn():
    with pytest.raises(InputError, match="ids has 2 entries and there are more images"):
        collect(tiny.vlm("llava"), iter(tiny.images(3)), layers=[0], ids=["a", "b"], progress=False, batch_size=1)


def test_streamed_moments_are_the_same():
    kw = {"layers": [2], "prompt": tiny.texts(6), "batch_size": 2, "progress": False}
    maps = {workers: collect(tiny.vlm("internvl"), tiny.images(6), workers=workers, **kw) for workers in (0, 2)}
    for key in maps[0].layouts:
        a, b = (maps[workers].moments(2, key) for workers in (0, 2))
        assert np.array_equal(a.mean, b.mean) and a.n == b.n


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_is_asked_several_times_is_opened_once_a_batch(workers, tmp_path):
    opened = []

    class Picture:
        def __init__(self, name, image):
            self.id, self._image = name, image

        def image(self):
            opened.append(self.id)
            return self._image

    first, second = (Picture(name, image) for name, image in zip("ab", tiny.images(2), strict=True))
    maps = collect(
        tiny.vlm("llava"), [first, first, first, second, second], prompt=tiny.texts(5)[:4] + ["once more"], layers=[1],
        batch_size=4, out=tmp_path / "maps", progress=False, workers=workers,
    )  # fmt: skip
    assert sorted(opened) == ["a", "b", "b"]  # b is in two batches
    assert [maps.record(i).id for i in range(5)] == ["a", "a#2", "a#3", "b", "b#2"]
    one_by_one = collect(
        tiny.vlm("llava"), [p.image() for p in (first, first, first, second, second)], ids=list("abcde"),
        prompt=tiny.texts(5)[:4] + ["once more"], layers=[1], batch_size=4, out=tmp_path / "alone", progress=False,
    )  # fmt: skip
    for i in range(5):
        np.testing.assert_array_equal(maps.image(i, 1), one_by_one.image(i, 1))
