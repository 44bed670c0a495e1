"""What notebooks show of values: small, without scripts, escaped, and the right pixels; and one line of text each."""

import base64
import enum
import gc
import importlib
import inspect
import io
import re
from dataclasses import fields, is_dataclass, replace
from functools import partial

import matplotlib as mpl
import numpy as np
import pytest
from hostile_run import HOSTILE
from PIL import Image

import biaslab as bl
from biaslab._util.notebook import DRAWINGS
from biaslab.core.layout import TokenLayout
from biaslab.core.seen import SeenImage
from biaslab.datasets import Question
from biaslab.errors import InputError
from biaslab.figures.styling import SEQUENTIAL
from biaslab.maps.simulate import simulate
from biaslab.pruning.context import Selection

TILED = TokenLayout.tiled(1, 2, (2, 3), size=(120, 40), family="toy", thumbnail=True)
NOT_MADE = {"InNotebooks", "Dataset", "ExpectedAttention", "FittedProfile"}


def images_in(html):
    """The images of a drawing, as arrays (rows, cols, 4)."""
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    assert len(found) == html.count("<img"), "an image that is no data: address"
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGBA")).astype(int) for one in found]


def checked(value, most=80_000):
    """A drawing without scripts, links or styles of its own ground, small, of a value whose text is one line."""
    html, text = value._repr_html_(), repr(value)
    assert len(html) < most and "\n" not in text and "object at 0x" not in text
    assert not re.search(r"<script|<iframe|<style|https?:|<[^>]* on\w+=|background", html)
    return html


# ------------------------------------------------------------------------------------------------- text
def public_classes():
    modules = [bl, *(importlib.import_module(f"biaslab.{home}") for home in bl._ROOMS.values())]
    rooms = "attention.rows core.boxes core.layout datasets.calibration datasets.gallery datasets.sample maps.moments"
    rooms += " models.encoded pruning.context pruning.engine.run"
    modules += [importlib.import_module(f"biaslab.{name}") for name in rooms.split()]
    found = [getattr(m, name) for m in modules for name in getattr(m, "__all__", [])]
    found += [c for m in modules for c in vars(m).values() if getattr(c, "__module__", "") == m.__name__]
    classes = {c for c in found if inspect.isclass(c) and not issubclass(c, (BaseException, enum.Enum))}
    ours = [c for c in classes if c.__module__.startswith("biaslab") and c.__name__ not in NOT_MADE]
    ours = [c for c in ours if c.__name__[0] != "_"]
    return sorted(ours, key=lambda c: c.__name__)


def test_every_public_class_says_in_a_line_what_it_is():
    classes = public_classes()
    assert len(classes) > 60
    unsaid = [c.__name__ for c in classes if c.__repr__ is object.__repr__]
    dumps = [
        c.__name__
        for c in classes
        if is_dataclass(c) and hasattr(c.__repr__, "__wrapped__")  # the one that dataclass makes
        and any(re.search("Tensor|ndarray|DataFrame|Callable", str(f.type)) for f in fields(c) if f.repr)
    ]  # fmt: skip
    assert unsaid == [] and dumps == []


def test_everything_that_is_drawn_is_known_by_a_class():
    names = {c.__name__ for c in public_classes()} | {"PromptedModel", "LearnedMaps", "ShownDataset"}
    assert set(DRAWINGS) <= names and len(DRAWINGS) >= 12


# ------------------------------------------------------------------------------------------------- images
def test_a_sample_shows_its_target_where_it_lies(grounder):
    sample = next(iter(bl.load_dataset("scenes", n=1)))
    html = checked(sample)
    (image,) = images_in(html)
    plain = np.asarray(sample.image()).astype(int)
    changed = np.abs(image[..., :3] - plain).max(2) > 60
    inside = changed[int(sample.box.y0) + 8 : int(sample.box.y1) - 8, int(sample.box.x0) + 8 : int(sample.box.x1) - 8]
    edge = changed[int(sample.box.y0) - 3 : int(sample.box.y0) + 4, int(sample.box.x0) : int(sample.box.x1)]
    assert edge.any(0).mean() > 0.9 and inside.mean() < 0.02 and changed[:100].mean() < 0.02
    assert sample.expression in html and "target (97, 137) to (202, 224)" in html


