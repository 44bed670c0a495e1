"""Selections that look at the image alone: once per image where expressions have the same states."""

from __future__ import annotations

import pytest
import tiny
from sweeps import check, expressions, shared_runs

from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.pruning import DivPrune, FastV, Random, Uniform

OPTIONS = GenerationOptions(max_new_tokens=4)


@pytest.fixture
def seen(monkeypatch):
    """How many images each call of a method's choice is given."""
    calls = []
    for method in (DivPrune, Uniform, Random, FastV):
        inner = method.select_budgets

        def counted(self, images, budgets, inner=inner):
            calls.append((self.name, len(images)))
            return inner(self, images, budgets)

        monkeypatch.setattr(method, "select_budgets", counted)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_every_family(family, seen):
    vlm = tiny.vlm(family)
    layers = [3] if family in ("paligemma", "qwen3_vl") else [0, 3]
    configs = configurations(["uniform", "divprune", "random"], [0.5, 0.2], layers)
    shared_runs(vlm, expressions(vlm), configs, OPTIONS)
    assert {n for name, n in seen if name == "uniform"} == {3} and {n for name, n in seen if name == "random"} == {6}
    if 0 in layers:
        assert ("divprune", 3) in seen
    check(vlm, expressions(vlm), configs, OPTIONS)


def test_pictures_are_known_by_their_pixels_not_by_their_names(seen):
    vlm = tiny.vlm("internvl")
    configs = configurations("divprune", [0.5, 0.2], 0)
    for order, names, distinct in (([0, 1, 0], ["a", "a", "b"], 3), ([0, 0, 1], None, 2), ([0, 0, 1], "aaa", 2)):
        seen.clear()
        shared_runs(vlm, expressions(vlm, order, names), configs, OPTIONS)
        assert seen == [("divprune", distinct)]
    seen.clear()
    shared_runs(vlm, tiny.encoded(vlm, 2), configs, OPTIONS)  # nobody has said anything about images
    assert seen == [("divprune", 2)]


def test_reports_of_expressions_are_their_own():
    vlm = tiny.vlm("internvl")
    encoded = expressions(vlm, [0, 0])
    assert encoded.pictures == [0, 0]
    run = shared_runs(vlm, encoded, configurations("uniform", [0.5, 0.2], 0), OPTIONS)[0]
    first, second = run.selections
    assert first.info == second.info and first.info is not second.info
