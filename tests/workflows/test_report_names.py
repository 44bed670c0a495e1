"""What methods are called in reports and in the viewer, and how they are spelled where one asks for that."""

import base64
import json
from html.parser import HTMLParser

import pandas as pd
import pytest
from commands import run as command
from made_runs import coins, made_run

import biaslab as bl
from biaslab.errors import InputError
from biaslab.figures.frames import label_rows
from biaslab.figures.report.charts import line_chart
from biaslab.figures.report.findings import findings
from biaslab.figures.report.names import PrintNames
from biaslab.pruning.display_names import display_names
from biaslab.workflows.make_report import report
from biaslab.workflows.print_labels import print_names

pytestmark = pytest.mark.slow

N = 40
EARLY, LATE = "d2pruner@0.1@2", "d2pruner@0.1@4"
VARIANT = "d2pruner:pivots_suppress=true"
HITS = {
    "none": {1.0: coins(0.95, N, 0)}, "random": {0.1: coins(0.3, N, 2)}, "fastv": {0.1: coins(0.5, N, 4)},
    "d2pruner": {0.1: coins(0.7, N, 5)}, VARIANT: {0.1: coins(0.8, N, 6)}, EARLY: {0.1: coins(0.6, N, 7)},
    LATE: {0.1: coins(0.6, N, 8)}, "divprune@0.4@2+fastv@0.06@4": {0.06: coins(0.6, N, 9)},
}  # fmt: skip
HOSTILE = "</title></script><script>document.title='run'</script>\"'><b onmouseover=x>&amp;"


