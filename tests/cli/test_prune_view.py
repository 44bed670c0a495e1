"""`biaslab prune --view`: the page of one image, and what it opens on."""

import json
import re

import pytest
from browsers import chromium
from commands import run

from biaslab.scenes import scene


@pytest.fixture
def photo(tmp_path):
    scene("validation", 2).image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def data_of(page):
    return json.loads(re.search(r'id="biaslab-data"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)[1])


@pytest.mark.slow
def test_the_page_holds_attention_words_and_what_each_method_keeps(capsys, photo, tmp_path):
    page = tmp_path / "view.html"
    status, out, err = run(capsys, "prune", photo, "the cat", "--view", page, "--out", tmp_path / "kept")
    assert status == 0 and f"wrote {page}" in out, err
    data = data_of(page)
    (sample,) = data["samples"]
    assert [c["name"] for c in data["configs"]] == ["no pruning", "DivPrune"]
    assert [r["answer"] for r in sample["runs"]] == re.findall(r"'(\[\[.*?\]\])'", out)
    assert "".join(sample["words"]) and {"0", "3", "9"} <= set(sample["attention"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--view", "photo.png"], "name a file that ends in .html, not photo.png"),
        (["--view", "v.html", "--frames", "all"], "--view shows a single image: leave it out, or --frames"),
    ],
)
def test_what_it_does_not_write(capsys, photo, monkeypatch, more, says):
    monkeypatch.chdir(photo.parent)
    before = photo.read_bytes()
    status, _, err = run(capsys, "prune", "photo.png", "the cat", *more)
    assert status == 2 and says in err
    assert photo.read_bytes() == before and [file.name for file in photo.parent.iterdir()] == ["photo.png"]


@pytest.mark.slow
def test_without_pruning_it_opens_on_attention_and_explains_its_colours(capsys, photo, tmp_path):
    run(
        capsys,
        "prune",
        photo,
        "the cat",
        "--methods",
        "none",
        "--view",
        tmp_path / "none.html",
        "--out",
        tmp_path / "a",
    )
    run(capsys, "prune", photo, "the cat", "--view", tmp_path / "two.html", "--out", tmp_path / "b")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        part = lambda name: page.locator(f"[data-part={name}]")  # noqa: E731
        page.goto((tmp_path / "none.html").as_uri())
        page.wait_for_selector("#viewer[data-ready]")
        assert part("shown").input_value() == "attention" and part("layer").is_visible()
        assert part("attention-legend").is_visible() and not part("dropped-legend").is_visible()
        for useless in ("verdict", "a", "b", "previous", "next", "position", "sample-keys", "target-legend"):
            assert not part(useless).is_visible(), useless
        page.goto((tmp_path / "two.html").as_uri())
        page.wait_for_selector("#viewer[data-ready]")
        assert part("shown").input_value() == "kept" and part("dropped-legend").is_visible()
        assert part("a").is_visible() and not part("attention-legend").is_visible()
        part("word-list").locator("button").nth(1).click()
        assert part("shown").input_value() == "attention" and part("attention-legend").is_visible()
        assert not part("dropped-legend").is_visible()