def test_texts_are_escaped_and_a_missing_image_is_named():
    def missing():
        raise InputError(f"image not found: {HOSTILE}.png")

    sample = next(iter(bl.load_dataset("scenes", n=1)))
    html = checked(replace(sample, expression=HOSTILE, id=HOSTILE))
    assert html.count("&lt;/script&gt;") == 4  # two in each text
    gone = checked(replace(sample, expression=HOSTILE, loader=missing))
    assert "image not found: &lt;/script" in gone and "<img" not in gone


def test_questions_and_data_sets_show_the_first_images():
    data = bl.load_dataset("scenes", n=30)
    html = checked(data)
    assert repr(data) == "<scenes, split test: 30 expressions>"
    assert len(images_in(html)) == 6 and "and 24 more" in html
    about = {"id": "q", "image_id": "i", "size": (900, 300)}
    white = partial(Image.new, "RGB", (900, 300), "white")
    asked = Question.about(white, "Is there a <b>?", ["no", "none"], **about)
    shown = checked(asked)
    (image,) = images_in(shown)
    assert image.min() > 250 and max(image.shape) <= 224  # no box where no evidence is known
    assert "Is there a &lt;b&gt;?" in shown and "answer: no or none" in shown


def test_boxes():
    assert "105 x 87 pixels" in checked(bl.Box(97, 137, 202, 224)) and "no area" in checked(bl.Box(5, 5, 1, 1))
    assert repr(bl.Box(96.32000000000001, 1 / 3, 2, 3)) == "Box(x0=96.32, y0=0.33, x1=2.0, y1=3.0)"


# ------------------------------------------------------------------------------------------------- models and tokens
def test_a_model_says_what_decides_a_measurement(grounder):
    html = checked(grounder)
    for fact in ("internvl", "10", "256 tokens, 16 x 16", "float32", "cpu"):
        assert fact in html
    assert "the numbers mean nothing" in bl.rehearse("internvl3-8b", layers=2)._repr_html_()


@pytest.fixture(scope="module")
def seen(grounder):
    """Rows of layers 3 and 5, and a run that prunes before layer 4, of an image that is held."""
    sample = next(iter(bl.load_dataset("scenes", n=1)))
    image = sample.image().copy()
    with bl.capture(grounder, layers=[3, 5]) as rows, bl.prune(grounder, bl.FastV(keep=0.1), layer=4) as run:
        grounder.forward(grounder.encode_grounding([image], [sample.expression]))
    return image, rows, run


def test_rows_lie_over_the_image_while_somebody_holds_it_and_are_a_map_without(grounder, seen):
    image, rows, _ = seen
    html = checked(rows[3])
    (over,) = images_in(html)
    assert over.shape[:2] == (224, 224) and "4 heads" in html
    values = rows[3].values[0].mean((0, 1)).numpy().reshape(16, 16)
    grey = np.asarray(image.convert("L")).astype(int)
    colours = mpl.colormaps[SEQUENTIAL](values / np.quantile(values, 0.99), bytes=True)[..., 1]
    colours = colours.repeat(14, 0).repeat(14, 1)
    off = np.abs(over[..., 1] - (0.45 * grey + 0.55 * colours)).reshape(16, 14, 16, 14).mean((1, 3))
    assert off.max() < 12 and np.ptp(colours) > 200  # JPEG keeps that much
    with bl.capture(grounder, layers=[3]) as others:
        grounder.forward(grounder.encode_grounding([image.copy()], ["cat"]))
    gc.collect()
    (alone,) = images_in(checked(others[3]))
    assert others[3].seen[0].image is None and alone.shape[:2] == (16, 16)


def test_rows_behind_a_cut_leave_dropped_tokens_open(seen):
    _, rows, run = seen
    png = np.asarray(Image.open(io.BytesIO(rows[5]._repr_png_())).convert("RGBA"))
    kept = np.zeros(256, dtype=bool)
    kept[run.selections[0].indices.numpy()] = True
    assert png.shape == (16, 16, 4) and np.array_equal(png[..., 3].ravel() > 0, kept)
    assert len(images_in(checked(rows))) == 2


