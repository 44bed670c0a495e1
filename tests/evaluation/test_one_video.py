"""Methods on one video: what is kept of each frame is what pruning alone keeps, and bad input is one line."""

from __future__ import annotations

import pytest
import tiny

from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.one_video import compare_on_video
from biaslab.pruning import FastV, prune


@pytest.mark.parametrize("budget", ["separate", "joint", None])
def test_answers_and_kept_tokens_are_those_of_pruning(budget):
    vlm, frames = tiny.vlm("internvl"), tiny.images(3, sizes=[(60, 60)])
    methods = ["none", "fastv", "adatp", "divprune@0.6@0+fastv:queries=null@0.3@2"]
    made = compare_on_video(
        vlm, frames, "What moves?", methods=methods, keep=0.3, layer=2, budget=budget, max_new_tokens=3
    )
    assert [answer.method for answer in made] == methods
    whole, fastv, adatp, staged = made
    tokens = [layout.n for layout in whole.layouts]
    assert whole.kept == tokens and len(tokens) == 3
    assert whole.text == vlm.ask([frames], "What moves?", frames=True, max_new_tokens=3)[0]
    with prune(vlm, FastV(keep=0.3), 2, budget=budget) as run:
        said = vlm.ask([frames], "What moves?", frames=True, max_new_tokens=3)
    assert fastv.text == said[0] and fastv.kept == [len(s.indices) for s in run.selections]
    each, together = [int(0.3 * n) for n in tokens], int(0.3 * sum(tokens))
    assert fastv.kept == each if budget != "joint" else sum(fastv.kept) == together
    assert sum(staged.kept) == (together if budget == "joint" else sum(each))
    assert sum(adatp.kept) == together if budget != "separate" else adatp.kept == each


def test_bad_input_is_refused_before_any_work():
    vlm, frames = tiny.vlm("internvl"), tiny.images(2, sizes=[(60, 60)])
    for changed, said in (
        ({"question": " "}, "empty question"),
        ({"frames": []}, "frames must be a list of at least one image"),
        ({"frames": "video.mp4"}, "frames must be a list"),
        ({"budget": "both"}, "budget must be 'separate' or 'joint'"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"methods": ["nonsense"]}, "nonsense"),
    ):
        options = {"frames": frames, "question": "What?", "methods": ["fastv"], "keep": 0.3, "layer": 2} | changed
        with pytest.raises(InputError, match=said):
            compare_on_video(vlm, options.pop("frames"), options.pop("question"), **options)
    with pytest.raises(UnsupportedError, match="frames=True is not for qwen2_vl"):
        compare_on_video(tiny.vlm("qwen2_vl"), frames, "What?", methods=["fastv"], keep=0.3, layer=2)
