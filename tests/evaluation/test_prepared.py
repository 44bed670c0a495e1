"""An evaluation whose images are prepared ahead: the lines of one that prepares nothing ahead, in their order."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import tiny
from toy_grounding import Toy, picture, run, same

from biaslab._util.jsonl import JsonLines
from biaslab.errors import InputError
from biaslab.evaluation import prepared, worker
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.worker import Worker, WorkItem
from biaslab.models.preparing import Preparers


@pytest.fixture(scope="module")
def vlm():
    return tiny.vlm("internvl")


def broken():
    """Twelve expressions; a missing image, one that fails in an unforeseen way, a text that is too long."""
    data = Toy(12, missing=(2, 7))
    object.__setattr__(data.samples[5], "loader", partial(int, "no image"))
    object.__setattr__(data.samples[8], "expression", "cat " * 5000)
    return data


def written(folder):
    """What the log says, line after line."""
    return [path.read_text() for path in sorted(folder.glob("samples-*.jsonl"))]


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_the_log_is_the_same(vlm, tmp_path, plain):
    logs = {}
    for workers in (0, 1, 3):
        results = run(tmp_path / str(workers), vlm, broken(), plain=plain, workers=workers)
        assert results.failures
        lines = [json.loads(line) for log in written(tmp_path / str(workers)) for line in log.splitlines()]
        logs[workers] = [{k: v for k, v in line.items() if not k.endswith(("_ms", "_mb"))} for line in lines]
    assert logs[1] == logs[3] == logs[0] and len(logs[0]) == 84
    assert {line["id"] for line in logs[0] if line["error"]} == {"s2", "s5", "s7", "s8"}


def test_a_batch_that_cannot_be_made_is_tried_one_by_one(vlm, monkeypatch):
    whole, made = run(vlm=vlm, workers=0).samples, type(vlm).prepare

    def one_at_a_time(self, images, *args, **kw):
        if len(images) > 1:
            raise MemoryError("too many images")
        return made(self, images, *args, **kw)

    monkeypatch.setattr(type(vlm), "prepare", one_at_a_time)
    found = run(vlm=vlm, workers=2).samples
    assert found["error"].isna().all()
    same(found, whole)


@pytest.mark.slow
def test_an_interruption_leaves_no_thread_that_writes(vlm, tmp_path, monkeypatch):
    whole, count = JsonLines.append, iter(range(1000))

    def interrupt(self, record):
        assert threading.current_thread() is threading.main_thread()
        if next(count) == 30:
            raise KeyboardInterrupt
        whole(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, vlm, Toy(12), workers=2, batch_size=2)
    log = written(tmp_path)
    for thread in threading.enumerate():
        if thread.name.startswith("biaslab-ahead"):
            thread.join(20)
    time.sleep(0.05)
    assert written(tmp_path) == log
    same(run(tmp_path, vlm, Toy(12), workers=2, batch_size=2).samples, run(vlm=vlm, dataset=Toy(12)).samples)


@pytest.mark.slow
def test_pictures_are_opened_two_batches_ahead_and_no_further(vlm, monkeypatch):
    opened, used = [], []
    load = prepared.load_image
    monkeypatch.setattr(prepared, "load_image", lambda sample: opened.append(sample.id) or load(sample))
    monkeypatch.setattr(worker.Worker, "_batch", lambda self, batch: (used.append(1), time.sleep(0.2)))
    seen = []
    each = Toy(24).samples
    tasks = [WorkItem(i, sample, (0,)) for i, sample in enumerate(each)]
    vision = Worker(vlm, configurations(["none"], [1.0], None, None), GenerationOptions(), lambda _: None, workers=1)
    monkeypatch.setattr(worker, "prepare_batch", lambda *a: seen.append(len(used)) or prepared.prepare_batch(*a))
    vision.run(tasks, 2)
    assert len(used) == len(seen) == 12 and len(opened) == 12  # two expressions of each image, opened once
    assert all(k - before <= 3 for k, before in enumerate(seen))


def test_neighbours_with_one_picture_have_it_opened_once(vlm, monkeypatch):
    """The same image by its name and its loader; one of the two alone does not count."""
    opened, load = [], prepared.load_image
    monkeypatch.setattr(prepared, "load_image", lambda sample: opened.append(sample.id) or load(sample))
    a, b, c, d = (replace(s, image_id="one", loader=partial(picture, 0)) for s in Toy(4).samples)
    other_name, other_loader = replace(b, image_id="two"), replace(b, loader=partial(picture, 1))
    for samples, times in (
        ([a, b, c, d], 1), ([a, other_name, c], 3), ([a, other_loader, c], 3), ([a, replace(b, loader=Odd()), c], 3),
    ):  # fmt: skip
        opened.clear()
        batch = prepared.prepare_batch(Preparers(vlm, 0), [WorkItem(i, s, (0,)) for i, s in enumerate(samples)])
        assert len(opened) == times and len(batch.ready) == len(samples) and not batch.failed
        assert len({id(image) for _, image in batch.ready}) == times


class Odd:
    """A loader that cannot be compared."""

    def __call__(self):
        return picture(0)

    def __eq__(self, other):
        raise ValueError("the truth value is ambiguous")

    __hash__ = None


def test_bad_numbers_are_refused_before_any_work(vlm, monkeypatch):
    monkeypatch.setattr(type(vlm), "prepare", lambda *a, **k: pytest.fail("work"))
    with pytest.raises(InputError, match="workers must be 0"):
        run(vlm=vlm, workers=-1)
