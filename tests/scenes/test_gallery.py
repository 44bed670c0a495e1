from collections import Counter

import numpy as np
import pytest
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from biaslab.datasets.gallery import GalleryDataset, GalleryQuestions
from biaslab.errors import InputError
from biaslab.scenes.drawings import COLOURLESS, STYLES, UNFAMILIAR_STYLE, drawing
from biaslab.scenes.expressions import RELATION_CLEAR, RELATIONS, Expression
from biaslab.scenes.gallery import CATEGORIES, DOMAINS, grid_of, picture, picture_size, visual_tiles
from biaslab.scenes.gallery.cast import POPULAR, THEME_OF
from biaslab.scenes.gallery.forms import FORMS, HELD_OUT, held_out_expression
from biaslab.scenes.gallery.painters import KINDS, UNFAMILIAR_KIND
from biaslab.scenes.gallery.signs import LONGEST, SIGN, WORDS
from biaslab.scenes.objects import COLOURS, NAMES, TINTABLE


@pytest.fixture(scope="module")
def shown():
    return [picture("validation", i) for i in range(150)]


def test_a_picture_is_the_same_whenever_it_is_drawn():
    for domain in DOMAINS:
        a, b = picture("train", 11, domain=domain), picture("train", 11, domain=domain)
        assert np.array_equal(np.asarray(a.image), np.asarray(b.image)) and a.things == b.things
        assert a.questions() == b.questions() and a.expressions == b.expressions
        assert a.image.size == picture_size("train", 11)
    other = picture("test", 11)
    assert other.image.size != picture("train", 11).image.size


def test_tiles_are_those_of_the_processor():
    for size in [picture_size("train", i) for i in range(400)] + [(300, 300), (100, 100), (237, 237), (238, 238)]:
        assert grid_of(size) == get_optimal_tiled_canvas((size[1], size[0]), (168, 168), 1, 6)
    assert {visual_tiles(grid_of(picture_size("train", i))) for i in range(200)} == {1, 3, 4, 5, 7}


@pytest.mark.slow
def test_boxes_are_tight_around_what_is_visible(shown):
    for made in shown[:40]:
        for k, thing in enumerate(made.things, start=1):
            ys, xs = np.nonzero(made.owner == k)
            assert thing.box.as_tuple() == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_objects_span_the_sizes_and_can_be_made_out(shown):
    shares = np.array([t.share_of_side for made in shown for t in made.things if t.name != SIGN])
    assert shares.min() < 0.065 and shares.max() > 0.6
    for made in shown:
        columns, rows = made.grid
        scale = 168 * np.sqrt(columns * rows) / np.sqrt(made.image.width * made.image.height)
        for thing in made.things:
            # a fifth may lie outside and a quarter be covered
            assert max(thing.box.width, thing.box.height) * scale > 18 * 0.5


def test_what_is_unfamiliar_is_never_trained_on(shown):
    assert {t.style for made in shown for t in made.things} == {*STYLES, "sign"}
    assert {made.kind for made in shown} == set(KINDS)
    for domain, style, kind in (("style", True, False), ("background", False, True), ("both", True, True)):
        for made in (picture("test", i, domain=domain) for i in range(6)):
            assert all((t.style == UNFAMILIAR_STYLE) == style for t in made.things if t.name != SIGN)
            assert (made.kind == UNFAMILIAR_KIND) == kind


def test_every_style_draws_every_object():
    for style in (*STYLES, UNFAMILIAR_STYLE):
        for name in NAMES:
            assert max(drawing(name, style).size) >= 140
        for name in TINTABLE:
            if (style, name) in COLOURLESS:
                continue
            solid = np.asarray(drawing(name, style).getchannel("A")) > 200
            for colour, wanted in COLOURS.items():
                hsv = drawing(name, style, colour).convert("RGB").convert("HSV")
                hue, saturation, value = (np.asarray(c).astype(int)[solid] for c in hsv.split())
                full = (saturation > 120) & (value > 100)
                near = np.minimum(abs(hue - wanted), 256 - abs(hue - wanted)) < 6
                assert full.mean() > 0.2 and near[full].mean() > 0.8, (name, style, colour)


