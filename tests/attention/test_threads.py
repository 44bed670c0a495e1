"""Watches switched on and off by several threads at once: every step is made slow, so that without a lock they meet."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import tiny
from flash import NAME, flash, kernel
from transformers import AttentionInterface

from biaslab.attention import hook
from biaslab.attention.hook import watch

THREADS = 4


def slow(function):
    """The function, with time for another thread to come in between what the caller read and what it will write."""

    def slowed(*args, **kw):
        time.sleep(0.05)
        return function(*args, **kw)

    return slowed


def watch_together(models, inside):
    """One thread per model: all enter their watch, look, and leave it."""
    barrier = threading.Barrier(len(models))

    def work(vlm):
        barrier.wait(timeout=30)
        with watch(vlm.model, {0: lambda *_, **kw: None, 1: lambda *_, **kw: None}):
            barrier.wait(timeout=30)
            state = inside(vlm)
            barrier.wait(timeout=30)  # nobody leaves before everybody has looked
        return state

    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(work, models))


def test_watches_of_one_model(monkeypatch):
    vlm = tiny.vlm("internvl")
    module = vlm.decoder.layers[0].self_attn
    monkeypatch.setattr(hook, "is_flash", slow(hook.is_flash))
    seen = watch_together([vlm] * THREADS, lambda vlm: vlm.decoder.config._attn_implementation)
    assert seen == ["biaslab_sdpa"] * THREADS
    assert vlm.decoder.config._attn_implementation == "sdpa"
    assert module not in hook._CALLBACKS and vlm.decoder not in hook._SWITCHED


def test_watches_of_several_models_under_flash_attention(monkeypatch):
    models = [tiny.vlm("internvl"), tiny.vlm("llava"), tiny.vlm("qwen2_vl")]
    with flash(models[0]), flash(models[1]), flash(models[2]):
        with monkeypatch.context() as patch:
            patch.setattr(AttentionInterface, "valid_keys", slow(AttentionInterface.valid_keys))
            seen = watch_together(models, lambda _: AttentionInterface()[NAME])
        assert len(set(seen)) == 1 and seen[0] is not kernel, "wrapped once"
        assert AttentionInterface()[NAME] is kernel and not hook._OVERRIDDEN


def test_another_model_under_flash_attention_keeps_its_numbers():
    watched, other = tiny.vlm("internvl"), tiny.vlm("llava")
    enc, calls = tiny.encoded(other, 2), []
    with flash(watched), flash(other):
        plain = other.forward(enc).logits
        with watch(watched.model, {0: lambda *_, **kw: calls.append(1)}):
            assert AttentionInterface()[NAME] is not kernel
            assert (other.forward(enc).logits == plain).all() and not calls
