"""Moments on a device: against single images in numpy; kept there, moved for room, interrupted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from devices import checked, spread

from biaslab.maps import device_moments, streamed
from biaslab.maps.collect import collect
from biaslab.maps.device_moments import DeviceMoments, device_of_moments, on_host, room_for_moments
from biaslab.maps.moments import Moments

NAMES = ("mean", "var", "log_mean", "log_var")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])


def one_by_one(images) -> Moments:
    total = Moments.empty(tuple(images[0].shape))
    for image in images:
        total = total.merge(Moments.of(image.cpu().numpy()))
    return total


def assert_close(got: Moments, want: Moments, rtol=1e-12):
    assert got.n == want.n
    for name in NAMES:
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=rtol, atol=1e-15, err_msg=name)


@DEVICES
@pytest.mark.parametrize("part", [1, 100, 2**22])
@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (4, 5), (1, 6, 2)])
def test_equal_to_single_images(device, part, sizes, monkeypatch):
    monkeypatch.setattr(device_moments, "_PART", part)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.dirichlet(np.ones(13), (9, 3, 4)).astype(np.float32))
    images[:, 1, 2] = 0.1  # does not vary over the tokens
    images = images.to(device)
    total, start = DeviceMoments.of(Moments.empty((3, 4, 13)), device), 0
    for size in sizes:
        before = total.mean.clone(), total.var.clone()
        after = total.plus(list(images[start : start + size]))
        assert torch.equal(total.mean, before[0]) and torch.equal(total.var, before[1]), "a state that was kept stays"
        total, start = after, start + size
    assert_close(total.moments(), one_by_one(images))
    assert (total.moments().log_mean[1, 2] == 0).all() and (total.moments().log_var[1, 2] == 0).all()
    at_once = DeviceMoments.of(Moments.empty((3, 4, 13)), device).plus(list(images))
    assert torch.equal(total.mean, at_once.mean) and torch.equal(total.var, at_once.var), "however they are batched"


def test_a_part_of_the_moments_and_back():
    images = torch.rand(3, 2, 4, 5, generator=torch.manual_seed(0))
    moments = DeviceMoments.of(one_by_one(images[:2]), "cpu").plus([images[2]])
    assert_close(moments.moments(), one_by_one(images))
    assert_close(moments.moments(1), one_by_one(images)[1])
    again = DeviceMoments.of(moments.moments(), "cpu")
    assert torch.equal(again.mean, moments.mean) and torch.equal(again.var, moments.var)
    assert moments.nbytes == 4 * 2 * 4 * 5 * 8


def test_spreads_far_below_the_level_do_not_cancel():
    images = 1 + 1e-6 * torch.randn(2000, 1, 4, generator=torch.manual_seed(0), dtype=torch.float64)
    total = DeviceMoments.of(Moments.empty((1, 4)), "cpu").plus(list(images))
    np.testing.assert_allclose(total.moments().var, images.numpy().var(0), rtol=1e-8)


def test_a_device_without_float64_is_left():
    assert device_of_moments(torch.device("cuda", 2)) == torch.device("cuda", 2)
    assert device_of_moments(torch.device("xpu")) == device_of_moments(torch.device("mps")) == torch.device("cpu")


@CUDA
def test_a_gpu_has_room_for_moments():
    assert 0 < room_for_moments(torch.device("cuda")) < torch.cuda.get_device_properties(0).total_memory / 8


# ------------------------------------------------------------------------------------------ collect
def pictures():
    return tiny.images(7)  # of several shapes, so that a batch has several layouts


def collected(vlm, **options):
    ids = [str(i) for i in range(7)]
    return collect(vlm, pictures(), batch_size=3, heads="all", ids=ids, folds=2, progress=False, **options)


@pytest.fixture
def on_devices(monkeypatch):
    """Devices that pass for ones with float64: ``seen`` has the moments in the order in which they were made."""
    monkeypatch.setattr(device_moments, "_FLOAT64", frozenset({"cpu", "meta"}))
    state = SimpleNamespace(room=2**30, seen=[], devices=[])
    monkeypatch.setattr(streamed, "room_for_moments", lambda device: state.room)
    plus = DeviceMoments.plus

    def seen(self, images):
        after = plus(self, images)
        assert {image.device for image in images} == {after.mean.device} == {after.var.device}
        state.seen.append(after)
        return after

    monkeypatch.setattr(DeviceMoments, "plus", seen)
    return state


def assert_same(got, want, *, exactly):
    assert got.provenance == want.provenance and list(got.layouts) == list(want.layouts)
    for key in want.layouts:
        for layer in want.layers:
            for fold in range(want.folds):
                a, b = (maps.moments(layer, key, fold=fold) for maps in (got, want))
                assert_close(a, b, rtol=0 if exactly else 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("room", [2**30, 0, 20_000], ids=["room", "no room", "little room"])
def test_maps_are_added_where_they_lie(on_devices, room, monkeypatch):
    vlm = tiny.vlm("internvl")
    on_devices.room = room
    with spread(vlm) as devices, checked():
        got = collected(vlm)
        seen = len(on_devices.seen)
        monkeypatch.setattr(device_moments, "_FLOAT64", frozenset({"cpu"}))
        want = collected(vlm)
        assert len(on_devices.seen) == seen > 0, "without float64 the maps come to the CPU"
    assert {moments.mean.device for moments in on_devices.seen} == {devices[0]}
    assert all(isinstance(moments, Moments) for moments in got._moments.values()), "on the CPU at the end"
    assert len(want.layouts) > 1
    assert_same(got, want, exactly=False)


@pytest.mark.slow
def test_what_does_not_fit_leaves_the_device_and_comes_back(on_devices):
    vlm = tiny.vlm("internvl")
    with spread(vlm), checked():
        stays = collected(vlm)
        sizes = {moments.nbytes for moments in on_devices.seen}
        on_devices.room = max(sizes)
        maps, held = [], []
        make_room = streamed.StreamedMaps._make_room

        def watched(self, key, after, device):
            make_room(self, key, after, device)
            others = [m for k, m in self._moments.items() if isinstance(m, DeviceMoments) and k != key]
            held.append(after.nbytes + sum(m.nbytes for m in others))
            maps.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streamed.StreamedMaps, "_make_room", watched)
            moved = collected(vlm)
    assert max(held) <= on_devices.room and len(held) > len(moved._moments)
    assert_same(moved, stays, exactly=True)


@pytest.mark.slow
def test_an_interrupted_collection_on_a_device_ends_at_the_same_moments(on_devices, tmp_path, monkeypatch):
    vlm, file, calls = tiny.vlm("internvl"), tmp_path / "a.partial", []
    with spread(vlm), checked():
        whole = collected(vlm)
        forward = vlm.forward

        def stop(*args, **kw):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return forward(*args, **kw)

        monkeypatch.setattr(vlm, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            collected(vlm, checkpoint=file)
        assert file.exists()
        again = collected(vlm, checkpoint=file)
    assert len(calls) == 4, "three before the interruption, one after"
    assert_same(again, whole, exactly=True)


def test_moments_on_the_host_stay_as_they_are():
    moments = Moments.empty((1, 2))
    assert on_host(moments) is moments
