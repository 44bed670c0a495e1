"""Frames of a video become one map, whose parts are what each frame's own map is."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from biaslab.attention.capture import capture
from biaslab.core.frames import FramesLayout
from biaslab.errors import InputError, RunFolderError, UnsupportedError
from biaslab.maps.collect import collect
from biaslab.maps.stored import load_maps


def videos(lengths=(2, 3, 2, 1)):
    frames = iter(tiny.images(sum(lengths), sizes=[(60, 60)], seed=5))
    return [[next(frames) for _ in range(n)] for n in lengths]


@pytest.mark.parametrize("family", ["internvl", "llava", "paligemma"])
def test_one_map_holds_what_the_frames_of_the_prompt_draw(family, tmp_path):
    vlm = tiny.vlm(family)
    maps = collect(
        vlm, videos(), prompt="What moves?", layers=[1, 2], heads="all", frames=True, batch_size=3,
        ids=list("abcd"), out=tmp_path / "maps", progress=False,
    )  # fmt: skip
    assert maps.ids() == list("abcd") and maps.settings["frames"] is True and not maps.failures
    for i, frames in enumerate(videos()):
        enc = vlm.encode([frames], ["What moves?"], frames=True)
        with capture(vlm, [1, 2]) as rows:
            vlm.forward(enc)
        want = np.stack([rows[layer].values[0, :, 0].numpy() for layer in (1, 2)])
        np.testing.assert_allclose(maps.values(i), want, atol=1e-5)
        layout = maps.record(i).layout
        assert layout.n == want.shape[-1] == sum(part.n for part in enc.layouts)
        assert isinstance(layout, FramesLayout) == (len(frames) > 1)
    again = load_maps(tmp_path / "maps")
    assert [again.record(i).layout.key for i in range(4)] == [maps.record(i).layout.key for i in range(4)]
    one = next(iter(maps.layouts))
    assert one.endswith("/frames2") and maps.moments(1, one).n == 2


def test_streamed_moments_are_those_of_the_stored_maps(tmp_path):
    vlm = tiny.vlm("internvl")
    same = {"layers": [1], "frames": True, "ids": list("abcd"), "progress": False}
    streamed = collect(vlm, videos((2, 2, 2, 2)), **same)
    stored = collect(vlm, videos((2, 2, 2, 2)), out=tmp_path / "maps", **same)
    ((key, _),) = streamed.layouts.items()
    np.testing.assert_allclose(streamed.moments(1, key).log_mean, stored.moments(1, key).log_mean, atol=1e-6)
    assert collect(vlm, videos((2, 2, 2, 2)), out=tmp_path / "maps", **same).n == 4  # resumes, finished
    with pytest.raises(RunFolderError, match="frames"):
        collect(vlm, videos((2, 2)), out=tmp_path / "maps", **(same | {"frames": False, "ids": list("ab")}))


def test_what_cannot_be_frames_is_said_in_one_line():
    vlm = tiny.vlm("internvl")
    with pytest.raises(InputError, match=r"pass \[\[first, second"):
        collect(vlm, tiny.images(2), frames=True, progress=False)
    with pytest.raises(InputError, match="leave out features=True"):
        collect(vlm, videos(), frames=True, features=True, progress=False)
    with pytest.raises(UnsupportedError, match="frames=True is not for qwen2_vl"):
        collect(tiny.vlm("qwen2_vl"), videos(), frames=True, progress=False)
    llava_next = tiny.vlm("llava_next")
    mixed = [tiny.images(2, sizes=[(60, 60)]), tiny.images(2, sizes=[(60, 60), (200, 40)])]
    with pytest.warns(UserWarning, match="laid out differently"):
        maps = collect(llava_next, mixed, frames=True, layers=[1], ids=["same", "mixed"], progress=False)
    assert maps.n == 1 and [name for name, _ in maps.failures] == ["mixed"]
