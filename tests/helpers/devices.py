"""Layers on different devices, without any device: real CPU tensors that claim to lie somewhere else.

A `Placed` tensor holds a CPU tensor and reports the device it was placed on ("meta:1", "meta:2" ..., the only
device type that needs no driver). `checked` runs every operation on the held tensors and raises where one mixes
devices, as CUDA would. `spread` hangs a model's parts on such devices with accelerate's own hooks, the way
``device_map="auto"`` does.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
CPU = torch.device("cpu")


class DeviceMix(RuntimeError):
    """An operation on tensors of different devices."""


class Placed(torch.Tensor):
    """A CPU tensor that says it is elsewhere."""

    @staticmethod
    def __new__(cls, real: torch.Tensor, device: torch.device):
        out = torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(),
            dtype=real.dtype, device=device,
        )  # fmt: skip
        out.held = real
        return out

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.tolist, torch.Tensor.numpy):
            return getattr(args[0].held, func.__name__)()
        with torch._C.DisableTorchFunctionSubclass():  # results on the CPU are plain tensors
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    given = {x.device for x in tensors if x.dim() > 0 and x.numel() > 0}
    if len(given) > 1 and func not in MOVES:
        raise DeviceMix(f"{func} on tensors of {sorted(map(str, given))}")
    others = {x.device for x in tensors}
    asked = kwargs.get("device")
    if asked is not None:
        place, kwargs = torch.device(asked), {**kwargs, "device": CPU}
    elif func is torch.ops.aten.copy_.default:
        place = args[0].device
    else:
        place = next(iter(given or others), CPU)
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if func.__name__.split(".")[0].endswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]  # in place
    return out if place.type == "cpu" else tree_map(lambda x: _place(x, place), out)


def _held(x):
    return getattr(x, "held", x) if isinstance(x, torch.Tensor) else x


def _place(x, device):
    return Placed(x, device) if isinstance(x, torch.Tensor) and not isinstance(x, Placed) else x


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """``torch.tensor(..., device="meta:1")`` would lose its values and the number of the device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        device = (kwargs or {}).get("device")
        if func is not torch.tensor or device is None or torch.device(device).type == "cpu":
            return func(*args, **(kwargs or {}))
        return Placed(func(*args, **{**kwargs, "device": CPU}), torch.device(device))


@contextmanager
def checked():
    """Every operation is watched for mixed devices."""
    with _Literals(), _Mode():
        yield


class _Hook(AlignDevicesHook):
    def init_hook(self, module):
        return module  # the weights are placed by `spread`: accelerate would look for a driver


@contextmanager
def spread(vlm, devices=3):
    """The decoder's layers dealt out over ``devices`` devices, everything else on the CPU as the first."""
    model, layers = vlm.model, vlm.decoder.layers
    held = []
    parts = [(layer, torch.device("meta", 1 + i * devices // len(layers))) for i, layer in enumerate(layers)]
    for part, device in parts:
        for module in part.modules():
            for table in (module._parameters, module._buffers):
                for name, value in table.items():
                    if value is not None:
                        held.append((table, name, value))
                        table[name] = Placed(value.detach(), device)
        add_hook_to_module(part, _Hook(execution_device=device, skip_keys=["cache", "past_key_values"]))
    for part in (vlm.decoder.norm, model.lm_head):
        add_hook_to_module(part, _Hook(execution_device=CPU))
    try:
        with checked():
            yield [device for _, device in parts]
    finally:
        remove_hook_from_submodules(model)
        for table, name, value in held:
            table[name] = value
