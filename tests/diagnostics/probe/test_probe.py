"""The causal probe's images and measurement: the crossed design, capture by hand, kills and resumption."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

from biaslab.attention.capture import capture
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe import ProbeDesign, ProbeResult, design_for, measure
from biaslab.diagnostics.probe.measuring import footprint
from biaslab.errors import InputError, RunFolderError
from biaslab.scenes.objects import NAMES


@pytest.fixture
def cutouts(tmp_path):
    """Two cut-outs, a red disc and a blue bar, and two backgrounds."""
    objects, grounds = tmp_path / "objects", tmp_path / "grounds"
    objects.mkdir(), grounds.mkdir()
    for name, colour, box in (("red-disc_2", (255, 0, 0), (10, 10, 50, 50)), ("bar", (0, 0, 255), (0, 20, 60, 30))):
        image = Image.new("RGBA", (60, 60))
        image.paste((*colour, 255), box)
        image.save(objects / f"{name}.png")
    for i, grey in enumerate((40, 200)):
        Image.new("RGB", (90, 70), (grey,) * 3).save(grounds / f"{i}.png")
    return objects, grounds


# ------------------------------------------------------------------------------------------ the design
def test_every_pair_stands_at_every_place_with_the_same_pixels():
    design = ProbeDesign(grid=(4, 5), size=(200, 160), pairs=2, repetitions=2, scale=(0.8, 1.4))
    shown = list(design)
    assert len(shown) == len(design) == 2 * 20 * 2
    assert len({s.id for s in shown}) == len(shown)
    for pair in range(2):
        mine = [s for s in shown if s.pair == pair]
        assert len({s.name for s in mine}) == 1 and mine[0].expression == f"the {mine[0].name}"
        assert {(s.row, s.col) for s in mine} == {(r, c) for r in range(4) for c in range(5)}
        assert len({(s.box.width, s.box.height) for s in mine}) == 1
        pictures = np.stack([np.asarray(s.image, int) for s in mine])
        ground = np.median(pictures, axis=0)  # each pixel is covered in a minority of the images
        for s, picture in zip(mine, pictures, strict=True):
            x0, y0, x1, y1 = (int(v) for v in s.box.as_tuple())
            changed = (picture != ground).any(2)
            assert changed[y0:y1, x0:x1].any()
            changed[y0:y1, x0:x1] = False
            assert not changed.any()


def test_objects_reach_into_their_cell_and_stay_in_the_picture():
    design = ProbeDesign(grid=(8, 8), size=(224, 224), pairs=3, scale=(1.5, 2.5))
    centres = []
    for s in design:
        x0, y0, x1, y1 = s.box.as_tuple()
        assert 0 <= x0 < x1 <= 224 and 0 <= y0 < y1 <= 224
        assert min(x1, 28 * (s.col + 1)) > max(x0, 28 * s.col)
        assert min(y1, 28 * (s.row + 1)) > max(y0, 28 * s.row)
        if 2 <= s.row < 6 and 2 <= s.col < 6:
            centres.append((np.array(s.box.center) / 28) % 1)
    spread = np.array(centres)
    assert spread.min() < 0.1 and spread.max() > 0.9 and abs(spread.mean() - 0.5) < 0.1  # the place inside is jittered


def test_pictures_follow_from_the_seed_and_pairs_share_no_object():
    a, b, c = (ProbeDesign(grid=(3, 3), pairs=5, scale=(0.3, 0.5), seed=s) for s in (0, 0, 1))
    one, same, other = (d.stimulus(4, 1, 2) for d in (a, b, c))
    assert one.image.tobytes() == same.image.tobytes() and one.box == same.box
    assert one.image.tobytes() != other.image.tobytes()
    assert len(set(a.groups)) == 5 and a.groups[4] == one.name
    assert len(set(ProbeDesign(grid=(3, 3), pairs=100, scale=(0.3, 0.5)).groups)) == len(NAMES)


def test_distractors_never_have_the_name_of_the_target(cutouts):
    objects, grounds = cutouts
    kw = {"grid": (3, 3), "size": (90, 90), "pairs": 2, "objects": objects, "backgrounds": grounds, "scale": (0.5, 0.8)}
    for pair, s in ((p, ProbeDesign(**kw, distractors=1).stimulus(p, 1, 1)) for p in range(2)):
        plain = ProbeDesign(**kw).stimulus(pair, 1, 1)
        assert s.name == plain.name and s.box == plain.box
        seen = {tuple(v) for v in np.asarray(s.image).reshape(-1, 3).tolist()}
        assert {(255, 0, 0), (0, 0, 255)} <= seen
    with pytest.raises(InputError, match="distractors must be 0 to 1"):
        ProbeDesign(**kw, distractors=2)


def test_pictures_of_the_users(cutouts, tmp_path):
    objects, grounds = cutouts
    kw = {"grid": (2, 2), "size": (80, 80), "pairs": 2, "objects": objects, "backgrounds": grounds, "scale": (0.5, 0.5)}
    design = ProbeDesign(**kw)
    assert sorted(design.groups) == ["bar", "red disc"]
    s = design.stimulus(design.groups.index("bar"), 0, 1)
    assert max(s.box.width, s.box.height) == 20 and s.box.width == pytest.approx(6 * s.box.height, abs=6)
    before = design.identity()
    Image.new("RGB", (90, 70), (41,) * 3).save(grounds / "0.png")
    assert ProbeDesign(**kw).identity()["backgrounds"] != before["backgrounds"]
    Image.new("RGB", (20, 20)).save(objects / "opaque.png")
    with pytest.raises(InputError, match="no cut-out"):
        ProbeDesign(**kw)
    with pytest.raises(InputError, match="no such folder"):
        ProbeDesign(**{**kw, "objects": tmp_path / "nothing"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 0}, "pairs of at least 1"),
        ({"repetitions": 0}, "repetitions of at least 1"),
        ({"grid": (0, 3)}, "locations of at least 1"),
        ({"expression": "the apple"}, "holds no {}"),
        ({"scale": (1.0, 9.0)}, "do not fit"),
        ({"scale": (0.01, 0.3)}, "do not fit"),
        *(
            ({"scale": scale}, "two numbers of cells above 0, small to large")
            for scale in [
                (2.0, 1.0),
                (float("nan"), 1),
                (1, float("nan")),
                (1, float("inf")),
                (0, 1),
                (-1, 1),
                (1,),
                (1, 2, 3),
                2.0,
                None,
                "big",
                ("a", "b"),
            ]
        ),
    ],
)
def test_bad_designs_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        ProbeDesign(**{"grid": (3, 3), "scale": (0.3, 0.5), **change})


def test_the_grid_is_the_models_raster_of_tokens():
    vlm = tiny.vlm("internvl")
    layout = vlm.encode_grounding([Image.new("RGB", (112, 56))], ["x"]).layouts[0]
    assert layout.tiles == (1, 2)
    design = design_for(vlm, size=(112, 56), pairs=1, scale=(0.5, 1.5))
    assert design.grid == (layout.grid[0], 2 * layout.grid[1]) and design.size == (112, 56)
    assert design_for(vlm, size=(112, 56), grid=(2, 3), pairs=1, scale=(0.5, 0.9)).grid == (2, 3)


# ------------------------------------------------------------------------------------------ the measurement
def small(vlm, **kw):
    return design_for(vlm, size=(112, 56), grid=(2, 3), pairs=2, scale=(0.5, 0.9), **kw)


@pytest.mark.parametrize("heads", ["mean", "all"])
@pytest.mark.parametrize("queries", ["last", "text"])
def test_measure_equals_a_capture_of_each_picture(heads, queries):
    vlm = tiny.vlm("internvl")
    design = small(vlm, repetitions=2)
    found = measure(vlm, design, layers=[1, 3], heads=heads, queries=queries, batch_size=5, progress=False)
    assert found.regions == ["tiles", "thumbnail"] and found.layers == [1, 3] and found.iou is None
    assert found.heads == (["mean"] if heads == "mean" else [0, 1, 2, 3])
    for pair, row, col in ((0, 0, 0), (1, 1, 2)):
        logs = []
        for r in range(2):
            s = design.stimulus(pair, row, col, r)
            assert found.box(pair, row, col, r) == s.box
            encoded = vlm.encode_grounding([s.image], [s.expression])
            with capture(vlm, [1, 3], queries=queries, heads=heads) as rows:
                vlm.forward(encoded)
            layout = encoded.layouts[0]
            share = layout.overlap(s.box)
            parts = []
            for thumbnail in (False, True):
                w = share * (layout.thumbnail == thumbnail)
                parts.append([rows[i].values[0].mean(1).double().numpy() @ w / w.sum() for i in (1, 3)])
            logs.append(np.log(np.array(parts) + 1e-9))
        np.testing.assert_allclose(found.log[pair, row, col], np.mean(logs, axis=0), atol=2e-5)


def test_effects_are_centred_per_pair_and_errors_come_from_objects():
    rng = np.random.default_rng(0)
    place, offset = rng.normal(size=(3, 4)), np.array([5.0, -2.0, 0.5])
    noise = rng.normal(0, 0.1, (3, 3, 4))
    log = (place + offset[:, None, None] + noise)[..., None, None, None]
    layout = TokenLayout.raster(3, 4, size=(40, 30), family="x")

    def result(groups):
        return ProbeResult(log, None, np.zeros((3, 3, 4, 1, 4)), groups, [7], ["mean"], ["tiles"], layout, {})

    one = result(["a", "b", "c"])
    centred = place + noise - (place + noise).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(one.map(7), centred.mean(0), atol=1e-12)
    np.testing.assert_allclose(one.standard_error(7), centred.std(0, ddof=1) / np.sqrt(3), atol=1e-12)
    two = result(["a", "b", "a"])  # pairs of one object are no independent observations
    assert two.n_groups == 2
    np.testing.assert_allclose(two.map(7), ((centred[0] + centred[2]) / 2 + centred[1]) / 2, atol=1e-12)
    assert len(one.table()) == 12 and set(one.table()["groups"]) == {3}
    with pytest.raises(InputError, match="layers \\[7\\], not 1"):
        one.map(1)
    with pytest.raises(InputError, match="nothing was located"):
        one.accuracy()


def test_accuracy_by_place_and_zone():
    iou = np.zeros((4, 3, 3, 1))
    iou[:, 1, 1] = 0.9  # found in the middle only,
    iou[:2, 0, 0] = 0.5  # and by two of four in a corner
    layout = TokenLayout.raster(3, 3, size=(30, 30), family="x")
    log, boxes = np.zeros((4, 3, 3, 1, 1, 1)), np.zeros((4, 3, 3, 1, 4))
    probe = ProbeResult(log, iou, boxes, list("abcd"), [0], ["mean"], ["tiles"], layout, {})
    places = probe.accuracy().set_index(["row", "col"])
    assert places.loc[(1, 1), "acc50"] == 1 and places.loc[(0, 0), "acc50"] == 0.5 and places["n"].eq(4).all()
    assert places.loc[(0, 0), "acc50_lo"] == pytest.approx(0.15004, abs=1e-4)  # Wilson's interval of 2 in 4
    zones = probe.accuracy_by_zone().set_index("zone")
    assert zones.loc["inside", "acc50"] == 1 and zones.loc["border", "acc50"] == pytest.approx(2 / 32)
    assert zones.loc["top rows", "acc50"] == pytest.approx(2 / 12) and zones.loc["everywhere", "n"] == 36
    # means over objects of the top row: 1/3, 1/3, 0, 0; t with 3 degrees of freedom
    half = 3.1824 * np.std([1 / 3, 1 / 3, 0, 0], ddof=1) / 2
    assert zones.loc["top rows", "acc50_hi"] == pytest.approx(1 / 6 + half, abs=1e-4)
    # here minus elsewhere: 1/3 - 1/6 for two objects, 0 - 1/6 for the others
    both = 3.1824 * np.std([1 / 6, 1 / 6, -1 / 6, -1 / 6], ddof=1) / 2
    row = zones.loc["top rows"]
    assert row["minus_rest"] == pytest.approx(0, abs=1e-9) and row["minus_rest_hi"] == pytest.approx(both, abs=1e-4)
    assert np.isnan(zones.loc["everywhere", "minus_rest"])


def test_a_killed_probe_goes_on(tmp_path, monkeypatch):
    vlm = tiny.vlm("internvl")
    design, kw = small(vlm), {"layers": [2], "batch_size": 5, "progress": False}
    whole = measure(vlm, design, **kw)
    calls, forward = [], vlm.forward

    def dying(encoded, **more):
        calls.append(len(encoded))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(encoded, **more)

    monkeypatch.setattr(vlm, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        measure(vlm, design, out=tmp_path / "p", **kw)
    log = tmp_path / "p" / "stimuli.jsonl"
    assert len(log.read_text().splitlines()) == 5
    with pytest.raises(RunFolderError, match="5 of 12 images"):
        ProbeResult.load(tmp_path / "p")
    log.write_bytes(log.read_bytes()[:-20])  # torn by the kill: that image is shown again
    again = measure(vlm, design, out=tmp_path / "p", **kw)
    assert calls == [5, 5, 5, 5, 2]  # its batch as a whole: an image is always shown with the same others
    np.testing.assert_allclose(again.log, whole.log, atol=2e-5)
    np.testing.assert_array_equal(ProbeResult.load(tmp_path / "p").log, again.log)
    assert ProbeResult.load(tmp_path / "p").groups == design.groups
    measure(vlm, design, out=tmp_path / "p", **kw)
    assert len(calls) == 5  # a finished probe is a no-op
    for other in ({"design": small(vlm, seed=1)}, {"layers": [1]}, {"heads": "all"}, {"locate": True}):
        with pytest.raises(RunFolderError, match="another"):
            measure(vlm, **{"design": design, **kw, **other}, out=tmp_path / "p")
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], "{torn", *lines[2:]]) + "\n")
    with pytest.raises(RunFolderError, match="line 2"):
        ProbeResult.load(tmp_path / "p")
    (tmp_path / "e").mkdir()
    shutil.copy(tmp_path / "p" / "probe.json", tmp_path / "e")
    (tmp_path / "e" / "stimuli.jsonl").write_text("")  # it failed before its first image: nothing is lost
    assert measure(vlm, design, out=tmp_path / "e", **{**kw, "layers": [1]}).layers == [1]
    for foreign in ("{}", "[1]"):
        (tmp_path / "p" / "probe.json").write_text(foreign)
        log.write_text("")
        with pytest.raises(RunFolderError, match="no probe in"):
            ProbeResult.load(tmp_path / "p")


@pytest.mark.slow
def test_locating_shares_the_prefill(grounder, tmp_path):
    design = design_for(grounder, size=224, grid=(2, 1), pairs=2, scale=(0.2, 0.25))
    kw = {"layers": [3, 5], "progress": False}
    plain = measure(grounder, design, **kw)
    located = measure(grounder, design, locate=True, out=tmp_path / "p", **kw)
    np.testing.assert_allclose(located.log, plain.log, atol=1e-4)
    for at in np.ndindex(2, 2, 1):
        s = design.stimulus(*at)
        box = grounder.locate(s.image, s.expression)
        assert located.iou[at][0] == pytest.approx(0 if box is None else box.iou(s.box), abs=1e-6)
    assert json.loads((tmp_path / "p" / "probe.json").read_text())["locate"] is True


def test_bad_arguments(tmp_path):
    vlm = tiny.vlm("internvl")
    design = small(vlm)
    wrong = {"heads must be": {"heads": None}, "queries": {"queries": "first"}, "batch_": {"batch_size": 0},
             "layers 0 to 3, not .9.": {"layers": [9]}}  # fmt: skip
    for message, kw in wrong.items():
        with pytest.raises(InputError, match=message):
            measure(vlm, design, **kw)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError):
        measure(vlm, design, out=tmp_path / "file", progress=False)
    layout = TokenLayout.raster(2, 2, size=(100, 100), family="x", region=(0.25, 0.25, 0.75, 0.75))
    with pytest.raises(InputError, match="no token"):
        footprint(np.ones(4), layout, design.stimulus(0, 0, 0).box.clip((10, 10)))


# ------------------------------------------------------------------------------------------ ahead of the model
def test_images_made_ahead_give_the_same_lines(cutouts, tmp_path):
    vlm, (objects, grounds) = tiny.vlm("internvl"), cutouts
    design = design_for(
        vlm, size=(112, 112), grid=(2, 2), pairs=3, scale=(0.5, 0.9), objects=objects, backgrounds=grounds
    )
    for workers in (0, 1, 3):
        with pytest.warns(UserWarning, match="objects"):
            measure(
                vlm, design, layers=[1, 2], batch_size=2, out=tmp_path / str(workers), progress=False, workers=workers
            )
    logs = [(tmp_path / str(workers) / "stimuli.jsonl").read_text() for workers in (0, 1, 3)]
    assert logs[1] == logs[2] == logs[0] and logs[0].count("\n") == len(design)
    with pytest.raises(InputError, match="workers must be 0"):
        measure(vlm, design, workers=-1, progress=False)
