"""Prompts of one length: a pruned decode step is the unpruned model's, on a shorter cache."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import pruned
import pytest
import tiny
from torch.utils._python_dispatch import TorchDispatchMode

from biaslab.pruning import prune


class Operations(TorchDispatchMode):
    """Counts what is asked of a device."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def asked(vlm, enc, steps):
    with Operations() as counted:
        vlm.generate(enc, max_new_tokens=steps, min_new_tokens=steps)
    return counted.found


def per_step(vlm, enc):
    """What four more tokens need, and the masks that layers are handed at a step."""
    masks = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda m, a, kwargs: masks.append(kwargs.get("attention_mask")), with_kwargs=True
        )
        for layer in vlm.decoder.layers
    ]
    few, more = asked(vlm, enc, 3), asked(vlm, enc, 7)
    for hook in hooks:
        hook.remove()
    more.subtract(few)
    return {name: n for name, n in more.items() if n}, masks


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_a_step_asks_a_device_for_nothing_more(family, batch):
    """No mask, which would keep attention from its fast path, where neither padding nor fillers are to be hidden."""
    vlm = tiny.vlm(family)
    enc = vlm.vision(vlm.encode(tiny.images(1) * batch, tiny.texts(1) * batch, sample_ids=list("abc")[:batch]))
    layer = max(1, pruned.lowest_layer(vlm))
    found = []
    for block in (nullcontext(), prune(vlm, pruned.method_for("random"), layer)):
        with block:  # its hooks run before those that look
            found.append(per_step(vlm, enc))
    (plain, whole), (short, masks) = found
    assert plain and short == plain
    assert [mask is None for mask in masks] == [mask is None for mask in whole]
    assert family != "internvl" or not any(mask is not None for mask in whole)
