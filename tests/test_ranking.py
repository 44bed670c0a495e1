"""Ranking of the target's tokens without generation: against a direct computation, debiased, per head."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from sklearn.metrics import roc_auc_score
from toy_grounding import Toy

from biaslab import capture, collect
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.grounding import best_heads, score_ranking
from biaslab.grounding.metrics import target_tokens
from biaslab.profiles import MeanProfile

VLM = tiny.vlm("internvl")


def rank(**options):
    return score_ranking(
        VLM, options.pop("dataset", Toy()), **({"progress": False, "n_boot": 100, "batch_size": 4} | options)
    )


def rows_of(sample, layer):
    """(heads, N) attention of the last token, one sample alone."""
    encoded = VLM.encode_grounding([sample.image()], [sample.expression])
    with capture(VLM, [layer]) as rows:
        VLM.forward(encoded)
    return rows[layer].values[0, :, 0].numpy(), target_tokens(encoded.layouts[0], sample.box)


@pytest.fixture(scope="module")
def profile():
    maps = collect(VLM, tiny.images(8), ids=[str(i) for i in range(8)], progress=False)
    return MeanProfile().fit(maps)


def test_raw_auroc_and_kept_share_equal_a_direct_computation():
    table = rank(keep=(0.5, 2)).set_index("layer")
    assert table.index.tolist() == [0, 1, 2, 3] and set(table["op"]) == {"raw"} and set(table["head"]) == {"mean"}
    for layer in range(4):
        aucs, half, two = [], [], []
        for sample in Toy():
            attention, target = rows_of(sample, layer)
            scores = attention.mean(0)
            aucs.append(roc_auc_score(target, scores))
            order = np.argsort(-scores, kind="stable")
            half.append(target[order[: len(scores) // 2]].sum() / target.sum())
            two.append(target[order[:2]].sum() / target.sum())
        row = table.loc[layer]
        assert row["auroc"] == pytest.approx(np.mean(aucs), abs=1e-4)
        assert (row["kept@0.5"], row["kept@2"]) == pytest.approx((np.mean(half), np.mean(two)))
        assert row["auroc_lo"] <= row["auroc"] <= row["auroc_hi"] and row["n"] == 6


def test_debiasing_by_the_profile(profile):
    table = rank(layers=[1], profile=profile, ops=["raw", "ratio", "zscore"]).set_index("op")
    expected = []
    for sample in Toy():
        attention, target = rows_of(sample, 1)
        layout = VLM.encode_grounding([sample.image()], [sample.expression]).layouts[0]
        bias = profile.expected(layout, 1)[0].numpy()
        expected.append(roc_auc_score(target, attention.mean(0) / (bias + 1e-7)))
    assert table.loc["ratio", "auroc"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert table.loc["ratio", "auroc"] != table.loc["raw", "auroc"] != table.loc["zscore", "auroc"]
    assert rank(layers=1, profile=profile)["op"].tolist() == ["raw", "ratio"]


def test_the_best_head_is_chosen_here_and_reported_there():
    every = rank(heads=None, layers=[0, 2])
    assert len(every) == 2 * 4 and every["head"].tolist() == [0, 1, 2, 3] * 2
    aucs = [np.mean([roc_auc_score(t, a[h]) for a, t in (rows_of(s, 2) for s in Toy())]) for h in range(4)]
    assert every[every["layer"] == 2]["auroc"].to_numpy() == pytest.approx(aucs, abs=1e-4)
    best = best_heads(every)
    assert best[2] == int(np.argmax(aucs))
    chosen = rank(heads=best, layers=[0, 2]).set_index("layer")
    assert chosen.loc[2, "head"] == best[2] and chosen.loc[2, "auroc"] == pytest.approx(max(aucs), abs=1e-4)
    with pytest.raises(InputError, match="heads=None"):
        best_heads(rank(layers=[0]))


def test_failures_and_targets_without_tokens_are_left_out(caplog):
    toy = Toy(missing=(2,))
    object.__setattr__(toy.samples[3], "box", toy.samples[3].box.__class__(-30, -30, -10, -10))
    table = rank(dataset=toy, layers=[1])
    assert table.loc[0, "n"] == 4 and table.loc[0, "errors"] == 1 and np.isfinite(table.loc[0, "auroc"])
    assert "sample s2 has no ranking" in caplog.text
    nothing = rank(dataset=Toy(2, missing=(0, 1)), layers=[1])
    assert nothing.loc[0, "n"] == 0 and nothing.loc[0, "errors"] == 2 and np.isnan(nothing.loc[0, "auroc"])


def test_refusals(profile):
    with pytest.raises(InputError, match="needs a profile"):
        rank(ops=["ratio"])
    with pytest.raises(InputError, match="unknown operation 'divide'.*raw, ratio"):
        rank(ops=["divide"], profile=profile)
    with pytest.raises(InputError, match="a head for every layer"):
        rank(heads={0: 1}, layers=[0, 1])
    with pytest.raises(ProfileMismatchError, match="head reduction"):
        rank(heads=None, profile=profile)
    with pytest.raises(InputError, match="batch_size"):
        rank(batch_size=0)
    with pytest.raises(InputError, match="layer"):
        rank(layers=[7])
