"""A report in a real headless Chromium: nothing is asked of the network, nothing hostile runs, the viewer works.

It needs the package playwright and a Chromium (Debian's: ``apt-get install chromium``). Without them it is skipped;
``BIASLAB_NEEDS_BROWSER=1``, for CI, makes that a failure.
"""

import shutil
import subprocess

import browsers
import numpy as np
import pytest
import tiny
from hostile_run import HOSTILE, Hostile, hostile_run
from PIL import Image

import biaslab as bl
from biaslab.evaluation.kept_tokens import kept_tokens
from biaslab.workflows.make_report import report

pytestmark = pytest.mark.slow
LAYER = 3


@pytest.fixture(scope="module")
def chromium():
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(chromium, tmp_path_factory, grounder):
    results = hostile_run(grounder, tmp_path_factory.mktemp("browser") / "run")
    report(results, dataset=Hostile(), vlm=grounder, layers=[LAYER])
    return results


@pytest.fixture
def page(chromium, run):
    page = chromium.new_page(viewport={"width": 1000, "height": 800})
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto((run.folder / "report.html").as_uri())
    page.wait_for_selector("#viewer[data-ready]")
    page.wait_for_function("document.querySelector('[data-part=picture]').width > 100")
    yield page
    page.close()


def part(page, name):
    return page.locator(f'[data-part="{name}"]')


def test_it_loads_without_a_word_and_without_a_request(page, run):
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [(run.folder / "report.html").as_uri()]


def test_screenshots_fit_their_windows_and_follow_the_reader_s_scheme(chromium, run, tmp_path):
    from tools.report_screenshots import WIDTHS, screenshots

    *written, printed = screenshots(chromium, run.folder / "report.html", tmp_path)
    assert printed.read_bytes().startswith(b"%PDF")
    shades = {}
    for path in written:
        with Image.open(path) as image:
            _, width, scheme = path.stem.split("-")
            assert image.width == int(width) in WIDTHS
            shades.setdefault(scheme, []).append(np.asarray(image.convert("L"))[:200].mean())
    assert min(shades["light"]) > 200 and max(shades["dark"]) < 80


def test_hostile_texts_are_shown_and_not_run(page):
    assert page.title() == "grounder on sc\"ene's <b>, test"
    texts = []
    for _ in range(6):
        texts.append(part(page, "text").text_content())
        part(page, "next").click()
    assert f"elephant {HOSTILE}" in texts and page.title() != "run" and page.locator("main script").count() == 0


def test_filters_choose_what_the_run_says(page, run):
    lines = run.samples
    hit = {name: lines[lines["method"] == name].set_index("id")["hit"].astype(bool) for name in ("none", "random")}
    for verdict, right in (("hit-miss", hit["none"] & ~hit["random"]), ("hit", hit["none"]), ("miss", ~hit["none"])):
        part(page, "a").select_option(label="no pruning")
        part(page, "b").select_option(label="random keep 0.05 layer 4")
        part(page, "verdict").select_option(verdict)
        count = int(right.sum())
        assert part(page, "position").text_content() == (f"1 of {count}" if count else "no sample")
    assert hit["none"].any()


def test_the_keyboard_moves_and_a_screen_reader_is_told(page):
    n = int(part(page, "position").text_content().split()[-1])
    page.locator("#viewer").focus()
    page.keyboard.press("ArrowRight")
    assert part(page, "position").text_content() == f"2 of {n}"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert part(page, "position").text_content() == f"{n} of {n}"
    before = part(page, "a").input_value()
    page.keyboard.press("ArrowDown")
    assert part(page, "a").input_value() != before
    assert "visual tokens kept" in part(page, "live").text_content()
    assert part(page, "config").text_content() in part(page, "picture").get_attribute("aria-label")
    part(page, "verdict").focus()
    page.keyboard.press("ArrowRight")  # in a list the arrows are the list's
    assert part(page, "position").text_content().startswith(f"{n} of") or part(page, "verdict").input_value() != ""


