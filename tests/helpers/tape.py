"""A stand-in for a CUDA graph on the CPU, as strict as one: what a step does must be the same every time.

`Tape` writes down every operation of a run: its name, its numbers, and of each tensor whether it was made in this run
or lay there before, and where. Two runs of a step that a graph could repeat have equal tapes: a shape, a number or a
tensor that changes between them, which a graph would not see, does not. What waits for the device is refused.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "masked_select", "unique_dim", "_unique2"}


class Waits(TorchDispatchMode):
    """Counts what waits for a device."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func.name().split("::")[-1].split(".")[0] in WAITS
        return func(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """The operations of one run, in order."""

    def __init__(self):
        super().__init__()
        self.lines, self.made, self.alive = [], {}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[-1].split(".")[0]
        assert name not in WAITS, f"{name} waits for the device"
        leaves = tree_leaves((args, kwargs or {}))
        self.lines.append((func.name(), *(self._of(leaf) for leaf in leaves)))
        out = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.alive.append(leaf)  # or its place would be used again, and look like an old one
                place = leaf.untyped_storage().data_ptr()
                if place not in given:
                    self.made.setdefault(place, len(self.made))
        return out

    def _of(self, leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf if isinstance(leaf, (int, float, bool, str, type(None))) else str(leaf)
        place = leaf.untyped_storage().data_ptr()
        where = ("made", self.made[place]) if place in self.made else ("there", place)
        return (*where, leaf.storage_offset(), tuple(leaf.shape), tuple(leaf.stride()), leaf.dtype)


class StrictGraph:
    """Repeats a step by running it, and fails where a CUDA graph would repeat something else."""

    made: list = []

    def __init__(self, device):
        self.warmed, self.replayed, self.tape = 0, 0, None
        StrictGraph.made.append(self)

    def warm(self, step):
        self.warmed += 1
        step()

    def capture(self, step):
        assert self.tape is None, "captured twice"
        self.step, self.tape = step, []  # a capture runs nothing

    def replay(self):
        with Tape() as tape:
            self.step()
        self.replayed += 1
        self.tape = self.tape or tape.lines
        for now, then in zip(tape.lines, self.tape, strict=True):
            assert now == then, f"another operation than at the capture: {now}, not {then}"
