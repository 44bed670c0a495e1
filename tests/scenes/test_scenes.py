import sys

import numpy as np
import pytest

from biaslab.errors import InputError
from biaslab.scenes import EXPRESSION_TYPES, SPLITS, expressions, scene
from biaslab.scenes.backgrounds import CANVAS
from biaslab.scenes.objects import NAMES, TINTABLE, object_image, tinted

SCENES = [scene("validation", i) for i in range(40)]


def test_scene_is_always_the_same():
    again = scene("validation", 3)
    assert np.array_equal(np.asarray(again.image), np.asarray(SCENES[3].image))
    assert again.objects == SCENES[3].objects
    assert again.expressions == SCENES[3].expressions


def test_splits_share_no_scene():
    images = [scene(split, 0).image.tobytes() for split in SPLITS]
    assert len(set(images)) == len(SPLITS)


def test_boxes_are_tight_around_what_is_visible():
    for s in SCENES[:10]:
        for number, thing in enumerate(s.objects, start=1):
            ys, xs = np.nonzero(s.owner == number)
            assert thing.box.as_tuple() == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_objects_are_more_than_half_visible(monkeypatch):
    module, areas = sys.modules[scene.__module__], []

    def sprite(*args, **kw):
        drawn = real_sprite(*args, **kw)
        areas.append(int((np.asarray(drawn.getchannel("A")) > 127).sum()))
        return drawn

    def place(*args):
        where = real_place(*args)
        if where is None:  # found no room: not an object of the scene
            areas.pop()
        return where

    real_sprite, real_place = module.sprite, module._place
    monkeypatch.setattr(module, "sprite", sprite)
    monkeypatch.setattr(module, "_place", place)
    for i in range(10):
        areas.clear()
        s = scene("validation", i)
        shares = [(s.owner == k).sum() / area for k, area in enumerate(areas, start=1)]
        assert len(shares) == len(s.objects) and all(0.5 < share <= 1 for share in shares)


def _holds(text: str, things, candidate) -> bool:
    """An independent reading of an expression: does `candidate` satisfy every word of it?"""
    words = text.removeprefix("the ").split()
    at = next(k for k, w in enumerate(words) if w in NAMES)
    before, name, after = words[:at], words[at], words[at + 1 :]
    sizes, colours = {"small", "big"}, {"red", "yellow", "green", "blue", "purple"}
    described = [
        o for o in things
        if o.name == name and all(w == o.size for w in before if w in sizes)
        and all(w == o.colour for w in before if w in colours)
    ]  # fmt: skip
    if candidate not in described:
        return False
    x, y = candidate.centre
    signs = {"left": -x, "right": x, "top": -y, "bottom": y}
    for relation, side in (("left of", "left"), ("right of", "right"), ("above", "top"), ("below", "bottom")):
        if relation in " ".join(after):
            phrase = " ".join(after).split(f"{relation} the ", 1)[1].split()
            (mark,) = [
                o for o in things
                if o.name == phrase[-1] and all(w in (o.size, o.colour) for w in phrase[:-1])
            ]  # fmt: skip
            mx, my = mark.centre
            far = {"left": mx - x, "right": x - mx, "top": my - y, "bottom": y - my}[side]
            return far > 0.05
    places = [w.removesuffix("most") for w in (*before, *after) if w.removesuffix("most") in signs]
    if not places:
        return len(described) == 1
    score = sum(signs[p] for p in places)
    others = [sum({"left": -o.centre[0], "right": o.centre[0], "top": -o.centre[1], "bottom": o.centre[1]}[p]
                  for p in places) for o in described if o is not candidate]  # fmt: skip
    return all(score > other for other in others)


def test_expressions_fit_their_target_and_nothing_else():
    seen = dict.fromkeys(EXPRESSION_TYPES, 0)
    for k, s in enumerate(SCENES):
        made = expressions.sample(np.random.default_rng(k), s.objects, 12)
        for e in (*s.expressions, *made):
            fits = [j for j, o in enumerate(s.objects) if _holds(e.text, s.objects, o)]
            assert fits == [e.target], (s.id, e.text, fits)
            seen[e.expression_type] += 1
    assert min(seen.values()) > 50


def test_sizes_and_places_are_spread():
    areas = np.array([o.box.area / CANVAS**2 for s in SCENES for o in s.objects])
    assert 0.05 < np.median(areas) < 0.13
    assert np.quantile(areas, 0.1) < 0.04
    centres = np.array([s.objects[e.target].centre for s in SCENES for e in s.expressions])
    quadrants = np.histogram2d(*centres.T, bins=2, range=[[0, 1], [0, 1]])[0] / len(centres)
    assert quadrants.min() > 0.12


def test_colours_change_only_objects_that_have_one():
    for s in SCENES:
        assert all((o.colour is not None) == (o.name in TINTABLE) for o in s.objects)
    red, blue = (np.asarray(tinted("car", c)).astype(int) for c in ("red", "blue"))
    assert np.array_equal(red[..., 3], blue[..., 3])
    assert np.abs(red - blue)[..., :3].max() > 100
    assert max(object_image("car").size) <= 96


@pytest.mark.parametrize(("split", "index"), [("nowhere", 0), ("test", -1)])
def test_bad_scene_is_refused(split, index):
    with pytest.raises(InputError):
        scene(split, index)
