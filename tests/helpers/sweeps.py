"""Configurations of a batch by the shared path, and whether they are those of the plain one."""

from __future__ import annotations

import tiny
import torch

from biaslab.evaluation.run_once import run_once
from biaslab.evaluation.sweep import shared


def shared_runs(vlm, encoded, configs, options, width=64, **kw):
    """Every configuration by the shared path alone: number -> run."""
    runs = {}
    numbers = shared.shareable(vlm, dict(enumerate(configs)), options)
    assert numbers == list(range(len(configs)))
    shared.run_shared(vlm, encoded, dict(enumerate(configs)), options, runs.__setitem__, width=width, **kw)
    assert sorted(runs) == numbers
    return runs


def check(vlm, encoded, configs, options, **kw):
    """The shared runs are the plain ones: answers, selections bit by bit, cost."""
    runs = shared_runs(vlm, encoded, configs, options, **kw)
    for i, config in enumerate(configs):
        plain = run_once(vlm, encoded, config, options)
        assert runs[i].answers == plain.answers, config.describe()
        assert runs[i].truncated == plain.truncated and runs[i].kept == plain.kept and runs[i].flops == plain.flops
        for ours, theirs in zip(runs[i].selections, plain.selections, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert torch.equal(ours.indices, theirs.indices) and ours.info == theirs.info
                assert (ours.scores is None) == (theirs.scores is None)
                if ours.scores is not None and not torch.equal(ours.scores, theirs.scores):
                    # a layer's own rows are read once within the layer and once before it: where their operands lie
                    # decides the last bit of products on CPUs without AVX-512
                    assert getattr(config.method, "reads_layer", None) == "own", config.describe()
                    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=1e-6)
    assert untouched(vlm)
    return runs


def untouched(vlm):
    """Nothing is left on the model."""
    hooks = [h for m in vlm.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return (
        not any(hook.__module__.startswith("biaslab") for hook in hooks)  # transformers leaves some of its own
        and len(vlm.decoder.layers) == vlm.decoder.config.num_hidden_layers
        and not any(type(layer).__module__.startswith("biaslab") for layer in vlm.decoder.layers)
        and not vlm.decoder.config._attn_implementation.startswith("biaslab")
        and vlm.prefill.encoded is None
        and "generate" not in vlm.model.__dict__
    )


ORDER = (0, 1, 0, 2, 0, 1)


def expressions(vlm, order=ORDER, names=None, texts=None):
    """A batch in which images come several times, under questions of different lengths."""
    pictures = tiny.images(3)
    questions = texts or [f"{text} {i}" for i, text in enumerate(tiny.texts(len(order)))]
    ids = [f"s{i}" for i in range(len(order))]
    encoded = vlm.encode([pictures[i] for i in order], questions, sample_ids=ids)
    return vlm.vision(encoded, pictures=order if names is None else names)
