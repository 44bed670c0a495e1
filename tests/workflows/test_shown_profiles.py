"""Which profiles the viewer divides by: of other rows, models and scores none, and it says so."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from commands import run
from hostile_run import Hostile

import biaslab as bl
from biaslab.errors import ProfileMismatchError
from biaslab.workflows.make_report import report
from biaslab.workflows.shown_profiles import check_division, expected_maps

pytestmark = pytest.mark.slow
LAYER = 3


def fitted(vlm, **changes):
    scenes = bl.calibration(vlm, "scenes", n=20)
    maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, layers=[LAYER], progress=False, **changes)
    return bl.MeanProfile().fit(maps)


@pytest.fixture(scope="module")
def profiles(grounder):
    found = {
        "last": fitted(grounder),
        "heads": fitted(grounder, heads="all"),
        "text": fitted(grounder, queries="text"),
        "no_rope": fitted(grounder, score="no_rope"),
    }
    other = fitted(grounder)
    other.provenance_ = {**other.provenance_, "model": "another", "fingerprint": "weights-0"}
    few = fitted(grounder, heads="all")
    few.provenance_ = {**few.provenance_, "heads": 3}
    return {**found, "other": other, "few": few}


@pytest.fixture(scope="module")
def sample():
    return next(iter(bl.load_dataset("scenes", n=1)))


def data_of(html):
    return json.loads(re.search(r'id="biaslab-data"[^>]*>(.*?)</script>', html, re.DOTALL)[1])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("text", "fitted for query rule 'text', not 'last': fit one"),
        ("no_rope", "fitted for score 'no_rope', not 'attention': fit one"),
        ("other", "fitted for fingerprint|fitted for weights|fitted for model"),
        ("few", "fitted for head reduction 3, not "),
    ],
)
def test_a_view_refuses_what_it_cannot_divide_by(grounder, profiles, sample, monkeypatch, name, why):
    monkeypatch.setattr("biaslab.workflows.view.compare_methods", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(ProfileMismatchError, match=why) as error:
        bl.view(grounder, sample, sample.expression, profile=profiles[name], layers=[LAYER])
    assert "\n" not in str(error.value)


def test_a_profile_of_none_of_the_layers_is_refused_and_by_default_its_own_is_shown(grounder, profiles, sample):
    with pytest.raises(ProfileMismatchError, match=r"none of those shown, \[1\]: .* \(layers=\[3\]\)"):
        bl.view(grounder, sample, sample.expression, profile=profiles["last"], layers=[1])
    data = data_of(bl.view(grounder, sample, sample.expression, profile=profiles["last"], layer=1).html)
    ((_, of_layers),) = data["expected"].items()
    assert list(of_layers) == ["3"] and "3" in data["samples"][0]["attention"]


def test_what_a_method_reads_is_not_refused_but_divides_nothing(grounder, profiles, sample):
    shown = bl.view(
        grounder, sample, sample.expression, methods=["relative:queries=text"], profile=profiles["text"],
        layer=LAYER + 1, layers=[LAYER],
    )  # fmt: skip
    assert data_of(shown.html)["expected"] == {}
    assert "Attention is not divided by the profile" in shown.html and "query rule" in shown.html


def test_heads_are_divided_by_their_own_where_the_profile_has_them(grounder, profiles, sample):
    (layout,) = grounder.encode([sample.image()], ["x"]).layouts
    both = [profiles["last"], profiles["heads"]]
    expected, reasons = expected_maps(grounder, both, {layout.key: layout}, [LAYER])
    assert np.array_equal(expected[layout.key][LAYER], profiles["heads"].predict(layout, LAYER)) and not reasons
    expected, _ = expected_maps(grounder, both[:1], {layout.key: layout}, [LAYER])
    assert expected[layout.key][LAYER].shape == (1, layout.n)


def test_profiles_without_a_map_over_places_divide_nothing(grounder, profiles):
    class Heads:
        kind, provenance_, arrays_ = "heads", {}, {}

    with pytest.raises(ProfileMismatchError, match="a head profile has no map over places"):
        check_division(grounder, Heads())


def test_a_report_says_why_attention_is_not_divided(grounder, profiles, tmp_path):
    results = bl.evaluate(
        grounder, Hostile(), methods=["none", "relative:queries=text"], keep=0.05, layer=LAYER + 1,
        profile=profiles["text"], out=tmp_path / "run", progress=False,
    )  # fmt: skip
    html = report(results, dataset=Hostile(), vlm=grounder, layers=[LAYER]).read_text()
    assert data_of(html)["expected"] == {}
    assert re.search("Attention is not divided by the profile [0-9a-f]{16}: .*query rule", html)
    assert "Attention is not divided" not in report(results, dataset=Hostile(), out=tmp_path / "b.html").read_text()


def test_a_report_counts_samples_whose_content_has_changed_or_is_gone(grounder, tmp_path):
    results = bl.evaluate(
        grounder, Hostile(), methods=["none", "random"], keep=0.05, layer=4, out=tmp_path / "run", progress=False
    )
    other = Hostile()
    first, second, *others = other.samples
    other.samples = [replace(first, expression="x"), *others]
    html = report(results, dataset=other, out=tmp_path / "a.html").read_text()
    assert (
        "Shown without image and expression: 2 of 4 samples (the content of 1 is not what the run saw, 1 is not in the "
        "data set)."
    ) in html
    assert sum(sample["image"] is None for sample in data_of(html)["samples"]) == 2
    assert "Shown without" not in report(results, dataset=Hostile(), out=tmp_path / "b.html").read_text()


def test_prune_refuses_it_before_the_model_is_loaded(capsys, profiles, sample, tmp_path, monkeypatch):
    monkeypatch.setattr("biaslab.cli.model_options.ModelChoice.load", lambda *_, **__: pytest.fail("it was loaded"))
    sample.image().save(tmp_path / "a.png")
    file = profiles["text"].save(tmp_path / "text")
    page = tmp_path / "view.html"
    options = ["--methods", "none", "--profile", file, "--view", page, "--out", tmp_path / "kept"]
    status, _, err = run(capsys, "prune", tmp_path / "a.png", "the cat", *options)
    assert status == 1 and "query rule 'text', not 'last': fit one" in err and not page.exists()


def test_a_view_is_one_line_whatever_was_asked(grounder, sample):
    shown = bl.view(grounder, sample, "the cat\non the\u2028left", layers=[LAYER], max_new_tokens=2)
    assert repr(shown) == '<View: "the cat on the left", grounder, 1 sample>'
