"""What a run says of failures: new ones, those of an earlier call, cut answers, configurations without a verdict."""

from __future__ import annotations

import pandas as pd

from biaslab.evaluation.failures import cut_answers, failed_lines, failures, unanswered


def lines(*rows):
    frame = pd.DataFrame(rows, columns=["id", "key", "error", "parsed", "truncated"])
    return frame.astype({"parsed": "boolean", "truncated": "boolean", "error": object})


GOOD, EMPTY, CUT = (None, True, False), (None, False, False), (None, False, True)


def test_nothing_to_say():
    samples = lines(("a", "x", *GOOD), ("b", "x", None, True, True))  # a whole box before the cut
    assert failures(samples) == "" and cut_answers(samples, 48) == "" and not unanswered(samples, [{}], ["x"])


def test_failures_of_this_call_and_of_earlier_ones_are_told_apart():
    samples = lines(("a", "x", "E: old", None, None), ("b", "x", "E: new", None, None), ("c", "x", *GOOD))
    assert failed_lines(samples) == {("a", "x"), ("b", "x")}
    both = failures(samples, {("a", "x")})
    assert both.startswith("2 of 3 sample runs failed and have no verdict, 1 of them in an earlier call")
    assert "the first with: E: new;" in both and "E: old" not in both and "--retry-errors" in both
    stale = failures(samples, failed_lines(samples))
    assert "failed in an earlier call and were not tried again (the first cause then: E: old)" in stale
    assert "the first with: E: old" in failures(samples)


def test_cut_answers_are_counted_without_those_that_ended():
    samples = lines(("a", "x", *CUT), ("b", "x", *EMPTY), ("c", "x", "E: gone", None, None))
    assert cut_answers(samples, 48).startswith("1 of 3 answers were cut at 48 new tokens")


def test_a_configuration_without_a_verdict_was_tried():
    samples = lines(("a", "x", "E: gone", None, None), ("a", "y", *GOOD), ("b", "y", "E: gone", None, None))
    configs = [{"name": name} for name in "xyz"]
    assert unanswered(samples, configs, "xyz") == [{"name": "x"}]  # z has no line yet: it is lacking, not failed