def test_keys_are_the_viewer_s_while_it_is_in_sight_and_scroll_as_ever(page):
    page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    first, a = part(page, "position").text_content(), part(page, "a").input_value()
    page.keyboard.press("ArrowRight")
    assert part(page, "position").text_content() == first  # it lies below the window
    part(page, "picture").scroll_into_view_if_needed()
    page.keyboard.press("ArrowRight")
    assert part(page, "position").text_content() != first
    page.keyboard.press("ArrowDown")
    assert part(page, "a").input_value() == a
    page.locator(".wide").first.focus()  # a table that scrolls has its own arrows
    shown = part(page, "shown").input_value()
    page.keyboard.press("v")
    assert part(page, "shown").input_value() == shown


def pixels(page):
    """Colours in the middle of each of the 16 x 16 cells of the image."""
    script = """() => {
        const canvas = document.querySelector('[data-part=picture]'), c = canvas.getContext('2d'), out = [];
        for (let r = 0; r < 16; r++) for (let k = 0; k < 16; k++)
            out.push(...c.getImageData((k + .3) * canvas.width / 16, (r + .3) * canvas.height / 16, 1, 1).data);
        return out;
    }"""
    return np.array(page.evaluate(script)).reshape(256, 4)[:, :3]


def test_the_canvas_shows_the_kept_tokens_where_they_lie(page, run):
    part(page, "a").select_option(label="FastV keep 0.05 layer 4")
    identity = part(page, "id").text_content()
    lines = run.samples[run.samples["method"] == "fastv"]
    (line,) = [line for line in lines.to_dict("records") if identity.startswith(line["id"])]
    part(page, "shown").select_option("none")
    plain = pixels(page)
    part(page, "shown").select_option("kept")
    faded, kept = pixels(page), kept_tokens(line)
    clear = np.abs(faded - plain).max(1) <= 2
    faint = np.abs(faded - (0.2 * plain + 0.8 * 250)).max(1) <= 3
    assert kept.sum() == 12 and clear[kept].mean() > 0.6  # boxes and outlines cross some
    assert faint[~kept].mean() > 0.8 and clear[~kept].mean() < 0.1


def test_stages_follow_one_another_and_attention_is_that_of_the_model(page, grounder):
    part(page, "a").select_option(label="DivPrune 40 % at 2 + FastV 6 % at 4")
    counts = []
    for stage in ("0", "1"):
        part(page, "stage").select_option(stage)
        counts.append(page.evaluate(
            "() => { const v = document.getElementById('viewer').biaslab, s = v.data.samples[v.state.list[v.state.at]];"
            " return v.keptOf(s.runs[3], v.layouts[s.layouts[0]], v.state.stage).reduce((a, b) => a + b, 0); }"
        ))  # fmt: skip
    assert counts == [102, 15]
    part(page, "shown").select_option("attention")
    one = list(Hostile())[1]
    encoded = grounder.encode_grounding([one.image()], [one.expression])
    with bl.capture(grounder, layers=[LAYER], heads="all") as rows:
        grounder.forward(encoded)
    right = rows.per_image(encoded)[0][1][0].numpy()
    script = f"""(head) => {{ const v = document.getElementById('viewer').biaslab;
        return [...v.attentionOf(v.data.samples.find((s) => s.id === "{one.id}"), {LAYER}, head, false)]; }}"""
    for head, values in ((-1, right.mean(0)), (1, right[1])):
        assert np.abs(np.array(page.evaluate(script, head)) - values).max() <= right.max() / 400


