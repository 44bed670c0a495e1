"""Criteria of heads against slow definitions, and each of them on the embedded model."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from scipy import stats

import biaslab as bl
from biaslab.core.images import load_image
from biaslab.diagnostics.heads.ablation import by_ablation, silenced
from biaslab.diagnostics.heads.agreement import compare_ratings
from biaslab.diagnostics.heads.of_maps import by_auroc, by_localization, by_quality
from biaslab.diagnostics.heads.own_answers import OwnAnswers, output_projection
from biaslab.diagnostics.heads.projections import by_projection, pro
from biaslab.diagnostics.heads.ratings import HeadRatings, groups_of, ratings_of
from biaslab.diagnostics.heads.summary import rating_sentences
from biaslab.errors import InputError, UnsupportedError
from biaslab.profiles import LocalizationHeadsProfile, head_quality
from biaslab.workflows.rank_heads import rank_heads

pytestmark = pytest.mark.slow

LAYERS = [2, 3]


@pytest.fixture(scope="module")
def scenes():
    every = bl.load_dataset("scenes", split="calibration", n=30)
    return list({s.image_id: s for s in every}.values())[:6]  # one question an image


@pytest.fixture(scope="module")
def maps(grounder, scenes, tmp_path_factory):
    return bl.collect(
        grounder, scenes, prompt=[grounder.family.grounding_prompt(s.expression) for s in scenes], layers=LAYERS,
        heads="all", out=tmp_path_factory.mktemp("rank") / "maps", progress=False,
    )  # fmt: skip


class Listed(list):
    """Samples as a data set."""

    name = "listed"


def encode(vlm, samples):
    return vlm.encode_grounding([load_image(s) for s in samples], [s.expression for s in samples])


# -- by what heads attend to ---------------------------------------------------------------------------------------
def test_ratings_of_maps_are_those_of_the_profiles_and_of_the_ranking(grounder, scenes, maps):
    quality = by_quality(maps, LAYERS, np.arange(6)).table()
    wanted = head_quality(maps)
    assert quality["value"].tolist() == pytest.approx(wanted["quality"].tolist())
    assert quality["lo"].tolist() == pytest.approx(wanted["lo"].tolist())  # six images: six groups
    votes = LocalizationHeadsProfile().fit(maps).votes_.set_index(["layer", "head"])["frequency"]
    found = by_localization(maps, LAYERS, np.arange(6)).table().set_index(["layer", "head"])["value"]
    assert found[votes.index].tolist() == pytest.approx(votes.tolist())
    ranked = bl.score_ranking(grounder, Listed(scenes), layers=LAYERS, heads="all", n_resamples=10, progress=False)
    auroc = by_auroc(maps, LAYERS, np.arange(6), [s.box for s in scenes]).table()
    assert auroc["value"].tolist() == pytest.approx(ranked["auroc"].tolist(), abs=1e-5)


def test_intervals_leave_out_groups_and_stay_within_bounds():
    each = np.random.default_rng(0).normal(size=(50, 1, 2))
    groups = groups_of([str(i) for i in range(50)])
    found = ratings_of("x", [4], groups, lambda mask: each[mask].mean(0))
    assert len(found.left_out) == 20 and np.bincount(groups).tolist() == [3] * 10 + [2] * 10
    assert found.left_out[7, 0, 1] == pytest.approx(np.delete(each[:, 0, 1], [7, 27, 47]).mean())
    bounded = HeadRatings("x", [4], found.values, found.left_out, bounds=(0.0, 0.01)).table()
    assert bounded["lo"].min() >= 0 and bounded["hi"].max() <= 0.01
    assert sorted(found.table()["rank"]) == [1, 2]
    with pytest.raises(InputError, match="at least 4 images"):
        groups_of(["a", "b", "c", "c"])
    assert groups_of([f"{i // 2}" for i in range(60)]).tolist()[38:44] == [19, 19, 0, 0, 1, 1]  # with its image


# -- by the model's own answer -------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_the_loss_of_the_own_answer_is_that_of_its_generation(family, monkeypatch):
    vlm = tiny.vlm(family)
    ids = {
        vlm.image_token_id,
        *(getattr(vlm.model.config, n, None) for n in ("video_token_id", "vision_start_token_id")),
    }
    monkeypatch.setattr(vlm.model.generation_config, "suppress_tokens", sorted(i for i in ids if i is not None))
    enc = vlm.encode(tiny.images(2, seed=1), tiny.texts(2))
    answers = OwnAnswers.of(vlm, vlm.vision(enc))
    with torch.no_grad():
        together = answers.loss(vlm)
    steps = answers.answers.shape[1]
    with vlm.running(enc) as inputs, torch.no_grad():
        out = vlm.model.generate(**inputs, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True,
                                 output_logits=True, pad_token_id=0)  # fmt: skip
    assert torch.equal(out.sequences[:, enc.last + 1 :][answers.counted], answers.answers[answers.counted])
    each = torch.nn.functional.cross_entropy(torch.stack(out.logits, 1).mT, answers.answers, reduction="none")
    wanted = (each * answers.counted).sum(1) / answers.counted.sum(1)
    torch.testing.assert_close(together, wanted, atol=2e-4, rtol=2e-4)


def test_a_silent_head_is_one_whose_weights_are_zero(grounder, scenes):
    enc = encode(grounder, scenes[:2])
    answers = OwnAnswers.of(grounder, enc)
    assert answers.counted.all(1).tolist() == [True, True] and answers.answers.shape[1] > 5
    weight = output_projection(grounder, 3).weight
    with torch.no_grad():
        plain = answers.loss(grounder)
        with silenced(grounder, 3, 2):
            silent = answers.loss(grounder)
        kept = weight.clone()
        width = weight.shape[1] // 4
        weight[:, 2 * width : 3 * width] = 0
        wanted = answers.loss(grounder)
        weight.copy_(kept)
        again = answers.loss(grounder)
    assert torch.equal(plain, again) and not torch.allclose(plain, silent)
    torch.testing.assert_close(silent, wanted, atol=1e-6, rtol=1e-6)
    with pytest.raises(RuntimeError, match="on purpose"), silenced(grounder, 3, 2):
        raise RuntimeError("on purpose")
    assert not output_projection(grounder, 3)._forward_pre_hooks


def test_ablation_does_not_depend_on_batches(grounder, scenes):
    whole = by_ablation(grounder, [encode(grounder, scenes[:4])], [3], np.arange(4), progress=False)
    single = by_ablation(grounder, (encode(grounder, [s]) for s in scenes[:4]), [3], np.arange(4), progress=False)
    np.testing.assert_allclose(whole.values, single.values, atol=1e-4)
    np.testing.assert_allclose(whole.left_out, single.left_out, atol=1e-4)


def test_pro_is_a_step_in_both_coordinates():
    """Against automatic differentiation of what the filter does, F / D times the norm that it starts with."""
    torch.manual_seed(0)
    weight, target = torch.randn(7, dtype=torch.double), torch.randn(7, dtype=torch.double)
    size = weight.norm()
    filters, scale = weight.clone().requires_grad_(), size.clone().requires_grad_()
    ((filters * size / scale - target) ** 2).sum().backward()
    for lam in (0.01, 0.3):
        wanted = (weight - lam * filters.grad).norm() / (size - lam * scale.grad).abs()
        torch.testing.assert_close(pro(weight, filters.grad, lam), wanted)


def test_projections_are_those_of_the_mean_gradient(grounder, scenes):
    lam, shown = 50.0, scenes[:4]  # a long step: curved enough to be seen
    found = by_projection(grounder, lambda i: encode(grounder, [shown[i]]), [3], np.arange(4), lam=lam, progress=False)
    weight = output_projection(grounder, 3).weight
    assert not weight.requires_grad and weight.grad is None  # as it was
    gradients = []
    weight.requires_grad_(True)
    for sample in shown:
        (own,) = torch.autograd.grad(OwnAnswers.of(grounder, encode(grounder, [sample])).loss(grounder).sum(), [weight])
        gradients.append(own)
    weight.requires_grad_(False)

    def of(which):
        mean = torch.stack([gradients[i] for i in which]).mean(0)
        width = weight.shape[1] // 4
        heads = [slice(h * width, (h + 1) * width) for h in range(4)]
        return [1000 * (float(pro(weight[:, h].flatten(), mean[:, h].flatten(), lam)) - 1) for h in heads]

    np.testing.assert_allclose(found.values[0], of(range(4)), rtol=1e-3, atol=0.05)
    for group in range(4):
        np.testing.assert_allclose(
            found.left_out[group, 0], of([i for i in range(4) if i != group]), rtol=1e-3, atol=0.05
        )


def test_what_cannot_be_rated_is_refused(grounder, scenes, monkeypatch):
    with pytest.raises(InputError, match="lam must be above 0"):
        by_projection(grounder, lambda i: encode(grounder, [scenes[i]]), [3], np.arange(4), lam=0, progress=False)
    monkeypatch.delattr(type(grounder.decoder.layers[3].self_attn), "o_proj", raising=False)
    monkeypatch.delitem(grounder.decoder.layers[3].self_attn._modules, "o_proj")
    with pytest.raises(UnsupportedError, match=r"no self_attn.o_proj: rate its heads by quality"):
        by_ablation(grounder, [], [3], np.arange(4), progress=False)


# -- together ------------------------------------------------------------------------------------------------------
def test_agreement_is_that_of_ranks_and_of_sets():
    rng = np.random.default_rng(0)
    one, two = (HeadRatings(n, [0, 1], v, np.stack([v] * 4)) for n, v in (("a", rng.normal(size=(2, 5))),
                                                                           ("b", rng.normal(size=(2, 5)))))  # fmt: skip
    (row,) = compare_ratings([one, two], top=4).to_dict("records")
    assert row["spearman"] == pytest.approx(stats.spearmanr(one.values.ravel(), two.values.ravel()).statistic)
    best = [set(np.argsort(-r.values.ravel())[:4]) for r in (one, two)]
    assert row["shared"] == len(best[0] & best[1]) and row["by_chance"] == 1.6
    flat = HeadRatings("flat", [0, 1], np.zeros((2, 5)), np.zeros((4, 2, 5)))
    table = pd.concat([one.table(), flat.table()])
    said = rating_sentences(table, compare_ratings([one, flat]))
    assert "Whether a and flat agree is not known" in said[-1]
    with pytest.raises(InputError, match="top must be"):
        compare_ratings([one, two], top=0)


def test_everything_is_written_and_resumed(grounder, scenes, tmp_path):
    found = rank_heads(grounder, scenes, out=tmp_path / "h", layers=LAYERS, progress=False)
    assert {f.name for f in found.files} >= {"ratings.csv", "agreement.csv", "card.md", "figure.pdf", "figure.png"}
    assert found.ratings["criterion"].unique().tolist() == ["quality", "localization", "auroc"]
    read = pd.read_csv(tmp_path / "h" / "ratings.csv")
    np.testing.assert_allclose(read["value"], found.ratings["value"])
    card = (tmp_path / "h" / "card.md").read_text()
    assert "Rank correlation of quality and auroc" in card and "## localization" in card
    again = rank_heads(grounder, scenes, out=tmp_path / "h", layers=LAYERS, progress=False)
    pd.testing.assert_frame_equal(again.ratings, found.ratings)
    for wrong, reason in (({"criteria": ["size"]}, "among quality"), ({"criteria": "ippro", "lam": 0.0}, "above 0"),
                          ({"layers": [99]}, "99"), ({"top": 0}, "top must be")):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            rank_heads(grounder, scenes, out=tmp_path / "x", progress=False, **wrong)
    with pytest.raises(InputError, match="at least 4"):
        rank_heads(grounder, scenes[:3], out=tmp_path / "x", progress=False)
    assert not (tmp_path / "x").exists()
