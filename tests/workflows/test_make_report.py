"""`report`: one file of a run, checked as text. What a browser makes of it: test_report_in_browser.py."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hostile_run import HOSTILE, STAGED, Hostile, hostile_run
from PIL import Image

import biaslab as bl
from biaslab.cli.app import app, import_verbs
from biaslab.datasets.question import Question
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.kept_tokens import kept_tokens
from biaslab.workflows.make_report import report

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Elements, addresses and data of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.headings, self.texts, self._open = [], [], [], [], []
        self.data = self.frame = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._open.append((tag, dict(attributes)))
        self.frame = dict(attributes).get("srcdoc", self.frame)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "h2":
            self.headings.append(data)
        if tag == "script" and attributes.get("id") == "biaslab-data":
            self.data = json.loads(data)
        self.texts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory, grounder):
    folder = tmp_path_factory.mktemp("hostile")
    return hostile_run(grounder, folder / "run")


@pytest.fixture(scope="module")
def page(run):
    return Page(report(run, dataset=Hostile()).read_text(encoding="utf-8"))


def test_a_report_has_its_sections_and_asks_nobody(run, page):
    assert page.headings == [
        "What was found", "Accuracy against cost", "Table", "Where it fails", "Samples", "Cost", "Provenance",
    ]  # fmt: skip
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    text = (run.folder / "report.html").read_text()
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", text)
    assert "fastv2024" in text  # what to cite


def test_hostile_texts_are_no_markup(page):
    assert page.tags.count("script") == 2
    assert not {"i", "b"} & set(page.tags) and any(s["text"].endswith(HOSTILE) for s in page.data["samples"])
    shown = [sample["id"] for sample in page.data["samples"]]
    assert "a \"b\" 'c' <i>.jpg" in shown


def test_the_data_are_those_of_the_run(run, page):
    lines = {(line["id"], run.name_of(line)): line for line in run.samples.to_dict("records")}
    names = [config["spelled"] for config in page.data["configs"]]
    assert names == ["none keep 1", "random keep 0.05 layer 4", "fastv keep 0.05 layer 4", STAGED]
    for sample in page.data["samples"]:
        layout = page.data["layouts"][sample["layouts"][0]]
        assert layout["n"] == 256 and len(base64.b64decode(layout["at"])) == 4 * 256
        for name, shown in zip(names, sample["runs"], strict=True):
            line = lines[sample["id"], name]
            assert (shown["hit"], shown["answer"]) == (int(line["hit"]), line["answer"])
            bits = np.unpackbits(np.frombuffer(base64.b64decode(shown.get("mask", "")), np.uint8), bitorder="little")
            kept = kept_tokens(line)
            assert np.array_equal(bits.astype(bool), kept) if name != "none keep 1" else kept.all()


def test_cells_of_a_packed_layout_are_those_of_the_layout(grounder, page):
    sample = next(iter(Hostile()))
    (layout,) = grounder.encode([sample.image()], ["x"]).layouts
    packed = page.data["layouts"][0]
    at = np.frombuffer(base64.b64decode(packed["at"]), "<u2").reshape(-1, 2)
    xs, ys = (np.array(packed[name]).reshape(-1, 2) for name in ("xs", "ys"))
    cells = np.stack([xs[at[:, 0], 0], ys[at[:, 1], 0], xs[at[:, 0], 1], ys[at[:, 1], 1]], axis=1)
    np.testing.assert_allclose(cells, layout.boxes, atol=1e-5)


def test_a_sample_takes_at_most_25_kb(run, page):
    data = page.data
    shared = {"configs": data["configs"], "layouts": data["layouts"]}
    text = len((run.folder / "report.html").read_bytes())
    assert len(json.dumps(data)) - len(json.dumps(shared)) <= 25_000 * len(data["samples"])
    assert text - len(json.dumps(data)) < 150_000  # all but the samples


def test_the_model_adds_attention_and_stages(run, grounder, tmp_path):
    vlm = grounder
    data = Page(report(run, dataset=Hostile(), vlm=vlm, layers=[3], out=tmp_path / "a.html").read_text()).data
    found = {sample["id"]: sample for sample in data["samples"]}
    one = list(Hostile())[1]
    encoded = vlm.encode_grounding([one.image()], [one.expression])
    with bl.capture(vlm, layers=[3]) as rows:
        vlm.forward(encoded)
    (_, maps), packed = rows.per_image(encoded)[0], found[one.id]["attention"]["3"]
    values = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(len(packed["max"]), -1)
    largest = np.array(packed["max"])[:, None]
    assert (np.abs(values / 255 * largest - maps[0].numpy()) <= largest / 500).all()
    for sample in data["samples"]:
        first, last = sample["runs"][3]["stages"]
        assert last == sample["runs"][3]["mask"] and sum(bin(b).count("1") for b in base64.b64decode(first)) == 102
    spent = len(json.dumps(data)) / len(data["samples"])
    assert spent <= 25_000


def test_another_model_is_refused(run, tmp_path):
    other = bl.load("grounder")
    other.fingerprint = "weights-0"
    with pytest.raises(InputError, match="is not the run's"):
        report(run, dataset=Hostile(), vlm=other, layers=[3], out=tmp_path / "a.html")


def test_without_pictures_the_rest_is_shown(run, tmp_path):
    page = Page(report(run, out=tmp_path / "a.html").read_text())
    assert "Samples" in page.headings and any("does not tell how to open the data set" in text for text in page.texts)
    assert all(sample["image"] is None for sample in page.data["samples"])


def test_samples_of_other_content_are_not_shown_as_those_of_the_run(run, tmp_path):
    other = Hostile()
    other.samples = [replace(sample, expression="x") for sample in other]
    with pytest.raises(InputError, match="holds none of the run's samples"):
        report(run, dataset=other, out=tmp_path / "a.html")


def test_two_runs_are_compared_in_pairs(run, grounder, tmp_path):
    second = hostile_run(grounder, tmp_path / "second", seed=1, methods=["none", "random"])
    page = Page(report(run, second, dataset=Hostile(), out=tmp_path / "ab.html").read_text())
    assert page.headings == ["What was found", "Table", "Samples", "Provenance of A", "Provenance of B"]
    names = [config["name"] for config in page.data["configs"]]
    assert "A: no pruning" in names and "B: random keep 0.05 layer 4" in names
    a, b = (r.samples[r.samples["method"] == "random"].set_index("id")["hit"].astype(float) for r in (run, second))
    mean = (b - a).mean()
    assert any(f"{100 * mean:+.1f}" in text for text in page.texts)
    fewer = hostile_run(grounder, tmp_path / "third", methods=["uniform"])
    with pytest.raises(InputError, match="no configuration"):
        report(run, fewer, dataset=Hostile(), out=tmp_path / "x.html")


def test_questions_have_no_boxes(grounder, tmp_path):
    def blank():
        return Image.new("RGB", (64, 48), "white")

    data = Hostile()
    data.samples = [
        Question.about(blank, f"Is it {k}?", "no", id=f"q{k}", image_id=f"i{k}", size=(64, 48), category="c")
        for k in range(2)
    ]
    results = bl.evaluate(
        grounder, data, methods=["none", "random"], keep=0.1, layer=4, max_new_tokens=4, progress=False,
        out=tmp_path / "run",
    )  # fmt: skip
    page = Page(report(results, dataset=data).read_text())
    assert "Where it fails" not in page.headings and page.data["samples"][0]["target"] is None
    assert page.data["samples"][0]["answers"] == ["no"]


def test_bad_arguments_are_refused(run, tmp_path):
    with pytest.raises(RunFolderError, match="no run folder"):
        report(tmp_path)
    with pytest.raises(InputError, match="n must be"):
        report(run, n=0)
    in_memory = bl.Results(run.samples, run.run)
    with pytest.raises(InputError, match="have no folder"):
        report(in_memory)
    assert "Table" in Page(report(in_memory, dataset=Hostile(), out=tmp_path / "m.html").read_text()).headings


def test_the_verb_writes_into_the_run_folder(grounder, tmp_path, capsys):
    bl.evaluate(
        grounder, bl.load_dataset("scenes", n=2), methods="random", keep=0.1, layer=4, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    import_verbs()
    app(["report", str(tmp_path / "run"), "--attention", "3"], standalone_mode=False)
    page = Page((tmp_path / "run" / "report.html").read_text())
    with pytest.raises(InputError, match="--attention is shown of one run"):
        app(["report", str(tmp_path / "run"), str(tmp_path / "run"), "--attention", "3"], standalone_mode=False)
    assert page.data["images"] and page.data["samples"][0]["attention"]


def test_a_probe_and_an_atlas_are_reported_from_what_they_wrote(tmp_path):
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "figures" / "probe.png")
    (tmp_path / "card.md").write_text("# Probe of <b>\n\nOf **12** places.\n\n- one\n")
    (tmp_path / "probe.csv").write_text("layer,row\n1,2\n")
    page = Page(report(tmp_path).read_text())
    assert page.headings == ["What was found", "Figures", "Tables", "Provenance"] and "b" not in page.tags
    assert "data:text/csv;charset=utf-8;base64," + base64.b64encode(b"layer,row\n1,2\n").decode() in page.addresses
    with pytest.raises(InputError, match="report it alone"):
        report(tmp_path, tmp_path)


def test_a_view_holds_its_page_in_a_frame(grounder, tmp_path):
    sample = next(iter(bl.load_dataset("scenes", n=1)))
    shown = bl.view(grounder, sample, sample.expression, methods="fastv", layer=4, layers=[3], target=sample.box)
    source = Page(shown._repr_html_()).frame
    assert source == shown.html == shown.save(tmp_path / "v.html").read_text()
    data = Page(source).data
    assert [config["name"] for config in data["configs"]] == ["no pruning", "FastV"]
    (one,) = data["samples"]
    assert "".join(one["words"]).replace(" ", "") == one["runs"][0]["answer"].replace(" ", "")
    assert len(one["wordAttention"]["3"]["max"]) == len(one["words"]) and one["runs"][0]["hit"] == 1
    with bl.capture(grounder, layers=[3]) as rows:
        grounder.locate(sample.image(), sample.expression)
    last = rows[3].values[0].mean(1)  # of the last prompt token: what the first word was chosen from
    assert np.allclose(one["attention"]["3"]["max"], last.max(1).values.numpy(), rtol=1e-3)


def test_a_view_of_results_is_its_report_s_browser(run):
    with pytest.raises(InputError, match="takes no image"):
        bl.view(run, "a.png")
    for other in ({"keep": 0.2}, {"seed": 1}, {"layer": 2}):
        with pytest.raises(InputError, match=f"shows the {next(iter(other))} of the run"):
            bl.view(run, **other)
    assert len(Page(bl.view(run, n=2).html).data["samples"]) >= 2


def test_a_view_says_what_it_lacks(grounder):
    with pytest.raises(InputError, match="needs an image"):
        bl.view(grounder)
