"""The viewer in a real headless Chromium, on made-up samples: where something is missing, and of which head.

Needs what test_report_in_browser.py needs.
"""

from dataclasses import replace

import browsers
import numpy as np
import pytest
from PIL import Image

from biaslab import TokenLayout
from biaslab.figures.report.attention_packing import SAMPLE_BYTES
from biaslab.figures.report.view import View
from biaslab.figures.report.viewer_data import Shown, packed_samples

pytestmark = pytest.mark.slow
LAYOUT = TokenLayout.raster(4, 4, size=(64, 64), family="demo")
HEBREW = "הכלב משמאל"
RNG = np.random.default_rng(0)
ATTENTION, EXPECTED = RNG.random((4, 16)), 0.2 + RNG.random((4, 16))


@pytest.fixture(scope="module")
def chromium():
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def opened(chromium, tmp_path):
    pages = []

    def open_page(samples, expected=None, budget=SAMPLE_BYTES):
        configs = [
            {"name": "all", "spelled": "none", "pruned": False, "side": 0, "key": "0", "stages": []},
            {"name": "few", "spelled": "random", "pruned": True, "side": 0, "key": "1", "stages": []},
        ]
        line = {"error": None, "hit": 1, "answer": HEBREW, "tokens_kept": 16}
        lines = {(0, one.id, config["key"]): line for one in samples for config in configs}
        data = packed_samples(configs, lines, samples, expected=expected, budget=budget)
        page = chromium.new_page(viewport={"width": 900, "height": 700})
        page.goto(View(data, "made up").save(tmp_path / "view.html").as_uri())
        page.wait_for_selector("#viewer[data-ready]")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()


def sample(name, *, missing=False, **more):
    if missing:
        return Shown(id=name, layouts=[None])
    image = Image.new("RGB", (64, 64), "teal")
    return Shown(id=name, image_id=name, text=HEBREW, image=image, size=(64, 64), layouts=[LAYOUT], **more)


def part(page, name):
    return page.locator(f'[data-part="{name}"]')


def note(page):
    return part(page, "heads-note").text_content()


def drawn(page, head, relative, word=-1):
    script = f"""() => {{ const v = document.getElementById('viewer').biaslab;
        const map = v.attentionOf(v.data.samples[0], 3, {head}, {str(relative).lower()}, {word});
        return map && [...map]; }}"""
    return page.evaluate(script)


def test_a_sample_without_an_image_shows_none_and_the_next_one_its_own(opened):
    page = opened([sample("a"), sample("b", missing=True), sample("c")])
    canvases = part(page, "strip").locator("canvas")
    seen = []
    for _ in range(3):
        seen.append([canvases.nth(i).is_visible() for i in range(2)] + [part(page, "picture").is_visible()])
        part(page, "next").click()
    assert seen == [[True] * 3, [False] * 3, [True] * 3]


def test_letters_work_with_shift_and_caps_lock(opened):
    page = opened([sample("a"), sample("b")])
    page.locator("#viewer").focus()
    before = part(page, "shown").input_value()
    page.keyboard.press("Shift+V")
    assert part(page, "shown").input_value() != before
    page.keyboard.press("v")
    assert part(page, "shown").input_value() == before
    page.keyboard.press("Shift+T")
    assert part(page, "tiles").is_checked()
    page.keyboard.press("ArrowRight")
    assert part(page, "position").text_content() == "2 of 2"


