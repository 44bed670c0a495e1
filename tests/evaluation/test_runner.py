"""The evaluation: what a line says, one forward per configuration, errors, resuming after a kill, refusals."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import toy_grounding as toy
from toy_grounding import Toy, run, same

from biaslab import capture
from biaslab.errors import InputError, ProfileMismatchError, UnsupportedError
from biaslab.evaluation.metrics import auroc, target_tokens
from biaslab.evaluation.result_rows import COLUMNS
from biaslab.evaluation.runner import evaluate
from biaslab.evaluation.single_image import compare_methods
from biaslab.profiles import MeanProfile
from biaslab.pruning import FastV, Relative


@pytest.fixture
def vlm(monkeypatch):
    """The tiny InternVL with answers that can be right or wrong."""
    model = tiny.vlm("internvl")
    monkeypatch.setattr(model.family, "parse_box", toy.hashed_box)
    return model


@pytest.fixture(scope="module")
def profile():
    return toy.profile()


def test_table_and_lines(vlm, tmp_path):
    results = run(tmp_path, vlm)
    assert list(results.table.columns) == COLUMNS and len(results.table) == 7 * 3
    assert results.complete and results.folder == tmp_path
    saved = pd.read_csv(tmp_path / "results.csv")
    assert list(saved.columns) == COLUMNS and len(saved) == 21
    samples = results.samples
    assert len(samples) == 42 and not samples.duplicated(["id", "key"]).any()
    assert (samples.query("method == 'none'")["tokens_kept"] == samples.query("method == 'none'")["tokens"]).all()
    for method in ("random", "fastv", "divprune"):
        part = samples[(samples["method"] == method) & (samples["keep"] == 0.2)]
        assert (part["tokens_kept"] == [max(1, int(0.2 * n)) for n in part["tokens"]]).all()
    overall = results.table.query("expression_type == 'all'").set_index(["method", "keep"])
    for (method, keep), row in overall.iterrows():
        part = samples[(samples["method"] == method) & (samples["keep"] == keep)]
        assert row["n"] == 6 and row["errors"] == 0
        assert row["acc50"] == pytest.approx((part["iou"] >= 0.5).mean())
        assert row["miou"] == pytest.approx(part["iou"].mean())
        assert row["unparsed"] + row["truncated"] == part["box"].isna().sum()
        assert row["retention"] == pytest.approx(row["acc50"] / overall.loc[("none", 1.0), "acc50"])
    assert 0 < overall["acc50"].mean() < 1
    assert samples["box"].isna().any()  # the toy exercises both outcomes


def test_scores_in_the_lines_are_those_of_the_engine(vlm):
    data = Toy()
    samples = run(vlm=vlm, methods=["fastv", "random"], dataset=data).samples
    for sample in data:
        encoded = vlm.encode_grounding([sample.image()], [sample.expression])
        with capture(vlm, [1], heads="mean") as rows:
            vlm.forward(encoded)
        scores = rows[1].values[0, 0, 0].numpy()
        target = target_tokens(encoded.layouts[0], sample.box)
        line = samples.query("id == @sample.id and method == 'fastv' and keep == 0.5").iloc[0]
        assert line["target_auroc"] == pytest.approx(float(auroc(scores, target)), abs=1e-4)
        best = np.argsort(-scores, kind="stable")[: len(scores) // 2]
        assert line["target_kept"] == pytest.approx(target[best].sum() / target.sum())
    assert samples.query("method == 'random'")["target_auroc"].isna().all()


def test_d2pruner_reports_its_selection(vlm, profile):
    samples = run(vlm=vlm, methods=["none", "d2pruner:diagnose=true"], keep=0.5, profile=profile).samples
    pruned = samples.query("method == 'd2pruner'")
    assert set(pruned["profile_hash"]) == {profile.hash} and set(samples.query("method == 'none'")["profile_hash"]) == {
        ""
    }
    assert {"edge_density", "mis_size", "filled", "overlap_topk", "degenerate"} <= set(pruned["info"].iloc[0])
    assert pruned["target_auroc"].notna().any()
    plain = run(vlm=vlm, methods=["d2pruner"], keep=0.5, profile=profile).samples
    assert not {"edge_density", "degenerate"} & set(plain["info"].iloc[0])  # the graph is not looked at unless asked
    assert set(plain["options_hash"]) == set(pruned["options_hash"])


def test_one_vision_pass_per_batch_and_one_prefill_per_configuration(vlm, monkeypatch):
    seen = {"vision": 0, "prefill": 0}
    features = vlm.model.get_image_features
    monkeypatch.setattr(
        vlm.model, "get_image_features", lambda *a, **k: seen.update(vision=seen["vision"] + 1) or features(*a, **k)
    )

    def count(module, args, kwargs):
        embeds = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
        seen["prefill"] += embeds.shape[1] > 1

    handle = vlm.decoder.register_forward_pre_hook(count, with_kwargs=True)
    run(vlm=vlm, plain=True)
    handle.remove()
    assert seen == {"vision": 2, "prefill": 2 * 7}  # 6 samples in batches of 4, 7 configurations
    assert not vlm.decoder._forward_pre_hooks


def test_batches_do_not_change_results(vlm):
    same(run(vlm=vlm, batch_size=1).samples, run(vlm=vlm, batch_size=4).samples)


def test_seed_changes_random_alone(vlm):
    a, b = (run(vlm=vlm, seed=seed, methods=["none", "fastv", "random"]).samples for seed in (0, 1))
    for method, equal in (("none", True), ("fastv", True), ("random", False)):
        kept = [frame.loc[frame["method"] == method, "target_kept"].tolist() for frame in (a, b)]
        assert (kept[0] == kept[1]) == equal, method


def test_times_and_flops(vlm):
    samples = run(vlm=vlm, plain=True).samples
    assert (samples["prefill_ms"] > 0).all() and (samples["decode_ms"] > 0).all() and samples["peak_mb"].isna().all()
    assert set(samples["batch"]) == {2, 4}
    flops = samples.pivot(index="id", columns="key", values="tflops_decoder")
    none = next(key for key in flops if key.startswith('["none"'))
    assert (flops.drop(columns=none).lt(flops[none], axis=0)).all().all()
    assert samples.groupby("id")["tflops_vision"].nunique().eq(1).all()


def test_prefill_time_includes_the_selection_and_the_first_token(vlm, monkeypatch):
    now, importance = [0.0], FastV.importance

    def tick(seconds, result=None):
        now[0] += seconds
        return result

    monkeypatch.setattr("biaslab.evaluation.stopwatch.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(FastV, "importance", lambda self, ctx: tick(1.0, importance(self, ctx)))
    handle = vlm.model.lm_head.register_forward_hook(lambda *_: tick(0.1))
    lines = run(vlm=vlm, methods=["fastv", "random"], keep=0.5, n=4, max_new_tokens=5, plain=True).samples
    handle.remove()
    times = lines.groupby("method")[["prefill_ms", "decode_ms"]].mean()
    assert times.loc["fastv"].tolist() == pytest.approx([(4 * 1000 + 100) / 4, 4 * 100 / 4])  # per sample of 4
    assert times.loc["random"].tolist() == pytest.approx([100 / 4, 4 * 100 / 4])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_other_families(family):
    samples = run(vlm=family, methods=["none", "fastv", "divprune"], keep=0.5, n=4).samples
    assert samples["error"].isna().all() and len(samples) == 12
    pruned = samples[samples["method"] != "none"]
    assert (pruned["tokens_kept"] == pruned["tokens"] // 2).all()
    assert samples["tflops_decoder"].notna().all() and samples["target_kept"].between(0, 1).all()


def test_reference(vlm):
    results = run(vlm=vlm, methods=["none", "fastv"], keep=0.5)
    assert results.reference is None and results.table["p_vs_reference"].isna().all()
    table = run(vlm=vlm, methods=["none", "fastv"], keep=0.5, reference="none").table
    assert table.groupby("method")["p_vs_reference"].count().to_dict() == {"fastv": 3, "none": 0}


# ------------------------------------------------------------------------------------------------------- errors
def test_missing_pictures_are_errors_not_misses(vlm):
    results = run(vlm=vlm, dataset=Toy(missing=(1, 4)))
    failed = results.samples[results.samples["error"].notna()]
    assert set(failed["id"]) == {"s1", "s4"} and len(failed) == 14
    assert failed["error"].str.contains("gone.jpg").all() and failed[["hit", "iou", "answer"]].isna().all().all()
    overall = results.table.query("expression_type == 'all'")
    assert (overall["n"] == 4).all() and (overall["errors"] == 2).all()
    whole = run(vlm=vlm).samples
    good = whole[~whole["id"].isin(["s1", "s4"])].reset_index(drop=True)
    same(good, results.samples[results.samples["error"].isna()].reset_index(drop=True))


@pytest.mark.slow
def test_an_exception_costs_one_sample_and_one_configuration(vlm, monkeypatch):
    reference = run(vlm=vlm).samples
    importance = FastV.importance

    def poisoned(self, ctx):
        if vlm.prefill.encoded.sample_ids and ctx.seed == poisoned.seed:
            raise RuntimeError("boom\nsecond line")
        return importance(self, ctx)

    from biaslab.pruning.engine.prompt import sample_seed

    poisoned.seed = sample_seed(0, "s2")
    monkeypatch.setattr(FastV, "importance", poisoned)
    results = run(vlm=vlm)
    failed = results.samples[results.samples["error"].notna()]
    assert set(zip(failed["id"], failed["method"], strict=True)) == {("s2", "fastv")} and len(failed) == 2
    assert set(failed["error"]) == {"RuntimeError: boom"}
    others = results.samples["error"].isna()
    same(reference[others].reset_index(drop=True), results.samples[others].reset_index(drop=True))
    table = results.table.query("expression_type == 'all'").set_index("method")
    assert (table["n"] == 5).all()  # compared on the samples that all configurations answered
    assert (table.loc["fastv", "errors"] == 1).all() and (table.loc[["none", "random"], "errors"] == 0).all()


def test_a_configuration_that_always_fails_does_not_hide_the_others(vlm, monkeypatch, caplog):
    monkeypatch.setattr(FastV, "importance", lambda self, ctx: 1 / 0)
    table = run(vlm=vlm).table.query("expression_type == 'all'").set_index("method")
    assert (table.loc["fastv", "n"] == 0).all() and (table.loc["fastv", "errors"] == 6).all()
    assert table.loc["fastv", "acc50"].isna().all()
    assert (table.loc[["none", "random", "divprune"], "n"] == 6).all()
    assert "12 of 42 sample runs failed" in caplog.text and "division by zero" in caplog.text


@pytest.mark.slow
def test_errors_can_be_tried_again(vlm, tmp_path):
    class Cure:
        broken = True

    data = Toy()
    good = data.samples[1].loader

    def loader():
        if Cure.broken:
            raise OSError("disk asleep")
        return good()

    object.__setattr__(data.samples[1], "loader", loader)
    assert run(tmp_path, vlm, data).table["errors"].max() == 1
    Cure.broken = False
    assert run(tmp_path, vlm, data).table["errors"].max() == 1  # a finished run is finished
    cured = run(tmp_path, vlm, data, retry_errors=True)
    assert cured.table["errors"].max() == 0
    same(cured.samples, run(vlm=vlm).samples)


# ------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": ["none", "fastw"]}, InputError, "unknown pruning method 'fastw'"),
        ({"methods": []}, InputError, "at least one method"),
        ({"methods": ["random", "random"]}, InputError, "random at keep 0.5, layer 2 is given twice"),
        ({"methods": ["relative"]}, InputError, "needs a profile: pass profile="),
        ({"methods": ["fastv", "fastv:score=attention"]}, InputError, "fastv at keep 0.5, layer 2 is given twice"),
        ({"methods": [3]}, InputError, "names or Method instances"),
        ({"keep": 0}, InputError, "keep"),
        ({"keep": 1.5}, InputError, "keep"),
        ({"layer": 9}, InputError, "layer"),
        ({"layer": 1.5}, InputError, "layer must be a whole number"),
        ({"layer": [0, 2]}, UnsupportedError, "fastv.*K >= 1"),
        ({"reference": "uniform"}, InputError, "not among the methods: choose one of none, random, fastv, divprune"),
        ({"positions": "other"}, InputError, "positions must be one of"),
        ({"batch_size": 0}, InputError, "batch_size must be a whole number >= 1"),
        ({"processes": 0}, InputError, "processes must be"),
        ({"n": 0}, InputError, "n must be"),
        ({"dataset": Toy(0)}, InputError, "data set is empty"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(tmp_path, change, error, message):
    with pytest.raises(error, match=message) as caught:
        run(tmp_path / "run", **({"dataset": Toy()} | change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_profile_of_another_model_or_layer_is_refused(vlm, profile, tmp_path):
    with pytest.raises(ProfileMismatchError, match="layers"):
        run(tmp_path / "run", vlm, methods=["relative"], layer=3, profile=profile)
    with pytest.raises(ProfileMismatchError, match="model"):
        run(tmp_path / "run", tiny.vlm("llava"), methods=["relative"], profile=profile)
    assert not (tmp_path / "run").exists()


def test_ids_must_be_unique(tmp_path):
    data = Toy()
    data.samples[1] = data.samples[0]
    with pytest.raises(InputError, match="same id"):
        run(tmp_path / "run", dataset=data)


def test_a_method_keeps_the_profile_it_has(vlm, profile):
    other = MeanProfile()._restore(
        profile.arrays_, profile.layouts_, profile.counts_, {**profile.provenance_, "prompt": "another"}
    )
    results = run(vlm=vlm, methods=[Relative(profile=other), Relative(debias="none")], profile=profile, keep=0.5)
    assert results.samples["profile_hash"].unique().tolist() == [other.hash, ""]


@pytest.mark.slow
def test_methods_as_words_with_options(vlm):
    words = run(vlm=vlm, methods=["none", "fastv:score=no_rope", "relative:debias=none"], keep=0.5, n=2)
    methods = ["none", FastV(score="no_rope"), Relative(debias="none")]
    same(words.samples, run(vlm=vlm, methods=methods, keep=0.5, n=2).samples)
    assert list(words.summary()["method"]) == ["none", "fastv:score=no_rope", "relative:debias=none"]
    (image,) = tiny.images(1)
    _, answer = compare_methods(vlm, image, "it", methods=["none", "fastv:queries=text"], keep=0.5, layer=2)
    assert answer.method == "fastv:queries=text"
    for word, message in (("fastv:sorce=no_rope", "has no option sorce"), ("fastv:score", "write fastv:score=value"),
                          ("fastv:score=", "write fastv:score=value"), ("none:keep=1", "takes no options"),
                          ("", "remove a comma"), (":", "remove a comma")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            run(vlm=vlm, methods=[word])


def test_n_counts_and_layers(vlm):
    results = run(vlm=vlm, methods=["none", "random", "divprune"], keep=[3, 0.5], layer=[0, 2], n=2)
    samples = results.samples
    assert samples["id"].unique().tolist() == ["s0", "s1"]
    counts = samples[[isinstance(keep, int) for keep in samples["keep"]]]
    assert (counts["tokens_kept"] == 3).all() and len(counts) == 8
    assert set(samples["layer"].dropna()) == {0, 2} and len(samples) == 2 * (1 + 2 * 2 * 2)
    unpruned = evaluate(vlm, Toy(), methods="none", keep=0.5, layer=2, progress=False, max_new_tokens=8)
    assert unpruned.table["retention"].eq(1).any()


def test_a_text_that_is_too_long_costs_itself_alone(vlm, monkeypatch):
    """It is found before its batch is encoded: the others are not padded to its length, nor run one by one."""
    whole = run(vlm=vlm, methods=["none", "random"], keep=0.5).samples
    data = Toy()
    for i, text in ((1, "cat " * 5000), (4, "the <IMG_CONTEXT> thing")):
        object.__setattr__(data.samples[i], "expression", text)
    lengths, prepare = [], type(vlm).prepare
    monkeypatch.setattr(
        type(vlm), "prepare", lambda self, *a, **k: lengths.append((made := prepare(self, *a, **k)).last) or made
    )
    samples = run(vlm=vlm, dataset=data, methods=["none", "random"], keep=0.5).samples
    assert len(lengths) == 2 and max(lengths) < 1000  # as many batches as without it
    failed = samples[samples["error"].notna()]
    assert failed["id"].tolist() == ["s1", "s1", "s4", "s4"]
    assert (
        failed["error"].iloc[0].startswith("InputError: the text takes ")
        and "the model has 4096" in failed["error"].iloc[0]
    )
    assert "image token" in failed["error"].iloc[2]
    drop = [*toy.TIMES, "sample_hash"]
    left = ~samples["id"].isin(["s1", "s4"])
    pd.testing.assert_frame_equal(
        samples[left].drop(columns=drop).reset_index(drop=True),
        whole[~whole["id"].isin(["s1", "s4"])].drop(columns=drop).reset_index(drop=True),
    )
    with pytest.raises(InputError, match="the model has 4096: shorten the expression"):
        compare_methods(vlm, data.samples[0], "cat " * 5000, methods=["none"], keep=0.5, layer=2)


def test_a_prompt_that_its_image_makes_too_long(vlm, monkeypatch):
    monkeypatch.setattr(vlm.model.config.text_config, "max_position_embeddings", 75)
    samples = run(vlm=vlm, methods="none", keep=0.5).samples
    longest = samples["error"].notna()
    assert 0 < longest.sum() < 6, samples["error"]
    assert samples.loc[longest, "error"].str.contains("the model has 75").all()
    assert samples.loc[~longest, "hit"].notna().all()