class Shown(HTMLParser):
    """What a reader of a page sees, and what pointing at it shows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.head, self.rows, self.facts, self.titles, self.links = [], [], {}, {}, [], {}
        self.legends, self.sentences, self.paragraphs, self._open, self._term = [], [], [], [], ""
        self.data = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._open.append((tag, dict(attributes)))
        given = dict(attributes)
        if "download" in given:
            self.links[given["download"]] = base64.b64decode(given["href"].partition("base64,")[2]).decode()

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, given = self._open[-1] if self._open else ("", {})
        if tag == "th":
            if given.get("scope") == "row":
                self.rows[data] = given.get("title")
            else:
                self.head.append(data)
        elif tag == "title":
            self.titles.append(data)
        elif tag == "tspan":
            self.legends.append(data)
        elif tag == "li":
            self.sentences.append(data)
        elif tag == "p":
            self.paragraphs.append(data)
        elif tag == "dt":
            self._term = data
        elif tag == "dd":
            self.facts[self._term] = data
        elif given.get("id") == "biaslab-data":
            self.data = json.loads(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("names") / "run", HITS, model="grounder")


def shown(run, tmp_path, **options):
    return Shown(report(run, out=tmp_path / "report.html", n=2, **options).read_text(encoding="utf-8"))


def test_a_report_calls_methods_as_print_does_and_keeps_how_they_are_spelled(run, tmp_path):
    page = shown(run, tmp_path)
    named = {
        "no pruning": "none keep 1", "FastV keep 0.1 layer 4": "fastv keep 0.1 layer 4",
        "D2Pruner (pivots suppress) keep 0.1 layer 4": f"{VARIANT} keep 0.1 layer 4", "D2Pruner 10 % at 2": EARLY,
        "DivPrune 40 % at 2 + FastV 6 % at 4": "divprune@0.4@2+fastv@0.06@4",
    }  # fmt: skip
    assert named.items() <= page.rows.items() and len(page.rows) == len(HITS)
    assert {config["name"]: config["spelled"] for config in page.data["configs"]} == page.rows
    assert page.data["configs"][-1]["stages"] == ["DivPrune, layer 2", "FastV, layer 4"]
    assert {"FastV", "D2Pruner (pivots suppress)", "D2Pruner 10 % at 2"} <= set(page.legends)
    assert {"fastv", VARIANT, EARLY} <= set(page.titles)  # what pointing at the legend shows
    assert any(t.startswith("FastV keep 0.1 layer 4 (fastv keep 0.1 layer 4): ") for t in page.titles)
    assert page.facts["method FastV"] == "fastv" and page.facts["method D2Pruner 10 % at 2"] == EARLY
    assert "minus no pruning, points" in page.head
    said = " ".join(page.sentences)
    assert "FastV (" in said and "at keep 0.1 layer 4" in said and "d2pruner" not in said and "fastv" not in said
    assert "fastv" in page.links["results.csv"] and "FastV" in page.links["acc50.tex"]


def test_labels_name_methods_everywhere_and_schedules_stay_apart(run, tmp_path):
    page = shown(run, tmp_path, labels={"d2pruner": "Ours", "none": "full model", "random": "chance"})
    ours = {name: spelled for name, spelled in page.rows.items() if name.startswith("Ours")}
    assert sorted(ours.values()) == sorted(["d2pruner keep 0.1 layer 4", f"{VARIANT} keep 0.1 layer 4", EARLY, LATE])
    assert len({config["name"] for config in page.data["configs"]}) == len(HITS) == len(page.rows)
    assert "Ours (D2Pruner 10 % at 2)" in page.legends and "Ours (D2Pruner 10 % at 4)" in page.legends
    assert "minus full model, points" in page.head and "minus chance, points" in page.head
    assert any(text.startswith("Compared with full model") for text in page.sentences)
    assert "Ours" in page.links["acc50.tex"] and "Ours" not in page.links["results.csv"]


def test_sentences_say_what_is_true_of_questions_and_of_few_misses(tmp_path):
    hits = {"none": {1.0: coins(1.0, N, 0)}, "random": {0.1: coins(1.0, N, 0)}, "fastv": {0.1: coins(0.2, N, 4)}}
    folder = made_run(tmp_path / "run", hits, model="grounder")
    results = bl.Results.load(folder)
    missed = [part for part in shown(folder, tmp_path).paragraphs if "at random" in part]
    assert len(missed) == 1 and "2 that at least one method misses; " in missed[0]
    assert "most methods miss" not in missed[0]
    lines = results.samples.assign(parsed=False, truncated=True, info=[{"answers": ["two"]}] * len(results.samples))
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["reference"] = None
    record["identity"]["configurations"] = record["identity"]["configurations"][2:]
    alone = bl.Results(lines[lines["method"] == "fastv"], record)
    said = findings(alone)
    assert said[1].startswith("FastV keep 0.1 layer 4 locates ") and "cut before they held a box" in said[-1]
    record["identity"]["dataset"]["task"] = "questions"
    said = findings(bl.Results(lines[lines["method"] == "fastv"], record))
    assert said[1].startswith("FastV keep 0.1 layer 4 answers ") and "cut before they held an answer" in said[-1]
    assert not any("box" in sentence for sentence in said)


def test_hostile_labels_are_text(run, tmp_path):
    page = shown(run, tmp_path, labels={"fastv": HOSTILE, "random": f"{HOSTILE}{{{{ 7 * 7 }}}}"})
    assert page.tags.count("script") == 2 and "b" not in page.tags
    assert f"{HOSTILE} keep 0.1 layer 4" in page.rows and f"{HOSTILE}{{{{ 7 * 7 }}}} keep 0.1 layer 4" in page.rows
    assert any(config["name"].startswith(HOSTILE) for config in page.data["configs"])
    assert page.facts[f"method {HOSTILE}"] == "fastv"


def test_two_runs_are_named_alike(run, tmp_path):
    other = made_run(tmp_path / "other", {"none": HITS["none"], "fastv": HITS["random"]}, model="grounder")
    page = shown(run, tmp_path, other=other, labels={"fastv": "Fast"})
    assert page.rows["Fast keep 0.1 layer 4"] == "fastv keep 0.1 layer 4"
    assert {"A: Fast keep 0.1 layer 4", "B: Fast keep 0.1 layer 4"} <= {c["name"] for c in page.data["configs"]}
    assert "fastv keep 0.1 layer 4" in page.links["differences.csv"] and any(
        "Fast keep 0.1 layer 4 (" in s for s in page.sentences
    )


def test_the_verb_takes_labels_as_figures_does(run, capsys, tmp_path):
    status, _, err = command(
        capsys,
        "report",
        run,
        "--label",
        f"{VARIANT}=Ours",
        "--label",
        "fastv=Fast & first",
        "--out",
        tmp_path / "a.html",
    )
    assert status == 0, err
    page = Shown((tmp_path / "a.html").read_text())
    assert page.rows["Ours keep 0.1 layer 4"] == f"{VARIANT} keep 0.1 layer 4"
    assert "Fast & first keep 0.1 layer 4" in page.rows


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("fastvv=X", "no method 'fastvv' to name: choose from none, d2pruner, "), ("fastv", "is not KEY=NAME"),
        ("fastv=\udcff", "must be a text of Unicode characters"),
    ],
)  # fmt: skip
def test_a_label_that_names_nothing_is_refused_in_a_line(run, capsys, tmp_path, label, said):
    for verb, out in (("report", "x.html"), ("figures", "x")):
        status, _, err = command(capsys, verb, run, "--label", label, "--out", tmp_path / out)
        assert status == 2 and said in err and len(err.strip().splitlines()) == 1
        assert not (tmp_path / out).exists()


def test_a_probe_has_no_methods_to_name(tmp_path):
    (tmp_path / "card.md").write_text("# Probe\n")
    with pytest.raises(InputError, match="has no methods to name"):
        report(tmp_path, labels={"fastv": "X"})


def test_names_that_two_methods_share_are_told_apart():
    words = ["fastv", "random", "d2pruner", EARLY, "fastv@0.10000001@2", "fastv@0.1@2"]
    assert len(set(display_names(words).values())) == len(words)
    table = pd.DataFrame({"method": [w.partition("@")[0] for w in words], "spelled": words})
    table["options_hash"] = [f"{i:012x}" for i in range(len(words))]
    names = label_rows(table, {"fastv": "X", "random": "X", "d2pruner": "X"})
    assert names.nunique() == len(words) and names[1] == "X (random)"
    assert list(label_rows(table[3:4], {"d2pruner": "X"})) == ["X"]


def test_methods_of_one_image_are_named_whatever_form_they_have():
    made = bl.pruning.make("d2pruner", pivots_suppress=True)
    assert print_names(["none", made, "fastv:queries=last", EARLY], {"fastv:queries=last": "F", VARIANT: "Ours"}) == {
        "none": "no pruning", VARIANT: "Ours", "fastv": "F", EARLY: "D2Pruner 10 % at 2",
    }  # fmt: skip
    with pytest.raises(InputError, match="no method 'random' to name"):
        print_names(["none", "fastv"], {"random": "X"})


def test_a_method_that_is_not_installed_keeps_its_word(run, tmp_path):
    record = json.loads((run / "run.json").read_text())
    config = {
        "method": "of_a_plug_in",
        "options_hash": "1f",
        "options": {},
        "profile_hash": "",
        "keep": 0.1,
        "layer": 2,
    }
    stage = {"layer": 2, "method": "of_a_plug_in", "keep": 0.1, "options": {}}
    record["identity"]["configurations"].append(config)
    names = PrintNames(bl.Results(bl.Results.load(run).samples, record))
    assert (
        names.configuration(config) == names.spelled(config) == names.both(config) == "of_a_plug_in:1f keep 0.1 layer 2"
    )
    assert names.stage(stage) == "of_a_plug_in, layer 2"


def test_a_legend_holds_names_whole_however_long():
    names = [
        f"DivPrune 40 % at 2 + D2Pruner (pivots suppress) {k} % at 4 + FastV (score no rope) 1 % at 6" for k in (7, 8)
    ]
    point = {"x": 0.5, "value": 0.5, "lo": 0.4, "hi": 0.6, "text": "x"}
    drawn = line_chart(
        {name: [point] for name in names}, x_label="x", y_label="y", ticks=[], reference=None,
        spelled={names[0]: "<a>"},
    )  # fmt: skip
    page = Shown(drawn)
    assert " ".join(page.legends) == " ".join(names) and "<a>" in page.titles and max(map(len, page.legends)) <= 85
    places = [float(part.split('"')[0]) for part in drawn.split('" y="')[1:]]
    assert max(places) < float(drawn.split('viewBox="0 0 560 ')[1].split('"')[0])
