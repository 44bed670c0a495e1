"""Every head is ``heads="all"`` in Python and null in files, which earlier versions wrote that way."""

import json

import numpy as np
import pytest
import tiny
from safetensors import safe_open

from biaslab.attention.capture import capture
from biaslab.attention.heads import HEADS, heads_from_disk, heads_on_disk
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe import ProbeResult, design_for, measure
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.checkpointed import ResumableMaps
from biaslab.maps.collect import collect
from biaslab.maps.stored import load_maps
from biaslab.maps.streamed import StreamedMaps


def test_capture_keeps_every_head_unless_told():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    with capture(vlm, [1]) as plain, capture(vlm, [1], heads="all") as every:
        vlm.forward(enc)
    assert plain[1].values.shape[1] == every[1].values.shape[1] == 4


@pytest.mark.parametrize("heads", [None, "each", 3, ["mean"]])
def test_what_is_no_value_of_heads_is_refused_with_the_fix(heads):
    with pytest.raises(InputError, match="write heads='all'") as caught:
        StreamedMaps({"layers": [0], "folds": 5, "heads": heads})
    assert "\n" not in str(caught.value)


def test_maps_of_every_head_say_null_on_disk_and_go_on(tmp_path):
    vlm, folder = tiny.vlm("internvl"), tmp_path / "maps"
    options = {"layers": [0], "heads": "all", "out": folder, "progress": False}
    collect(vlm, tiny.images(2), **options)
    assert json.loads((folder / "maps.json").read_text())["heads"] is None
    assert load_maps(folder).settings["heads"] == "all"
    assert collect(vlm, tiny.images(3), **options).n == 3


def test_moments_of_every_head_say_null_on_disk(tmp_path):
    file = tmp_path / "a.partial"
    settings = {"layers": [0], "folds": 5, "heads": "all"}
    maps = ResumableMaps(settings, file)
    layout = TokenLayout.raster(2, 2, size=(56, 56), family="internvl")
    with maps.writing():
        maps.add(ImageRecord("a", layout, "a"), np.full((1, 2, 4), 0.25, np.float32))
        maps.checkpoint()
    with safe_open(file, framework="numpy") as opened:
        assert json.loads(opened.metadata()["biaslab_moments"])["settings"]["heads"] is None
    assert ResumableMaps(settings, file).settings["heads"] == "all"


def test_a_probe_of_every_head_says_null_on_disk(tmp_path):
    vlm = tiny.vlm("internvl")
    design = design_for(vlm, grid=(2, 2), pairs=1, scale=(0.5, 1.0))
    probe = measure(vlm, design, layers=[1], heads="all", out=tmp_path, progress=False)
    assert json.loads((tmp_path / "probe.json").read_text())["heads"] is None
    assert ProbeResult.load(tmp_path).settings["heads"] == probe.settings["heads"] == "all"


@pytest.mark.parametrize("heads", HEADS)
def test_settings_come_back_from_files(heads):
    assert heads_from_disk(json.loads(json.dumps(heads_on_disk({"heads": heads, "prompt": None})))) == {
        "heads": heads,
        "prompt": None,
    }
