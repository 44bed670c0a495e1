"""The conditional profile on planted attention: what it learns, keeps apart and refuses, and that it repeats."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from planted_lookahead import KINDS, LAYOUT, WIDE, WIDTH, bias, image, stored, words

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.stored import load_maps
from biaslab.profiles import GeometricProfile, LookaheadProfile, load, select_estimator, variance_explained
from biaslab.profiles.lookahead import student as lookahead_student
from biaslab.profiles.lookahead.student import PLACES, Student, places
from biaslab.profiles.lookahead.training import Lessons

pytestmark = pytest.mark.slow

QUICK = {"rank": 16, "epochs": 30, "batch_size": 32, "learning_rate": 2e-2}


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("planted") / "maps")


@pytest.fixture(scope="module")
def profile(maps):
    return LookaheadProfile(**QUICK).fit(maps)


def asked_for(seed=5, layout=LAYOUT):
    """A new image: its kinds, features, and the question about one of them."""
    rng = np.random.default_rng(seed)
    kinds, visual = image(rng, layout)
    kind = next(k for k in np.unique(kinds) if k)
    text = np.concatenate([rng.normal(size=(2, WIDTH)), words()[0][kind][None]])
    return kinds == kind, torch.from_numpy(visual).float(), torch.from_numpy(text).float()


def correlation(a, b):
    return float(np.corrcoef(np.asarray(a, dtype=float), np.asarray(b, dtype=float))[0, 1])


# -- what it learns ----------------------------------------------------------------------------------------------
def test_the_head_that_looks_teaches(profile):
    (teacher,) = profile.provenance_["teacher"]
    assert teacher == [3, 1, 1.0] and profile.layers_ == [0]
    assert profile.quality_.set_index(["layer", "head"])["quality"].idxmax() == (3, 1)


def test_what_is_asked_for_is_foreseen_in_new_pictures(profile):
    for seed in range(20):
        wanted, visual, text = asked_for(seed)
        scores = profile.relevance(visual, text, LAYOUT)
        assert scores.shape == (LAYOUT.n,) and scores.dtype == torch.float32
        best = scores.topk(int(wanted.sum())).indices.numpy()
        assert wanted[best].mean() > 0.7, seed


def test_position_is_a_term_apart(profile, maps):
    positional = profile.teacher.expected_log(LAYOUT)
    assert correlation(positional, bias(LAYOUT)) > 0.97
    # over many images and questions, debiased relevance leans to no place; with the term it does
    rng = np.random.default_rng(3)
    bare, biased = np.zeros(LAYOUT.n), np.zeros(LAYOUT.n)
    for _ in range(200):
        _, visual = image(rng, LAYOUT)
        question = torch.from_numpy(words()[0][rng.integers(KINDS)][None]).float()
        args = (torch.from_numpy(visual).float(), question, LAYOUT)
        bare += profile.relevance(*args).numpy()
        biased += profile.relevance(*args, position=True).numpy()
    lean = [np.polyfit(bias(LAYOUT), scores, 1)[0] for scores in (bare, biased)]
    assert correlation(biased, bias(LAYOUT)) > 0.9 and abs(lean[0]) < 0.15 * lean[1]
    # what it shows as expectation is the positional profile of the head
    alone = GeometricProfile().fit(maps, layers=[3]).expected(LAYOUT, 3)[1]
    assert torch.equal(profile.expected(LAYOUT, 0)[0], alone)


def test_what_is_explained_is_measured_on_other_pictures(profile, tmp_path):
    others = stored(tmp_path / "others", n=60, seed=1)
    table = profile.explained(others).set_index("explained by")["r2"]
    assert table.iloc[0] < 0.4 < 0.6 < table.iloc[1] < 1
    assert profile.score(others) == table.iloc[1]
    assert abs(profile.provenance_["held_out"]["all"] - table.iloc[1]) < 0.15
    # as a loop says: the best scale of the student's map for what position leaves
    total = left = 0.0
    rests, maps_ = [], []
    for i in range(others.n):
        log = np.log(others.image(i, 3)[1].astype(float) + 1e-9)
        log -= log.mean()
        rest = log - profile.teacher.expected_log(LAYOUT)
        name = others.record(i).id
        s = (
            profile.relevance(
                torch.from_numpy(others.features.visual(name)), torch.from_numpy(others.features.text(name)), LAYOUT
            )
            .double()
            .numpy()
        )
        total, left = total + (log**2).sum(), left + (rest**2).sum()
        rests.append(rest)
        maps_.append(s - s.mean())
    scale = (np.concatenate(rests) @ np.concatenate(maps_)) / (np.concatenate(maps_) ** 2).sum()
    final = ((np.concatenate(rests) - scale * np.concatenate(maps_)) ** 2).sum()
    assert table.iloc[0] == pytest.approx(1 - left / total, abs=1e-3)
    assert table.iloc[1] == pytest.approx(1 - final / total, abs=1e-3)


def test_without_the_question_it_knows_less(maps, profile):
    blind = LookaheadProfile(reads=False, **QUICK).fit(maps)
    assert blind.provenance_["held_out"]["all"] < profile.provenance_["held_out"]["all"] - 0.1
    _, visual, text = asked_for()
    assert torch.equal(blind.relevance(visual, text, LAYOUT), blind.relevance(visual, 2 * text[:1], LAYOUT))


def test_undebiased_teachers_hand_position_on(maps):
    raw = LookaheadProfile(debiased=False, **QUICK).fit(maps)
    rng = np.random.default_rng(4)
    total = np.zeros(LAYOUT.n)
    for _ in range(100):
        _, visual = image(rng, LAYOUT)
        total += raw.relevance(torch.from_numpy(visual).float(), torch.zeros(1, WIDTH) + 1, LAYOUT).numpy()
    assert correlation(total, bias(LAYOUT)) > 0.6


def test_several_tilings_and_one_that_was_not_fitted(tmp_path):
    fitted = LookaheadProfile(**QUICK).fit(stored(tmp_path / "maps", layouts=(LAYOUT, WIDE)))
    assert set(fitted.counts_) == {LAYOUT.key, WIDE.key}
    for layout in (LAYOUT, WIDE):
        wanted, visual, text = asked_for(8, layout)
        assert wanted[fitted.relevance(visual, text, layout).topk(int(wanted.sum())).indices.numpy()].mean() > 0.5
    other = type(LAYOUT).raster(6, 6, size=(60, 60), family="toy")
    wanted, visual, text = asked_for(9, other)
    fitted.check(layer=0, layout=other, family="toy")
    assert fitted.relevance(visual, text, other).shape == (36,)


# -- the fit ---------------------------------------------------------------------------------------------------------
def test_held_out_pictures_are_whole(maps):
    lessons = Lessons(maps, np.zeros(0, np.float32), np.zeros(1, np.int64))
    learned, held = lessons.split()
    pictures = [{maps.features.place(maps.record(i).id).picture for i in part} for part in (learned, held)]
    assert not pictures[0] & pictures[1] and sorted(learned + held) == list(range(maps.n))
    assert 0.03 < len(held) / maps.n < 0.25


def test_the_curve_is_kept_and_the_best_epoch_taken(profile):
    curve = profile.curve_
    assert list(curve) == ["epoch", "train", "held_out", "floor"]
    assert curve["held_out"].min() < curve["held_out"].iloc[0] - 0.2
    assert (curve["held_out"] > curve["floor"]).all()


def test_it_stops_when_nothing_is_learned_any_more(tmp_path):
    few = stored(tmp_path / "maps", n=20, questions=1)
    fitted = LookaheadProfile(**{**QUICK, "epochs": 60, "patience": 3, "batch_size": 4}).fit(few)
    last = fitted.curve_["epoch"].iloc[-1]
    assert last < 59 and last - fitted.curve_["held_out"].idxmin() == 3


def test_the_same_maps_and_seed_give_the_same_profile(maps):
    brief = {**QUICK, "epochs": 2}
    first, again, other = (LookaheadProfile(**brief, seed=seed).fit(load_maps(maps.folder)) for seed in (0, 0, 1))
    assert first.hash == again.hash != other.hash
    assert not [path for path in maps.folder.iterdir() if path.name not in {
        "maps.json", "images.jsonl", "features.jsonl", "visual.f16", "text.f16", "layer-001.f32", "layer-003.f32",
    } and not path.name.startswith(".")]  # fmt: skip


def test_it_comes_back_from_its_file(profile, tmp_path):
    path = profile.save(tmp_path / "la")
    loaded = load(path)
    assert type(loaded) is LookaheadProfile and loaded.hash == profile.hash
    _, visual, text = asked_for()
    for position in (False, True):
        want = profile.relevance(visual, text, LAYOUT, position=position)
        assert torch.equal(loaded.relevance(visual, text, LAYOUT, position=position), want)
    assert torch.equal(loaded.expected(LAYOUT, 0), profile.expected(LAYOUT, 0))
    for kept in ("curve_", "quality_"):  # a loaded one still draws its figures
        pd.testing.assert_frame_equal(getattr(loaded, kept), getattr(profile, kept))
    again = load(loaded.save(tmp_path / "again"))
    assert again.hash == profile.hash and len(again.quality_) == 4


def test_its_card_says_what_a_reader_wants(profile, tmp_path):
    path = profile.save(tmp_path / "la")
    card = path.with_suffix(".md").read_text()
    p, best = profile.provenance_, profile.quality_.set_index(["layer", "head"]).loc[(3, 1)]
    assert card.startswith("# Conditional profile la.safetensors") and "by position, content and question" in card
    for line in (
        f"| position | {100 * p['held_out']['position']:.1f} % |",
        f"| position, content and question | {100 * p['held_out']['all']:.1f} % |",
        f"| 3 | 1 | 1.00 | {best['quality']:.2f} | {best['lo']:.2f} to {best['hi']:.2f} | ",
        "| tokens are dropped before | layer 0 |",
        f"| learned from | {p['learned_from']} prompts on {p['pictures']['learned_from']} images |",
        f"| held out | {p['held_out']['images']} prompts on {p['pictures']['held_out']} other images |",
        f"| parameters | {p['parameters']:,} (",
        "| time of the fit | ",
    ):
        assert line in card, line
    assert p["learned_from"] + p["held_out"]["images"] == p["n"] > sum(p["pictures"].values())
    assert "Positional bias profile" not in card
    # a positional one beside it keeps its own words, and either may be written over the other
    GeometricProfile().fit(stored(tmp_path / "few", n=30)).save(path)
    text = path.with_suffix(".md").read_text()
    assert text.startswith("# Positional bias profile la.safetensors") and "## The fit" not in text
    profile.save(path)


def test_a_file_without_the_tables_still_reads(profile, tmp_path):
    """As earlier versions wrote it: no curve, no quality of heads, no count of images."""
    (layer,) = profile.layers_
    arrays = {part: named for part, named in profile.arrays_[layer].items() if part not in ("curve", "quality")}
    provenance = {name: value for name, value in profile.provenance_.items() if name != "pictures"}
    older = LookaheadProfile(**QUICK)._restore({layer: arrays}, profile.layouts_, profile.counts_, provenance)
    loaded = load(older.save(tmp_path / "older"))
    assert loaded.curve_.empty and loaded.quality_.empty and loaded.hash == older.hash
    card = (tmp_path / "older.md").read_text()
    assert "| 3 | 1 | 1.00 | - | - | - | - |" in card and "best epoch" not in card


def test_a_fit_that_goes_astray_is_no_profile(maps):
    with pytest.raises(InputError, match="its loss is no number. Fit again with a lower learning_rate than 1e"):
        LookaheadProfile(**{**QUICK, "epochs": 3, "learning_rate": 1e30}).fit(maps)
    with pytest.raises(InputError, match="rank must be a multiple of 4, got 6"):
        LookaheadProfile(**{**QUICK, "rank": 6}).fit(maps)


# -- the student -----------------------------------------------------------------------------------------------------
def test_padding_changes_nothing():
    student = Student(WIDTH, 8)
    g = torch.Generator().manual_seed(0)
    shapes = [(LAYOUT, 4), (WIDE, 9), (LAYOUT, 1)]
    visual = [torch.randn(layout.n, WIDTH, generator=g) for layout, _ in shapes]
    text = [torch.randn(t, WIDTH, generator=g) for _, t in shapes]
    place = [torch.from_numpy(places(layout)) for layout, _ in shapes]
    pad = lambda parts: torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)  # noqa: E731
    counts = torch.tensor([len(x) for x in visual])
    shown = torch.arange(int(counts.max()))[None] < counts[:, None]
    together = student(pad(visual), pad(place), pad(text), shown, torch.tensor([len(x) for x in text]))
    for i, n in enumerate(counts.tolist()):
        alone = student(visual[i][None], place[i][None], text[i][None])[0]
        torch.testing.assert_close(together[i, :n], alone, atol=1e-5, rtol=1e-5)
        assert (together[i, n:] == 0).all()


def test_scales_and_widths_do_not_matter():
    student = Student(WIDTH, 8)
    g = torch.Generator().manual_seed(0)
    visual, text = torch.randn(1, LAYOUT.n, WIDTH, generator=g), torch.randn(1, 5, WIDTH, generator=g)
    place = torch.from_numpy(places(LAYOUT))[None]
    want = student(visual, place, text)
    torch.testing.assert_close(student(1e3 * visual + 7, place, 1e-2 * text), want, atol=1e-4, rtol=1e-4)


def test_keys_are_of_centred_and_scaled_features():
    """As the definition says, feature by feature and in float64, of features in any number type."""
    student, g = Student(WIDTH, 8), torch.Generator().manual_seed(0)
    place = torch.from_numpy(places(LAYOUT))[None]
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        visual = (torch.randn(2, LAYOUT.n, WIDTH, generator=g) + 3).to(dtype)
        visual[1] = visual[1, :1]  # an image whose tokens are all alike: nothing is divided by zero
        centred = visual.double() - visual.double().mean(1, keepdim=True)
        scaled = torch.nn.functional.normalize(centred, dim=-1) * 0.577 * WIDTH**0.5
        whole = torch.cat([scaled, place.double().expand(2, -1, -1)], -1)
        want = whole @ student.key.weight.double().T + student.key.bias.double()
        got = student.keys(visual, place)
        assert got.dtype == torch.float32 and got.isfinite().all()
        torch.testing.assert_close(got[0].double(), want[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("cells", [1, 2 * LAYOUT.n * WIDTH, 2**27])
def test_images_are_scored_together_as_each_alone(monkeypatch, cells, reads):
    """One by one, two at a time and all at once; questions of unequal lengths, places of one layout or of several."""
    monkeypatch.setattr(lookahead_student, "_CELLS_ON_CPU", cells)
    student, g = Student(WIDTH, 8, reads=reads).eval(), torch.Generator().manual_seed(0)
    torch.nn.init.normal_(student.out.weight, generator=g)  # tokens look at each other
    visual = torch.randn(5, LAYOUT.n, WIDTH, generator=g)
    texts = [torch.randn(t, WIDTH, generator=g) for t in (4, 9, 4, 1, 9)]
    several = torch.randn(5, LAYOUT.n, PLACES, generator=g)
    for place in (several[:1], several):
        got = student.relevance(visual, place, texts)
        for i, text in enumerate(texts):
            alone = student(visual[i][None], place[i % len(place)][None], text[None])[0]
            torch.testing.assert_close(got[i], alone, atol=1e-5, rtol=1e-5)
            assert cells > 1 or torch.equal(got[i], alone)


@pytest.mark.parametrize("position", [False, True])
def test_a_profile_scores_images_together(profile, position):
    other = TokenLayout.raster(LAYOUT.grid[1], LAYOUT.grid[0], size=LAYOUT.size, family=LAYOUT.family)
    layouts = [LAYOUT, LAYOUT if position else other, LAYOUT]  # the positional part does not transport
    _, visual, texts = zip(*(asked_for(seed) for seed in range(3)), strict=True)
    for kinds in (layouts, [LAYOUT] * 3):
        got = profile.relevance_batch(torch.stack(visual), texts, kinds, position=position)
        for own, *asked in zip(got, visual, texts, kinds, strict=True):
            assert torch.equal(own, profile.relevance(*asked, position=position))


def test_places_are_those_of_the_image():
    table = places(WIDE)
    assert table.shape == (WIDE.n, PLACES) and np.isfinite(table).all()
    np.testing.assert_allclose(table[:, 0] + 0.5, WIDE.centers[:, 0], atol=1e-6)
    np.testing.assert_allclose(2.0 ** table[:, 6], WIDE.boxes[:, 3] - WIDE.boxes[:, 1], rtol=1e-5)
    assert np.array_equal(table[:, 7] == 1, WIDE.thumbnail)


# -- refusals --------------------------------------------------------------------------------------------------------
def test_what_it_cannot_be_fitted_to(tmp_path, maps):
    from biaslab.maps.simulate import simulate

    with pytest.raises(InputError, match="features=True"):
        LookaheadProfile().fit(simulate("u-shaped", {LAYOUT: 30}).maps)
    lonely = stored(tmp_path / "one", n=1, questions=6)
    with pytest.raises(InputError, match="several images"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LookaheadProfile(**QUICK).fit(lonely)
    with pytest.raises(InputError, match="the maps hold layers"):
        LookaheadProfile(**QUICK).fit(maps, layers=[7])
    for heads in ("all", [], [(3, 2)], [(2, 0)], 3):
        with pytest.raises(InputError, match="pairs .layer, head. of layers .1, 3. and heads 0 .. 1"):
            LookaheadProfile(heads=heads, **QUICK).fit(maps)


def test_what_it_is_refused_for(profile, maps):
    for use, words_ in [
        ({"layer": 2}, "enters layer 0, not 2"),
        ({"model": "other", "family": "toy"}, "'toy', not 'other'"),
    ]:
        with pytest.raises(ProfileMismatchError, match=words_):
            profile.check(**use)
    for ask, options in (
        (variance_explained, {"estimator": "lookahead", "layer": 3}),
        (select_estimator, {"candidates": ["lookahead"]}),
    ):
        with pytest.raises(InputError, match="predicts from what is shown and asked"):
            ask(maps, **options)
    assert "lookahead" not in set(select_estimator(maps).table["estimator"])