def test_keys_need_no_click_on_a_page_of_its_own(opened):
    page = opened([sample("a"), sample("b")])
    before = [part(page, name).input_value() for name in ("shown", "a")]
    for key in ("v", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert part(page, "position").text_content() == "2 of 2"
    assert all(part(page, name).input_value() != old for name, old in zip(("shown", "a"), before, strict=True))


def test_texts_run_as_their_script_does(opened):
    page = opened([sample("a", answers=[HEBREW]), sample("b")])
    for name in ("text", "answer", "right-answer"):
        assert part(page, name).evaluate("e => getComputedStyle(e).direction") == "rtl", name
    assert part(page, "config").evaluate("e => getComputedStyle(e).direction") == "ltr"
    assert set(part(page, "a").locator("option").evaluate_all("all => all.map((o) => o.dir)")) == {"auto"}


def test_each_head_is_divided_by_its_own(opened):
    page = opened([sample("a", attention={3: ATTENTION})], {LAYOUT.key: {3: EXPECTED}})
    part(page, "shown").select_option("relative")
    assert part(page, "head").locator("option").count() == 5 and note(page) == ""
    np.testing.assert_allclose(drawn(page, 2, True), ATTENTION[2] / EXPECTED[2], rtol=0.03, atol=0.02)
    np.testing.assert_allclose(drawn(page, -1, True), ATTENTION.mean(0) / EXPECTED.mean(0), rtol=0.03, atol=0.02)


def test_a_profile_of_the_mean_divides_the_mean_alone(opened):
    page = opened([sample("a", attention={3: ATTENTION})], {LAYOUT.key: {3: EXPECTED.mean(0, keepdims=True)}})
    part(page, "shown").select_option("attention")
    part(page, "head").select_option("2")
    part(page, "shown").select_option("relative")
    assert not part(page, "head").is_visible()
    assert page.evaluate("document.getElementById('viewer').biaslab.state.head") == -1
    assert note(page) == "The profile is of the mean over heads: single heads are not divided by it."
    assert drawn(page, 2, True) is None
    np.testing.assert_allclose(drawn(page, -1, True), ATTENTION.mean(0) / EXPECTED.mean(0), rtol=0.03, atol=0.02)


def test_words_are_not_divided(opened):
    words = {"words": ["a", "b"], "word_attention": {3: ATTENTION[:2]}}
    page = opened([sample("a", attention={3: ATTENTION}, **words)], {LAYOUT.key: {3: EXPECTED}}, budget=100_000)
    part(page, "shown").select_option("relative")
    assert drawn(page, -1, True, word=0) is None
    buttons = part(page, "word-list").locator("button")
    buttons.nth(0).click()
    assert part(page, "shown").input_value() == "attention" and not part(page, "head").is_visible()
    part(page, "shown").select_option("relative")
    assert buttons.nth(0).get_attribute("aria-pressed") == "false"


def test_a_layer_without_a_profile_says_so(opened):
    page = opened([sample("a", attention={3: ATTENTION, 5: ATTENTION})], {LAYOUT.key: {3: EXPECTED}})
    part(page, "shown").select_option("relative")
    assert note(page) == "The profile holds no map of this layer and layout."
    part(page, "layer").select_option("3")
    assert note(page) == ""


def test_heads_that_are_left_out_are_named(opened):
    look_most = np.argsort(-ATTENTION.sum(1))[:2].tolist()
    layout = TokenLayout.raster(72, 72, size=(64, 64), family="demo")
    many = np.repeat(ATTENTION[:, :1], layout.n, axis=1) * ATTENTION.sum(1, keepdims=True) / ATTENTION[:, :1]
    page = opened([replace(sample("a"), layouts=[layout], attention={3: many})])
    part(page, "shown").select_option("attention")
    assert note(page) == (
        f"Of 4 heads: their mean, and the 2 with most attention to the images ({look_most[0]}, {look_most[1]})."
    )
    assert part(page, "head").locator("option").all_text_contents() == [
        "mean of heads", *(f"head {head}" for head in sorted(look_most))
    ]  # fmt: skip
    left_out = next(head for head in range(4) if head not in look_most)
    assert drawn(page, left_out, False) is None
    np.testing.assert_allclose(drawn(page, -1, False), many.mean(0), rtol=0.01)
    np.testing.assert_allclose(drawn(page, look_most[1], False), many[look_most[1]], rtol=0.01)