def test_answers_are_true(shown):
    checked = Counter()
    for made in shown:
        names = Counter(t.name for t in made.things)
        for question in made.questions():
            kind, head = question.category, question.heads[0]
            fit = [t for t in made.things if head.matches(t)]
            if kind.startswith("existence"):
                assert question.answer == ("yes" if names[head.name] else "no")
                if question.answer == "no" and kind == "existence-popular":
                    assert head.name in POPULAR
                if question.answer == "no" and kind == "existence-adversarial":
                    assert THEME_OF[head.name] in {THEME_OF[t.name] for t in made.things if t.name != SIGN}
            elif kind == "counting":
                assert question.answer == str(names[head.name])
            elif kind in ("colour", "size"):
                assert len(fit) == 1 and question.answer == getattr(fit[0], kind)
            elif kind == "relation":
                (mark,) = fit
                words = next(words for words in RELATIONS if words in question.text)
                ahead = [
                    t.name
                    for t in made.things
                    if (np.array(t.centre) - mark.centre) @ np.array(RELATIONS[words]) > RELATION_CLEAR
                ]
                assert ahead == [question.answer]
            elif kind == "comparison":
                areas = {h.name: next(t.box.area for t in made.things if t.name == h.name) for h in question.heads}
                assert question.answer == max(areas, key=areas.__getitem__)
            else:
                assert question.answer == made.text and SIGN in names
            checked[kind] += 1
    assert set(checked) == set(CATEGORIES) and min(checked.values()) > 20


@pytest.mark.slow
def test_answers_are_balanced():
    answers = {}
    for sample in GalleryQuestions("calibration", n=1800):
        answers.setdefault(sample.expression_type, Counter())[sample.answers[0]] += 1
    for kind in ("existence-random", "existence-popular", "existence-adversarial", "size"):
        a, b = answers[kind].values()
        assert abs(a - b) < 3.3 * np.sqrt(a + b), kind  # three standard deviations of a fair coin and some more
    for kind, options in (("counting", 6), ("colour", 5)):
        counts = np.array(list(answers[kind].values()))
        assert len(counts) == options
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 20  # chi square, 5 degrees of freedom: 0.1 %


def test_held_out_forms_are_new_and_made_of_known_words(shown):
    known = {w.strip("?,.:") for forms in FORMS.values() for form in forms for w in form.split()}
    known |= {w for words in RELATIONS for w in words.split()} | {"a"}
    for kind, form in HELD_OUT.items():
        assert form not in FORMS[kind]
        assert {w.strip("?,.:") for w in form.split()} <= known, kind
    trained = {q.text for made in shown for q in made.questions()}
    asked = [q for made in shown for q in made.questions(held_out=True)]
    assert not trained & {q.text for q in asked}
    said = [held_out_expression(e) for made in shown for e in made.expressions]
    assert len([s for s in said if s]) > 100 and all(" that is " in s for s in said if s)


def test_signs_say_no_name_of_an_object():
    assert not set(WORDS) & {*NAMES, SIGN} and max(map(len, WORDS)) == LONGEST <= 6


def test_data_sets_hold_their_first_samples_whatever_their_length():
    long, short = GalleryDataset("test", n=12), GalleryDataset("test", n=5)
    assert list(long)[:5] == list(short) and long.hash != short.hash
    assert next(iter(long)).image().size == (next(iter(long)).width, next(iter(long)).height)
    asked = list(GalleryQuestions("test", n=12, domain="both", forms="held-out"))
    assert len(asked) == 12 and len({q.id for q in asked}) == 12
    assert asked[0].image().size == (asked[0].width, asked[0].height)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: picture("tset", 0), "unknown split 'tset'"),
        (lambda: picture("test", -1), "negative"),
        (lambda: picture("test", 0, domain="odd"), "choose one of familiar, style"),
        (lambda: GalleryDataset("test", n=0), "at least 1"),
        (lambda: GalleryQuestions("test", forms="new"), "choose one of trained, held-out"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, says):
    with pytest.raises(InputError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_held_out_expression_leaves_out_what_it_cannot_say():
    from biaslab.scenes.expressions import Head

    assert held_out_expression(Expression("left cat", "location", 0, Head("cat"))) is None
    assert held_out_expression(Expression("the leftmost cat", "location", 0, Head("cat"))) == "the cat that is leftmost"
