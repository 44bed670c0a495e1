"""What methods read beside one kind of attention rows: a shared sweep provides it as one run for each does."""

from __future__ import annotations

import pytest
import tiny
import torch
from sweeps import check, expressions, shared_runs

from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions, run_once

pytestmark = pytest.mark.slow

METHODS = [
    "fastv:queries=null", "priortr", "priortr:queries=text", "fastv:reads_layer=own",
    "layer_ratio:reads_layer=own:over=1", "priortr:reads_layer=own", "sparsevlm",
    "sparsevlm:reads_layer=own:heads=top:score=rope_corrected", "direction_only", "direction_only:reads_layer=own",
    "dart", "ivc", "ivc:foreground=thumbnail", "protected", "quota:by=blocks:block=2:method=divprune",
    "quota:by=image:share=relevance:method=protected:rule=uniform3:method=d2pruner:debias=none",
]  # fmt: skip
OPTIONS = GenerationOptions(max_new_tokens=4)


@pytest.mark.parametrize("family", ["internvl", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
def test_whole_rows(family):
    """Images of unequal sizes, prompts of unequal lengths: the same to the last bit."""
    vlm = tiny.vlm(family)
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    cuts = [f"{method}@{keep}@{layer}" for method in METHODS for layer in (3, 2) for keep in (0.5, 0.2)]
    check(vlm, encoded, configurations(["none", *cuts], 0.5, None), OPTIONS)


@pytest.mark.parametrize("family", ["internvl", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
def test_images_that_run_once(family):
    vlm = tiny.vlm(family)
    encoded, configs = expressions(vlm), configurations([f"{method}@0.4@2" for method in METHODS], 0.5, None)
    runs = shared_runs(vlm, encoded, configs, OPTIONS)
    for i, config in enumerate(configs):
        plain = run_once(vlm, encoded, config, OPTIONS)
        for ours, theirs in zip(runs[i].selections, plain.selections, strict=True):
            assert torch.equal(ours.indices, theirs.indices), config.describe()
            if theirs.scores is not None:
                torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-3, atol=1e-6)
