"""Ranking of the target's tokens without generation: against a direct computation, debiased, per head."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import tiny
import torch
from sklearn.metrics import roc_auc_score
from toy_grounding import Toy

from biaslab import capture, collect
from biaslab.attention.scores import value_norm
from biaslab.diagnostics.ranking import best_heads, ranking_values, score_ranking
from biaslab.diagnostics.ranking_table import ranking_table
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.evaluation.metrics import kept_share, target_tokens
from biaslab.profiles import MeanProfile, debias

VLM = tiny.vlm("internvl")


def rank(**options):
    return score_ranking(
        VLM, options.pop("dataset", Toy()), **({"progress": False, "n_resamples": 100, "batch_size": 4} | options)
    )


def rows_of(sample, layer, **options):
    """(heads, N) attention of the last token, one sample alone."""
    encoded = VLM.encode_grounding([sample.image()], [sample.expression])
    with capture(VLM, [layer], **options) as rows:
        VLM.forward(encoded)
    return rows[layer].values[0, :, 0].numpy(), target_tokens(encoded.layouts[0], sample.box)


def fitted(**options):
    maps = collect(VLM, tiny.images(8), ids=[str(i) for i in range(8)], progress=False, **options)
    return MeanProfile().fit(maps)


@pytest.fixture(scope="module")
def profile():
    return fitted()


def direct(profile, layer, keep=0.2, strength=1.0, **options):
    """(samples, raw and ratio, AUROC and kept share) one sample at a time."""
    out = []
    for sample in Toy():
        attention, target = rows_of(sample, layer, **options)
        layout = VLM.encode_grounding([sample.image()], [sample.expression]).layouts[0]
        raw = torch.from_numpy(attention.mean(0))
        both = raw.numpy(), debias(raw, profile.expected(layout, layer)[0], strength=strength).numpy()
        best = [np.argsort(-s, kind="stable")[: max(1, int(keep * len(s)))] for s in both]
        out.append([[roc_auc_score(target, s), kept_share(b, target)] for s, b in zip(both, best, strict=True)])
    return np.array(out)


def test_raw_auroc_and_kept_share_equal_a_direct_computation():
    table = rank(keep=(0.5, 2)).set_index("layer")
    assert table.index.tolist() == [0, 1, 2, 3] and set(table["debias"]) == {"raw"} and set(table["head"]) == {"mean"}
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
    table = rank(layers=[1], profile=profile, debias=["raw", "ratio", "zscore"]).set_index("debias")
    expected = []
    for sample in Toy():
        attention, target = rows_of(sample, 1)
        layout = VLM.encode_grounding([sample.image()], [sample.expression]).layouts[0]
        bias = profile.expected(layout, 1)[0].numpy()
        expected.append(roc_auc_score(target, attention.mean(0) / (bias + 1e-7)))
    assert table.loc["ratio", "auroc"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert table.loc["ratio", "auroc"] != table.loc["raw", "auroc"] != table.loc["zscore", "auroc"]
    assert rank(layers=1, profile=profile)["debias"].tolist() == ["raw", "ratio"]


def test_the_best_head_is_chosen_here_and_reported_there():
    every = rank(heads="all", layers=[0, 2])
    assert len(every) == 2 * 4 and every["head"].tolist() == [0, 1, 2, 3] * 2
    aucs = [np.mean([roc_auc_score(t, a[h]) for a, t in (rows_of(s, 2) for s in Toy())]) for h in range(4)]
    assert every[every["layer"] == 2]["auroc"].to_numpy() == pytest.approx(aucs, abs=1e-4)
    best = best_heads(every)
    assert best[2] == int(np.argmax(aucs))
    chosen = rank(heads=best, layers=[0, 2]).set_index("layer")
    assert chosen.loc[2, "head"] == best[2] and chosen.loc[2, "auroc"] == pytest.approx(max(aucs), abs=1e-4)
    with pytest.raises(InputError, match="heads='all'"):
        best_heads(rank(layers=[0]))


def test_failures_and_targets_without_tokens_are_left_out(caplog):
    toy = Toy(missing=(2,))
    speck = toy.samples[3].box.__class__(31, 31, 31.0001, 31.0001)  # less than any token's share
    object.__setattr__(toy.samples[3], "box", speck)
    table = rank(dataset=toy, layers=[1])
    assert table.loc[0, "n"] == 4 and table.loc[0, "errors"] == 1 and np.isfinite(table.loc[0, "auroc"])
    assert "sample s2 has no ranking" in caplog.text
    nothing = rank(dataset=Toy(2, missing=(0, 1)), layers=[1])
    assert nothing.loc[0, "n"] == 0 and nothing.loc[0, "errors"] == 2 and np.isnan(nothing.loc[0, "auroc"])


def test_refusals(profile):
    with pytest.raises(InputError, match="needs a profile"):
        rank(debias=["ratio"])
    with pytest.raises(InputError, match="unknown operation 'divide'.*raw, ratio"):
        rank(debias=["divide"], profile=profile)
    with pytest.raises(InputError, match="a head for every layer"):
        rank(heads={0: 1}, layers=[0, 1])
    with pytest.raises(ProfileMismatchError, match="head reduction"):
        rank(heads="all", profile=profile)
    with pytest.raises(InputError, match="batch_size"):
        rank(batch_size=0)
    with pytest.raises(InputError, match="layer"):
        rank(layers=[7])
    with pytest.raises(InputError, match="no layers are asked for"):
        rank(layers=[])
    with pytest.raises(InputError, match="keep must be a ratio"):
        rank(keep=(0.1, 1.5))
    with pytest.raises(InputError, match="no head 4: this model has heads 0 .. 3"):
        rank(heads={0: 4}, layers=[0])
    with pytest.raises(InputError, match="strength has no layer 1"):
        rank(profile=profile, strength={0: 1.0}, layers=[0, 1])
    with pytest.raises(InputError, match=r"strength must lie in \[0, 1\], got 1.5"):
        rank(profile=profile, strength=1.5)
    with pytest.raises(InputError, match="score must be"):
        rank(score="beauty")
    with pytest.raises(ProfileMismatchError, match="fitted for score 'attention', not 'value_norm'"):
        rank(profile=profile, score="value_norm")


def test_intervals_and_gains_equal_loops_over_images(profile):
    table = rank(layers=[1, 2], profile=profile, keep=(0.2,), n_resamples=80).set_index(["layer", "debias"])
    images = np.array([s.image_id for s in Toy()])
    names = np.unique(images)
    draws = np.random.default_rng(0).integers(0, len(names), (80, len(names)))
    values = {layer: direct(profile, layer) for layer in (1, 2)}

    def interval(column):
        means = [np.concatenate([column[images == names[i]] for i in row]).mean() for row in draws]
        return [column.mean(), *np.percentile(means, [2.5, 97.5])]

    for at, name in enumerate(("auroc", "kept@0.2")):
        prefix = "" if name == "auroc" else f"{name}_"
        raw_p, flipped = {}, {}
        for layer in (1, 2):
            for o, op in enumerate(("raw", "ratio")):
                got = table.loc[(layer, op), [name, f"{name}_lo", f"{name}_hi"]].to_numpy(float)
                np.testing.assert_allclose(got, interval(values[layer][:, o, at]), atol=1e-4)
            gain = values[layer][:, 1, at] - values[layer][:, 0, at]
            got = table.loc[(layer, "ratio"), [f"{prefix}gain{end}" for end in ("", "_lo", "_hi")]].to_numpy(float)
            np.testing.assert_allclose(got, interval(gain), atol=1e-4)
            sums = np.array([gain[images == i].sum() for i in names])
            flipped[layer] = [abs(np.dot(s, sums)) / np.sqrt((sums**2).sum()) for s in product([1, -1], repeat=3)]
            raw_p[layer] = np.mean(np.array(flipped[layer]) >= flipped[layer][0] - 1e-9)
            assert table.loc[(layer, "ratio"), f"{prefix}p"] == raw_p[layer]
        strong = max(flipped, key=lambda layer: flipped[layer][0])
        both = np.max(list(flipped.values()), axis=0)
        assert table.loc[(strong, "ratio"), f"{prefix}p_adjusted"] == np.mean(both >= flipped[strong][0] - 1e-9)
    assert table.xs("raw", level="debias")[["gain", "p", "p_adjusted", "kept@0.2_gain"]].isna().all(axis=None)
    assert not any("gain" in c or c == "p" for c in rank(layers=[1]))
    assert not any("gain" in c for c in rank(layers=[1], profile=profile, debias=["ratio"]))


def test_strength_of_each_layer(profile):
    table = rank(profile=profile, layers=[1, 2], strength={1: 0.4, 2: 0.0, 3: 1.0}).set_index(["layer", "debias"])
    expected = direct(profile, 1, strength=0.4)[:, 1, 0].mean()
    assert table.loc[(1, "ratio"), "auroc"] == pytest.approx(expected, abs=1e-4)
    assert table.loc[(2, "ratio"), "auroc"] == pytest.approx(table.loc[(2, "raw"), "auroc"], abs=1e-9)
    full = rank(profile=profile, layers=[1]).set_index("debias")
    assert full.loc["ratio", "auroc"] != pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("score", ["value_norm", value_norm])
def test_another_score_with_its_own_profile(score):
    own = fitted(score="value_norm", layers=[1])
    table = rank(layers=[1], profile=own, score=score).set_index("debias")
    expected = direct(own, 1, score="value_norm")[..., 0].mean(0)
    assert table.loc[["raw", "ratio"], "auroc"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert table.loc["raw", "auroc"] != pytest.approx(rank(layers=[1]).loc[0, "auroc"], abs=1e-4)
    with pytest.raises(ProfileMismatchError, match="fitted for score 'value_norm', not 'attention'"):
        rank(layers=[1], profile=own)


def test_values_say_whose_they_are_and_tables_are_made_of_parts(profile):
    toy = Toy(missing=(2,))
    options = {"profile": profile, "layers": [0, 3], "keep": (0.5, 2), "batch_size": 4, "progress": False}
    measured = ranking_values(VLM, toy, **options)
    assert measured.values.shape == (6, 2, 2, 1, 3) and measured.measures == ["auroc", "kept@0.5", "kept@2"]
    assert measured.ids.tolist() == [s.id for s in toy] and measured.images.tolist() == [s.image_id for s in toy]
    assert measured.failed.tolist() == [i == 2 for i in range(6)] and np.isnan(measured.values[2]).all()
    assert measured.centres[1] == pytest.approx([15 / toy.samples[1].width, 29.5 / toy.samples[1].height])
    frame = measured.frame()
    assert len(frame) == 6 * 2 * 2
    cell = frame.query("sample == 's4' and layer == 3 and debias == 'ratio'").iloc[0]
    np.testing.assert_array_equal(cell[measured.measures].to_numpy(float), measured.values[4, 1, 1, 0])
    assert (cell["image"], cell["head"], cell["y"]) == ("image2", "mean", measured.centres[4, 1])

    odd = np.arange(6) % 2 == 1
    table = ranking_table(measured, subsets={"all": np.ones(6, bool), "odd": odd, "even": ~odd}, n_resamples=50)
    whole = ranking_table(measured, n_resamples=50)
    of = {name: part.drop(columns="subset").reset_index(drop=True) for name, part in table.groupby("subset")}
    same = [c for c in whole if "p_adjusted" not in c]
    assert of["all"][same].equals(whole[same])
    assert (of["odd"]["n"] == 3).all() and (of["even"][["n", "errors"]] == [2, 1]).all(axis=None)
    assert of["odd"]["auroc"].to_numpy() == pytest.approx(measured.values[odd, ..., 0].mean(0).ravel())
    # more hypotheses in the family
    ratio = whole["debias"] == "ratio"
    assert (of["all"]["p_adjusted"] >= whole["p_adjusted"])[ratio].all()
    with pytest.raises(InputError, match="subset 'odd' is no mask"):
        ranking_table(measured, subsets={"odd": odd[:3]})
    with pytest.raises(InputError, match="no subsets"):
        ranking_table(measured, subsets={})
