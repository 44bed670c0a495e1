"""Answers that are cut at the limit of new tokens are told apart from answers without a box."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import biaslab as bl
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.results import Results
from biaslab.models.answering import stop_ids
from biaslab.models.answers import answers_to
from biaslab.models.grounding import MAX_NEW_TOKENS

EARLIER = Path(__file__).parents[1] / "earlier_files" / "run-defaults"


@pytest.fixture(scope="module")
def scenes():
    return bl.load_dataset("scenes", n=4)


@pytest.fixture(scope="module")
def answers(grounder, scenes):
    """Tokens of each whole answer, its end token included, one prompt at a time."""
    rows = []
    for sample in scenes:
        encoded = grounder.encode_grounding([sample.image()], [sample.expression])
        with grounder.running(encoded) as inputs:
            ids = grounder.model.generate(**inputs, max_new_tokens=60, do_sample=False, eos_token_id=stop_ids(grounder))
        assert int(ids[0, -1]) in stop_ids(grounder)
        rows.append(ids[0, encoded.last + 1 :].tolist())
    return rows


@pytest.mark.slow
def test_the_end_of_each_answer_of_a_batch_is_seen(grounder, scenes, answers):
    samples = list(scenes)
    encoded = grounder.encode_grounding([s.image() for s in samples], [s.expression for s in samples])
    stops = [*stop_ids(grounder), answers[0][1]]  # a number of the first answer, or all would be of one length
    lengths = [next(i for i, token in enumerate(row, 1) if token in stops) for row in answers]
    assert min(lengths) < max(lengths)
    for limit in (min(lengths) - 1, min(lengths), max(lengths)):
        cut = [length > limit for length in lengths]
        for options in ({}, {"num_beams": 2}):
            assert answers_to(grounder, encoded, limit, {"eos_token_id": stops, **options}).truncated == cut, limit
    stopped = {"eos_token_id": stops, "stopping_criteria": [lambda ids, scores: torch.ones(len(ids), dtype=torch.bool)]}
    assert answers_to(grounder, encoded, 60, stopped).truncated == [False] * len(samples)  # the caller wanted no more


@pytest.mark.slow
def test_cut_answers_are_counted_apart_and_warned_of(grounder, scenes, answers, caplog):
    run = {"keep": 0.5, "layer": 4, "progress": False, "n_resamples": 20}
    summary = bl.evaluate(grounder, scenes, methods=["none", "random"], **run, max_new_tokens=4).summary()
    assert summary["truncated"].tolist() == [4, 4] and summary["unparsed"].tolist() == [0, 0]
    assert summary["n"].tolist() == [4, 4] and summary["acc50"].tolist() == [0, 0]  # misses, not errors
    assert "8 of 8 answers were cut at 4 new tokens" in caplog.text and "--max-new-tokens" in caplog.text
    caplog.clear()
    # all but the end token: a whole box, which counts, though the line says that the answer was cut
    short = bl.evaluate(grounder, scenes, methods="none", **run, max_new_tokens=min(map(len, answers)) - 1)
    whole = bl.evaluate(grounder, scenes, methods="none", **run)
    assert short.samples["truncated"].all() and not whole.samples["truncated"].any()
    assert short.samples["box"].tolist() == whole.samples["box"].tolist() and short.samples["parsed"].all()
    assert short.summary()[["truncated", "unparsed"]].to_numpy().tolist() == [[0, 0]] and not caplog.text


def test_runs_keep_the_limit_that_they_were_begun_with(grounder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(EARLIER, folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["identity"]["options"]["max_new_tokens"] == 48 != MAX_NEW_TOKENS
    table = Results.load(folder, n_resamples=20).summary()
    assert table["truncated"].isna().all() and table["unparsed"].eq(0).all()  # not known then
    run = {"methods": ["none", "random"], "keep": 0.2, "layer": 4, "progress": False, "out": folder}
    with pytest.raises(RunFolderError, match="options.max_new_tokens: 48 there, 128 here"):
        bl.evaluate(grounder, bl.load_dataset("scenes", split="test", n=3), **run, n=3, max_new_tokens=128)


def test_bad_limits_are_refused(grounder, scenes):
    sample = next(iter(scenes))
    for limit in (0, 2.5, True):
        with pytest.raises(InputError, match="max_new_tokens must be a whole number >= 1"):
            bl.evaluate(grounder, scenes, methods="none", keep=0.5, layer=4, max_new_tokens=limit)
        with pytest.raises(InputError, match="max_new_tokens must be a whole number >= 1"):
            bl.compare_methods(grounder, sample, "it", methods=["none"], keep=0.5, layer=4, max_new_tokens=limit)


def test_unparsed_is_an_answer_that_ended_without_a_box(grounder, scenes, monkeypatch):
    monkeypatch.setattr(grounder.family, "parse_box", lambda *a: None)
    table = bl.evaluate(grounder, scenes, methods="none", keep=0.5, layer=4, progress=False).summary()
    assert (table["unparsed"][0], table["truncated"][0]) == (4, 0) and np.isclose(table["acc50"][0], 0)