def test_rows_of_prompts_that_nobody_announced_are_heads_by_tokens(seen):
    rows = replace(seen[1][3], seen=())
    (strip,) = images_in(checked(rows))
    assert strip.shape[:2] == (24, 256) and np.array_equal(strip[0], strip[5])


def test_a_selection_is_a_mask_of_its_tokens(seen):
    image, _, run = seen
    (faded,) = images_in(checked(run.selections[0]))
    clear = np.abs(faded[..., :3] - np.asarray(image).astype(int)).mean(2).reshape(16, 14, 16, 14).mean((1, 3)) < 12
    kept = np.zeros(256, dtype=bool)
    kept[run.selections[0].indices.numpy()] = True
    assert clear.ravel()[kept].mean() > 0.9 and clear.ravel()[~kept].mean() < 0.2
    assert repr(run.selections[0]) == "Selection(kept 25 of 256)" and "25 of 256" in checked(run)


def test_a_mask_of_tiles_lies_as_the_tiles_do():
    import torch

    at = SeenImage(TILED, 0, (0, TILED.n))
    first = int(np.flatnonzero((TILED.tile == 1) & (TILED.row == 1) & (TILED.col == 2) & ~TILED.thumbnail)[0])
    png = np.asarray(Image.open(io.BytesIO(Selection(torch.tensor([first]), seen=at)._repr_png_())).convert("RGB"))
    dark = png.astype(int).sum(2) < 300
    assert png.shape == (2, 6, 3) and dark.sum() == 1 and dark[1, 5]
    alone = Selection(torch.tensor([0, 3]))
    assert repr(alone) == "Selection(kept 2)" and "<img" not in checked(alone)


# ------------------------------------------------------------------------------------------------- profiles, tables
def test_profiles_and_maps_are_thumbnails_and_not_scikit_learn_s_dump():
    layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
    maps = simulate("bottom-heavy", {layout: 24}, layers=9).maps
    profile = bl.MeanProfile().fit(maps)
    for value in (profile, maps):
        html = checked(value, 20_000)
        drawn = images_in(html)
        assert len(drawn) == 6 and "and 3 more" in html and drawn[0].shape == (6, 6, 4)
        red, blue = drawn[0][-1].mean(0), drawn[0][0].mean(0)
        assert red[0] > red[2] + 30 and blue[2] > blue[0] + 30  # below above the mean, above below it
    bundle = profile._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"} and "sk-" not in bundle["text/html"]
    assert bundle["text/plain"].startswith("<MeanProfile of ") and "24 images" in bundle["text/plain"]
    assert "not fitted" in checked(bl.MeanProfile()) and repr(bl.MeanProfile()) == "MeanProfile()"


def test_a_notebook_s_formatter_takes_ours():
    formatters = pytest.importorskip("IPython.core.formatters")
    layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
    profile = bl.MeanProfile().fit(simulate("bottom-heavy", {layout: 24}).maps)
    data, _ = formatters.DisplayFormatter().format(profile)
    assert "profile</b>" in data["text/html"] and "sk-" not in data["text/html"] and data["image/png"]


def test_results_are_their_summary_and_can_be_viewed(grounder):
    results = bl.evaluate(
        grounder, bl.load_dataset("scenes", n=2), methods=["none", "fastv:score=no_rope"], keep=0.1, layer=4,
        progress=False,
    )  # fmt: skip
    assert repr(results) == "<Results: 4 lines, methods none, fastv:score=no_rope, complete>"
    html = checked(results)
    assert "fastv:score=no_rope" in html and html.count("<tr") == 3 and "acc50" in html
    assert results.view().html == bl.view(results).html and results.view(height=300).height == 300
    with pytest.raises(InputError, match="n must be"):
        results.view(n=0)


def test_atlas_and_calibration(grounder):
    images = bl.calibration(grounder, "scenes", n=7)
    assert len(images_in(checked(images))) == 6 and repr(images) == "Calibration('scenes', 7 images)"
    layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
    atlas = bl.BiasAtlas.from_maps(simulate("u-shaped", {layout: 12}, layers=3).maps)
    assert checked(atlas).count("<tr") == 4 and "tables=" in repr(atlas)
