"""A count of tokens that no image has is warned of once in a run, whatever the run is."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import tiny

import biaslab as bl
from biaslab.evaluation.most_tokens import most_tokens


@pytest.fixture
def vlm():
    return bl.load("grounder")


def said(work):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [(str(w.message), w.filename) for w in caught if "so all are kept" in str(w.message)]


TEXT = "keep 300: an image has 256 visual tokens here, so all are kept"


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False])
def test_an_evaluation_says_it_once(vlm, plain):
    """Of several batches and methods, one that lists ratios and smaller counts as well."""
    scenes = bl.load_dataset("scenes", n=3)

    def run(keep):
        bl.evaluate(vlm, scenes, methods=["none", "random", "uniform"], keep=keep, layer=2, batch_size=1, plain=plain,
                    max_new_tokens=2, progress=False)  # fmt: skip

    assert [text for text, _ in said(lambda: run([300, 0.1, 16]))] == [TEXT]
    assert said(lambda: run([256, 0.1])) == []


def test_a_finished_run_says_nothing(vlm, tmp_path):
    def run():
        bl.evaluate(vlm, bl.load_dataset("scenes", n=1), methods="random", keep=300, layer=2, max_new_tokens=2,
                    out=tmp_path, progress=False)  # fmt: skip

    assert len(said(run)) == 1 and said(run) == []


@pytest.mark.slow
def test_a_benchmark_and_a_comparison_say_it_once(vlm):
    pictures = bl.calibration(vlm, "scenes", n=2)
    sample = next(iter(bl.load_dataset("scenes", n=1)))

    def bench(keep):
        bl.bench(vlm, pictures, methods=["random", "uniform"], keep=keep, layer=2, repeats=1, warmup=0, new_tokens=2,
                 memory=False, progress=False)  # fmt: skip

    def compare(keep):
        bl.compare_methods(vlm, sample, sample.expression, methods=["random", "uniform"], keep=keep, layer=2,
                           max_new_tokens=2)  # fmt: skip

    for work in (bench, compare):
        assert [text for text, _ in said(lambda work=work: work(300))] == [TEXT]
        assert said(lambda work=work: work(256)) == []


def test_a_block_says_it_once_when_it_ends():
    """Of two prefills, where the larger image of the second is still too small; at the line of the block."""
    vlm = tiny.vlm("internvl")
    small, large = vlm.encode(tiny.images(3)[1:2], ["What is it?"]), tiny.encoded(vlm, 3)
    most = max(layout.n for layout in large.layouts)
    assert small.layouts[0].n < most

    def block(keep):
        with bl.prune(vlm, bl.Random(keep=keep), layer=2) as run:
            vlm.forward(small)
            vlm.forward(large)
            vlm.forward(small)
        assert run.most == most

    assert said(lambda: block(most + 1)) == [
        (f"keep {most + 1}: an image has {most} visual tokens here, so all are kept", __file__)
    ]
    assert said(lambda: block(most)) == said(lambda: block(1.0)) == []  # the smaller ones alone keep all


def test_nothing_is_said_of_a_block_without_a_picture_or_that_failed():
    vlm = tiny.vlm("internvl")

    def failed():
        with pytest.raises(RuntimeError, match="mine"), bl.prune(vlm, bl.Random(keep=9999), layer=2):
            vlm.forward(tiny.encoded(vlm, 1))
            raise RuntimeError("mine")

    def empty():
        with bl.prune(vlm, bl.Random(keep=9999), layer=2):
            pass

    assert said(failed) == said(empty) == []


def test_the_largest_picture_is_found_without_opening_any():
    vlm = tiny.vlm("internvl")
    sample = next(iter(bl.load_dataset("scenes", n=1)))
    sizes = [(60, 60), (112, 56), (300, 200), (90, 150)]
    samples = [dataclasses.replace(sample, width=w, height=h) for w, h in sizes]
    pictures = [tiny.Image.new("RGB", size, (128, 128, 128)) for size in sizes]
    true = max(layout.n for layout in vlm.encode(pictures, ["x"] * 4).layouts)
    assert most_tokens(vlm, samples, 10_000) == true
    assert most_tokens(vlm, samples, 2) >= 2
    assert most_tokens(vlm, [], 7) == 7  # nothing is known, and nothing said
