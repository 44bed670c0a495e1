"""The parts of a report that need no model: packing, choosing, sentences, charts, cards, escaping."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biaslab import TokenLayout
from biaslab.figures import VarianceDisplay, save
from biaslab.figures.report.cards import card_html
from biaslab.figures.report.charts import line_chart, place_map
from biaslab.figures.report.choosing import chosen_samples
from biaslab.figures.report.findings import worded
from biaslab.figures.report.folder_page import folder_page
from biaslab.figures.report.packing import PICTURE_BYTES, packed_layout, packed_map, picture_uri
from biaslab.figures.report.page import Block, Page, Section, render
from biaslab.figures.report.profile_section import profile_blocks
from biaslab.maps.simulate import simulate
from biaslab.profiles import MeanProfile, load, variance_table

HOSTILE = "</script><script>alert(1)</script>"


@pytest.mark.parametrize("size", [(224, 224), (640, 480), (3000, 40), (1, 900)])
def test_a_picture_never_takes_more_than_its_share(size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    address = picture_uri(Image.fromarray(noise))
    assert len(base64.b64decode(address.partition(",")[2])) <= PICTURE_BYTES


@pytest.mark.parametrize(
    "layout",
    [
        TokenLayout.raster(3, 5, size=(50, 30), family="x", region=(0.0, -0.5, 1.0, 1.5)),
        TokenLayout.tiled(2, 3, (4, 4), size=(300, 200), family="x", thumbnail=True),
        TokenLayout.unpadded((1, 1), (2, 3), size=(9, 6), family="x", window=(0, 2, 0, 3), thumbnail_grid=(1, 1)),
    ],
)
def test_cells_come_out_of_the_packing_as_they_went_in(layout):
    packed = packed_layout(layout)
    at = np.frombuffer(base64.b64decode(packed["at"]), "<u2").reshape(-1, 2)
    xs, ys = (np.array(packed[name]).reshape(-1, 2) for name in ("xs", "ys"))
    cells = np.stack([xs[at[:, 0], 0], ys[at[:, 1], 0], xs[at[:, 0], 1], ys[at[:, 1], 1]], axis=1)
    np.testing.assert_allclose(cells, layout.boxes, atol=1e-5)
    assert len(packed["tiles"]) == layout.tiles[0] * layout.tiles[1]


def test_a_map_is_off_by_half_a_step_at_most():
    values = np.random.default_rng(0).random((3, 40)) ** 4
    packed = packed_map(values)
    got = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(3, 40) / 255
    got = got * np.array(packed["max"])[:, None]
    assert (np.abs(got - values) <= values.max(1, keepdims=True) * (1 / 510 + 1e-4)).all()


def test_samples_are_chosen_for_what_they_show():
    hits = pd.DataFrame(np.ones((50, 4)), index=[f"s{i}" for i in range(50)])
    hits.iloc[3, :2] = 0  # two of four
    hits.iloc[7, 0] = 0
    hits.iloc[9] = 0
    why = chosen_samples(hits, n=2)
    assert list(why)[:3] == ["s3", "s7", "s9"] and why["s9"][0] == "miss"
    assert [reasons[0] for reasons in why.values()].count("random") <= 2 and chosen_samples(hits, n=2) == why


@pytest.mark.parametrize(
    ("lo", "hi", "q", "said"),
    [
        (0.01, 0.2, 0.01, "hits more often"),
        (-0.2, -0.01, 0.05, "hits less often"),
        (0.01, 0.2, 0.06, "does not tell"),  # not after adjusting for the others
        (-0.1, 0.1, 0.01, "does not tell"),
        (-0.02, 0.02, 1.0, "as good"),
        (float("nan"), float("nan"), 0.01, "does not tell"),
        (0.01, 0.2, float("nan"), "does not tell"),
    ],
)
def test_sentences_claim_what_interval_and_test_allow(lo, hi, q, said):
    row = {"label": "x", "difference": (lo + hi) / 2, "difference_lo": lo, "difference_hi": hi, "q": q}
    assert said in worded([row])


def test_a_page_escapes_and_forbids():
    html = render(
        Page(
            title=HOSTILE,
            subtitle=HOSTILE,
            sections=[Section("a", HOSTILE, [Block("sentences", [HOSTILE]), Block("code", HOSTILE), Block("viewer")])],
            data={"configs": [], "samples": [{"text": HOSTILE + "\u2028&"}], "images": [], "layouts": []},
        )
    )
    assert HOSTILE not in html and html.count("<script") == 2
    assert "default-src 'none'" in html and "http://" not in html and "https://" not in html


def test_charts_and_cards_escape():
    point = {"x": 0.0, "value": 0.5, "lo": 0.4, "hi": 0.6, "text": "<b>"}
    ticks = [(0.0, "<i>")]
    drawings = [
        line_chart({"<u>": [point]}, x_label="<b>", y_label="<b>", ticks=ticks, reference=point),
        place_map([[(1, 2)]], label='"<b>'),
        str(card_html("# <b>\n\n**<i>** `<u>`\n\n| <s> |\n|---|\n| <a> |\n")),
        str(card_html("<s>\n\n[a](javascript:alert) ![b](https://b.example) <https://c.example>\n")),
    ]
    for drawing in drawings:
        assert not any(tag in drawing for tag in ("<b>", "<i>", "<u>", "<s>", "<a", "<img"))


def test_a_chart_leaves_out_what_is_not_known():
    nan = float("nan")
    unknown = {"x": 0.0, "value": nan, "lo": nan, "hi": nan, "text": "none"}
    alone = {"x": 1.0, "value": 0.5, "lo": nan, "hi": nan, "text": "one"}
    svg = line_chart({"a": [unknown, alone]}, x_label="x", y_label="y", ticks=[], reference=None)
    assert "nan" not in svg and svg.count("<title>") == 1 and "whisker" not in svg


def test_the_profiles_of_a_run_are_on_one_scale_with_what_they_explain(tmp_path):
    layouts = [TokenLayout.raster(2, n, size=(20 * n, 40), family="demo") for n in (2, 3, 4, 5)]
    maps = simulate("bottom-heavy", {layout: 20 + 10 * i for i, layout in enumerate(layouts)}, layers=14).maps
    profile = MeanProfile().fit(maps)
    *drawn, scale, said, lacking, _ = profile_blocks({"h": profile})
    assert [block.title.rpartition("layout ")[2] for block in drawn] == [
        f"{layout.key}, {20 + 10 * i} images" for i, layout in reversed(list(enumerate(layouts))[1:])
    ]
    assert {len(block.content) for block in drawn} == {12} and "or more" in str(scale.content)
    assert said.content == "Drawn: 12 of 14 layers, 3 of 4 layouts. Layouts are those of the most calibration images."
    assert "`biaslab fit-bias` measures it" in lacking.content
    variance = variance_table(maps, estimator=profile)
    again = load(profile.save(tmp_path / "bias", diagnostics=variance))
    pd.testing.assert_frame_equal(again.variance_, variance, check_dtype=False)
    assert again.hash == profile.hash and load(again.save(tmp_path / "copy")).variance_.equals(again.variance_)
    *_, before, card = profile_blocks({"h": again})
    assert before.content == said.content and "Variance explained by position" in str(card.content)
    assert "Variance explained" in (tmp_path / "copy.md").read_text()


def test_figures_of_a_folder_are_embedded_whole_and_in_fewer_bytes(tmp_path):
    (tmp_path / "card.md").write_text("# Probe")
    maps = simulate("u-shaped", {TokenLayout.raster(8, 8, size=(80, 80), family="demo"): 12}, layers=3).maps
    save(VarianceDisplay.from_maps(maps), tmp_path / "variance")
    Image.new("L", (20_000, 2)).save(tmp_path / "wide.png")  # wider than WebP allows
    (tmp_path / "xtorn.png").write_bytes(b"no image")
    page = render(folder_page(tmp_path))
    found = re.findall(r'<img alt="(\w+)" src="data:image/(\w+);base64,([^"]+)"', page)
    assert [(name, kind) for name, kind, _ in found] == [("variance", "webp"), ("wide", "png"), ("xtorn", "png")]
    (variance, wide, torn), drawn = (base64.b64decode(data) for *_, data in found), tmp_path / "variance.png"
    assert len(variance) < drawn.stat().st_size / 2
    np.testing.assert_array_equal(Image.open(io.BytesIO(variance)).convert("RGBA"), Image.open(drawn).convert("RGBA"))
    assert wide == (tmp_path / "wide.png").read_bytes() and torn == b"no image"
