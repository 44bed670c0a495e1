"""Figures of a run folder: what there is to draw."""

import json

import pytest
import tiny
from toy_grounding import run

from biaslab.errors import InputError
from biaslab.evaluation.schema import VERDICT_FIELDS
from biaslab.workflows.run_figures import draw_run


def test_a_run_whose_samples_all_failed_is_said_and_nothing_is_drawn(tmp_path):
    run(tmp_path, tiny.vlm("internvl"), methods="random", keep=0.5, n=2)
    log = tmp_path / "samples-0.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    failed = [{**line, **dict.fromkeys(VERDICT_FIELDS), "error": "InputError: too long"} for line in lines]
    log.write_text("".join(json.dumps(line) + "\n" for line in failed))
    with pytest.raises(InputError, match="no verdict to draw: 2 of 2 .* too long; .*--retry-errors"):
        draw_run(tmp_path)
    assert not (tmp_path / "figures").exists()
