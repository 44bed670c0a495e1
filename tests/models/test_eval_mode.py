"""A model whose dropout is on answers differently each time: it is put in evaluation mode, or not run."""

from __future__ import annotations

import warnings

import pytest
import tiny
import torch
from torch import nn

from biaslab.attention.capture import capture
from biaslab.errors import InputError
from biaslab.models.loading import wrap
from biaslab.pruning import prune


@pytest.fixture(scope="module")
def model():
    """With dropout in its attention and behind one projection, as a fresh adapter has it."""
    made = tiny.build("internvl", attention_dropout=0.5)
    first = made.get_decoder().layers[0]
    first.mlp.down_proj = nn.Sequential(first.mlp.down_proj, nn.Dropout(0.5))
    return made


def wrapped(model):
    return wrap(model, tiny.processor("internvl"), name="dropping")


@pytest.mark.parametrize("part", ["", "model.language_model.layers.0.mlp.down_proj.1"])
def test_wrap_puts_it_in_evaluation_mode_and_says_so(model, part):
    model.get_submodule(part).train()
    with pytest.warns(UserWarning, match="was in train mode") as caught:
        vlm = wrapped(model)
    assert len(caught) == 1 and (part or "all of it") in str(caught[0].message)
    assert not any(module.training for module in model.modules())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped(model)
    enc = tiny.encoded(vlm, 2)
    assert torch.equal(vlm.forward(enc).logits, vlm.forward(enc).logits)
    with capture(vlm, [1, 2]) as first:
        vlm.forward(enc)
    with capture(vlm, [1, 2]) as second:
        vlm.forward(enc)
    assert torch.equal(first[2].values, second[2].values)


@pytest.mark.parametrize("part", ["", "model.language_model.layers.0.mlp", "model.vision_tower"])
def test_train_mode_after_wrapping_is_refused_at_every_run(model, part):
    vlm = wrapped(model.eval())
    enc, image, ran = tiny.encoded(vlm, 2), tiny.images(1)[0], []
    hook = vlm.decoder.register_forward_pre_hook(lambda *_: ran.append(1))
    model.get_submodule(part).train()
    try:
        runs = [
            lambda: vlm.forward(enc),
            lambda: vlm.generate(enc),
            lambda: vlm.vision(enc),
            lambda: vlm.ask(image, "what?"),
            lambda: vlm.locate(image, "cat"),
        ]
        for block in (lambda: capture(vlm, [1]), lambda: prune(vlm, "fastv", 2)):

            def inside(block=block):
                with block(), torch.no_grad():
                    vlm.model(**enc.inputs)

            runs.append(inside)
        for run in runs:
            with pytest.raises(InputError, match=r"in train mode .*call vlm.model.eval\(\) first"):
                run()
        assert not ran, "refused before any work"
        model.eval()
        vlm.forward(enc)
        assert ran
    finally:
        model.eval()
        hook.remove()
