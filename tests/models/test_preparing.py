"""Prompts prepared in threads: as many as asked for, each with a tokenizer of its own, with the prompts of none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import original
import pytest
import tiny
import torch

import biaslab as bl
from biaslab.errors import InputError
from biaslab.models import preparing
from biaslab.models.preparing import Preparers, check_workers, default_workers


def equal(a, b):
    assert a.inputs.keys() == b.inputs.keys() and a.resized == b.resized
    assert [layout.key for layout in a.layouts] == [layout.key for layout in b.layouts]
    for name, value in a.inputs.items():
        assert torch.equal(value, b.inputs[name]) if isinstance(value, torch.Tensor) else value == b.inputs[name]


def check_together(vlm):
    """Three threads at once, while the model's own thread uses its tokenizer without padding."""
    batches = [(tiny.images(n, seed=n), [f"{text} {'x ' * n}" for text in tiny.texts(n)]) for n in (1, 3, 2, 4) * 3]
    wanted = [vlm.prepare(*batch) for batch in batches]
    preparers, text = Preparers(vlm, 3), "how long is this"
    lengths = vlm.processor.tokenizer(text)["input_ids"]

    def work(batch):
        with preparers.one() as own:
            assert own.processor.tokenizer is not vlm.processor.tokenizer
            assert own.processor.image_processor is vlm.processor.image_processor
            return own.prepare(*batch)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, batch) for batch in batches]
        while not all(future.done() for future in futures):
            assert vlm.processor.tokenizer(text)["input_ids"] == lengths
    for future, prompts in zip(futures, wanted, strict=True):
        equal(future.result(), prompts)


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_threads_do_not_disturb_each_other(family):
    check_together(tiny.vlm(family))


@pytest.mark.parametrize("kind", ["internlm2", "qwen2"])
def test_tokenizers_of_the_original_internvl(kind, tmp_path):
    check_together(bl.load(original.write(tmp_path, kind), device="cpu", dtype="float32"))


def test_without_workers_it_is_the_model_itself():
    vlm = tiny.vlm("internvl")
    with Preparers(vlm, 0).one() as own:
        assert own is vlm


def test_a_tokenizer_that_cannot_be_copied_means_none_ahead(monkeypatch):
    def no_copy(_):
        raise TypeError("cannot pickle it")

    vlm = tiny.vlm("internvl")
    monkeypatch.setattr(preparing.copy, "deepcopy", no_copy)
    preparers = Preparers(vlm, 2)
    assert preparers.workers == 0
    with preparers.one() as own:
        assert own is vlm


def test_the_default_goes_by_device_and_cores(monkeypatch):
    monkeypatch.setattr(preparing, "usable_cores", lambda: 16)
    gpu = torch.device("cuda:0")
    assert default_workers(torch.device("cpu")) == 0
    assert [default_workers(gpu, processes=n) for n in (1, 4, 8, 16)] == [4, 3, 1, 1]


def test_numbers_of_workers():
    for right in (None, 0, 3):
        check_workers(right)
    for wrong, words in ((-1, "0 .none. or more"), (1.5, "whole number"), (True, "whole number")):
        with pytest.raises(InputError, match=words):
            check_workers(wrong)