def test_it_is_dark_where_people_want_it_dark_and_prints_all_sections(page, tmp_path):
    colour = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert (light, page.evaluate(colour)) == ("rgb(255, 255, 255)", "rgb(22, 23, 26)")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    headings = page.locator("h2").all_text_contents()
    assert len(headings) == 7 and all(heading.is_visible() for heading in page.locator("h2").all())
    file = tmp_path / "report.pdf"
    page.pdf(path=file)
    assert file.read_bytes()[:4] == b"%PDF"
    if shutil.which("pdftotext") is None:
        browsers.lacking("no pdftotext: apt-get install poppler-utils")
    text = subprocess.run(["pdftotext", file, "-"], capture_output=True, text=True, check=True).stdout
    assert [heading for heading in headings if heading not in text] == []


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_no_page_is_wider_than_its_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1400])
def test_a_wide_table_of_a_card_scrolls_by_itself(chromium, tmp_path, width):
    names = "layer", "head", "by this profile, on held-out images", *["95 % interval, of many images"] * 5
    rows = [names, ["---"] * len(names), *[["0.284 to 0.359"] * len(names)] * 3]
    (tmp_path / "card.md").write_text("# Probe\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.goto(report(tmp_path).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    scrolls = page.locator(".card .wide").evaluate("e => e.scrollWidth > e.clientWidth")
    assert scrolls == (width == 360) and page.locator(".card td").count() == 3 * len(names)
    page.close()


def test_labels_are_text_of_any_length_and_pointing_at_them_shows_the_spelling(chromium, run, tmp_path):
    long = "x" * 300
    file = report(run, dataset=Hostile(), labels={"fastv": HOSTILE, "random": long}, out=tmp_path / "named.html")
    page = chromium.new_page(viewport={"width": 360, "height": 800})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector("#viewer[data-ready]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    part(page, "a").select_option(label=f"{HOSTILE} keep 0.05 layer 4")
    shown = [part(page, "config"), part(page, "strip").locator("button").nth(2), page.locator("tbody th").nth(2)]
    assert [element.get_attribute("title") for element in shown] == ["fastv keep 0.05 layer 4"] * 3
    assert part(page, "config").text_content() == f"{HOSTILE} keep 0.05 layer 4"
    assert said == [] and page.title() != "run"
    page.close()


def test_a_view_lives_in_a_notebook_s_page(chromium, grounder):
    sample = next(iter(bl.load_dataset("scenes", n=1)))
    shown = bl.view(grounder, sample, sample.expression, methods=["fastv"], layer=4, layers=[LAYER])
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(f"<main>{shown._repr_html_()}</main>")
    frame = page.frame_locator("iframe")
    frame.locator("#viewer[data-ready]").wait_for()
    words = frame.locator("[data-part=word-list] button")
    assert words.count() > 3
    plain = frame.locator("[data-part=picture]").evaluate("c => c.toDataURL()")
    words.nth(2).click()
    assert words.nth(2).get_attribute("aria-pressed") == "true"
    assert frame.locator("[data-part=shown]").input_value() == "attention"
    second = frame.locator("[data-part=picture]").evaluate("c => c.toDataURL()")
    words.nth(4).click()
    assert len({plain, second, frame.locator("[data-part=picture]").evaluate("c => c.toDataURL()")}) == 3
    assert said == [] and [url for url in asked if not url.startswith(("data:", "about:"))] == []
    page.close()


def test_tiles_and_thumbnail_are_drawn_where_there_are_any(chromium):
    image = tiny.images(1, [(640, 430)])[0]
    shown = bl.view(tiny.vlm("internvl"), image, "cat", methods="random", keep=0.3, layer=1, max_new_tokens=4)
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    page.set_content(f"<main>{shown._repr_html_()}</main>")
    frame = page.frame_locator("iframe")
    frame.locator("#viewer[data-ready]").wait_for()
    picture = frame.locator("[data-part=picture]")
    assert frame.locator("[data-part=thumbnail]").is_visible()
    before = picture.evaluate("c => c.toDataURL()")
    frame.locator("[data-part=tiles]").check()
    assert picture.evaluate("c => c.toDataURL()") != before
    page.close()
