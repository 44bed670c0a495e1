"""What a student has learned, measured: against plain loops on planted maps, and end to end on every family."""

import numpy as np
import pytest
import tiny
import torch
from planted_lookahead import LAYOUT, WIDE, bias, stored

from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.collect import collect
from biaslab.profiles import LookaheadProfile
from biaslab.profiles.lookahead.foresight import foresee
from biaslab.profiles.lookahead.learned import held_out, learned_places, question_tokens, word_weights
from biaslab.profiles.lookahead.training import Lessons

QUICK = {"rank": 16, "epochs": 20, "batch_size": 32, "learning_rate": 2e-2}


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("planted") / "maps")


@pytest.fixture(scope="module")
def profile(maps):
    return LookaheadProfile(**QUICK).fit(maps)


def spelled(maps):
    """Of each prompt: fillers, the name of a kind, and the filler again."""
    out = {}
    for i in range(maps.n):
        name = maps.record(i).id
        out[name] = ["filler"] * (len(maps.features.text(name)) - 2) + ["kind", "filler"]
    return out


@pytest.mark.slow
def test_places_are_means_over_pictures_not_over_prompts(profile, maps):
    chosen = [0, 1, 2, 5, 8]  # two prompts of the first image, one each of others
    found = learned_places(profile, maps, images=chosen)
    each = {}
    for i in chosen:
        name = maps.record(i).id
        s = profile.relevance(*(torch.from_numpy(f(name)) for f in (maps.features.visual, maps.features.text)), LAYOUT)
        each.setdefault(maps.features.place(name).picture, []).append(profile.scale * (s - s.mean()).double().numpy())
    pictures = np.stack([np.mean(own, axis=0) for own in each.values()])
    assert len(pictures) == 4 == found["pictures"].iloc[0]
    np.testing.assert_allclose(found["student"], pictures.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["se"], pictures.std(0, ddof=1) / 2, atol=1e-6)
    np.testing.assert_allclose(found["teacher"], profile.teacher.expected_log(LAYOUT))


@pytest.mark.slow
def test_a_student_of_biased_attention_leans_and_one_of_debiased_does_not(profile, maps):
    raw = LookaheadProfile(debiased=False, **QUICK).fit(maps)
    lean = {}
    for name, own in (("debiased", profile), ("raw", raw)):
        found = learned_places(own, maps)
        lean[name] = np.polyfit(bias(LAYOUT), found["student"], 1)[0]
    assert abs(lean["debiased"]) < 0.2 * lean["raw"]


def test_the_word_that_names_the_kind_weighs(profile, maps):
    found = word_weights(profile, maps, spelled(maps)).set_index("token")
    assert list(found.index) == ["kind", "filler"] and found.loc["kind", "weight"] > 3 * found.loc["filler", "weight"]
    assert found["share"].sum() == pytest.approx(1) and found.loc["kind", "n"] == maps.n
    # as a loop says
    i = 7
    name = maps.record(i).id
    own = profile.word_weights(torch.from_numpy(maps.features.text(name)))
    assert own.sum() == pytest.approx(1) and (own > 0).all()
    alone = word_weights(profile, maps, spelled(maps), images=[i]).set_index("token")
    assert alone.loc["kind", "weight"] == pytest.approx(float(own[-2])) and np.isnan(alone.loc["kind", "se"])
    assert alone.loc["filler", "weight"] == pytest.approx(float((own.sum() - own[-2]) / (len(own) - 1)))
    assert alone["even"].tolist() == pytest.approx([1 / len(own)] * 2)


def test_what_is_held_out_is_what_the_fit_held_out(profile, maps):
    learned, held = Lessons(maps, np.zeros(0, np.float32), np.zeros(1, np.int64)).split()
    assert held_out(maps) == held and len(held) == profile.provenance_["held_out"]["images"]


def test_refusals(profile, maps):
    with pytest.raises(InputError, match="no prompt of these maps has the layout"):
        learned_places(profile, maps, layout=WIDE)
    wrong = {name: words[:-1] for name, words in spelled(maps).items()}
    for tokens in (wrong, {}):
        with pytest.raises(InputError, match="pass question_tokens.. of the prompts that were collected"):
            word_weights(profile, maps, tokens)
    blind = LookaheadProfile(reads=False, **{**QUICK, "epochs": 1}).fit(maps)
    with pytest.raises(InputError, match="does not look at the question"):
        word_weights(blind, maps, spelled(maps))


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_of_one_picture_in_every_family(family, tmp_path):
    """Relevance and later attention are those that the maps of that image give."""
    vlm, n = tiny.vlm(family), 6
    pictures, prompts = tiny.images(n), tiny.texts(n)
    maps = collect(
        vlm, pictures, prompt=prompts, heads="all", features=True, out=tmp_path / "maps", progress=False, batch_size=1
    )
    profile = LookaheadProfile(rank=8, epochs=1, heads=[(3, 0), (2, 1)]).fit(maps)
    seen = foresee(profile, vlm, pictures[4], prompts[4])
    record = maps.record(4)
    assert seen.layout.key == record.layout.key
    np.testing.assert_allclose(seen.attention, profile.teacher.target(maps, 4), atol=1e-3)
    read = (torch.from_numpy(f(record.id)) for f in (maps.features.visual, maps.features.text))
    np.testing.assert_allclose(seen.relevance, profile.relevance(*read, record.layout).numpy(), atol=1e-4)
    spelled_ = dict(zip((maps.record(i).id for i in range(n)), question_tokens(vlm, prompts), strict=True))
    assert word_weights(profile, maps, spelled_)["n"].sum() == sum(map(len, spelled_.values()))
    with pytest.raises(ProfileMismatchError, match="with other weights"):
        foresee(profile, tiny.vlm(family, heads=8), pictures[0], prompts[0])
