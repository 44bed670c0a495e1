"""Where a model is put by itself, and the formats that Apple's GPU does not compute in."""

import json

import pytest
import torch

from biaslab.errors import InputError
from biaslab.models import load
from biaslab.models.devices import chosen_device, chosen_dtype
from biaslab.pruning.algorithms.transfer import wide

MPS = torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    def with_(cuda=False, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return with_


@pytest.mark.parametrize("asked", [None, "auto"])
def test_the_best_device_is_taken_where_none_is_named(machine, asked):
    for has, device in (({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": True, "mps": True}, "cuda:0")):
        machine(**has)
        assert chosen_device(asked) == torch.device(device)


def test_mps_is_refused_where_there_is_none():
    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(InputError, match="no device 'mps' here: use device='cpu'"):
        load("grounder", device="mps")


def test_formats_that_mps_lacks_are_refused_in_one_line(tmp_path):
    def checkpoint(dtype):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl", "dtype": dtype}))
        return tmp_path

    for dtype in ("float64", torch.float64, "float8_e4m3fn"):
        with pytest.raises(InputError, match=r"^mps does not compute in float\w+: use dtype='float32', or"):
            chosen_dtype(dtype, checkpoint("float32"), MPS)
    with pytest.raises(InputError, match="the checkpoint is in float64, which mps does not .* dtype='float32'"):
        chosen_dtype("auto", checkpoint("float64"), MPS)
    for own in ("float32", "float16", "bfloat16"):
        assert chosen_dtype("auto", checkpoint(own), MPS) == "auto"
        assert chosen_dtype(own, checkpoint("float64"), MPS) == getattr(torch, own)
    assert chosen_dtype("float64", checkpoint("float32"), torch.device("cpu")) == torch.float64


def test_a_refusal_comes_before_the_weights_are_read(machine, monkeypatch):
    machine(mps=True)
    monkeypatch.setattr("biaslab.models.loading._model", lambda *_: pytest.fail("read weights"))
    with pytest.raises(InputError, match="mps does not compute in float64"):
        load("grounder", dtype="float64")


def test_numbers_are_widened_where_the_device_can():
    class OnMps:
        device = MPS

    values = OnMps()
    assert wide(values) is values and wide(torch.ones(1)).dtype == torch.float64
