"""The table of methods, and the works to cite."""

import json
import re

import biaslab as bl
from biaslab.evaluation import Results
from biaslab.pruning import METHODS, FastV, Lookahead, Method, Relative, make
from biaslab.pruning.citation import Citation, bibtex


def test_every_method_says_what_it_costs_and_how_well_it_is_known():
    table = bl.methods().set_index("method")
    assert list(table.index) == list(METHODS)
    ours = table[[METHODS[name].__module__.startswith("biaslab.") for name in table.index]]
    assert (ours[["cost", "verified"]] != "").all(axis=None)
    assert (ours["verified"].str.match(r"paper|partly: |ours")).all()


def test_what_is_listed_is_what_the_classes_say():
    table = bl.methods().set_index("method")
    first = {"fastv": 1, "layer_ratio": 2, "divprune": 0, "lookahead": 0}  # layer 0 is read, and K - 1 lies above it
    assert table.loc[list(first), "from_layer"].to_dict() == first
    assert table.loc["lookahead", ["reads", "profile"]].tolist() == ["features+text", "conditional"]
    assert table.loc["random", ["reads", "profile", "source"]].tolist() == ["", "", ""]


def test_keys_are_the_works_and_entries_are_whole():
    works = [work for cls in METHODS.values() for work in cls().citations()]
    assert len({work.key for work in works}) == len({work.title for work in works}) == len(set(works))
    for work in works:
        assert re.fullmatch(r"[a-z_0-9]+", work.key) and work.key.endswith(str(work.year))
        assert re.fullmatch(r"\d{4}\.\d{5}", work.arxiv)
        entry = work.bibtex()
        assert entry.count("{") == entry.count("}") and f"{{{work.title}}}" in entry
        assert ("author" in entry) == bool(work.authors) != (f"arXiv:{work.arxiv}" in entry)


def test_an_entry_without_authors_says_where_the_work_is():
    work = Citation(key="rule2030", title="A Rule", year=2030, arxiv="3001.00001")
    assert "author" not in work.bibtex() and "note = {arXiv:3001.00001}" in work.bibtex()
    assert bibtex([]) == ""


def test_what_is_cited_follows_the_options():
    def keys(method: Method):
        return [work.key for work in method.citations()]

    assert keys(FastV()) == ["fastv2024"] and keys(FastV(score="no_rope")) == ["fastv2024", "feather2025"]
    assert keys(Relative(padding="drop")) == ["d2pruner2026", "pore2025"]
    assert keys(Lookahead()) == [] and keys(Lookahead(rule="mmr")) == ["idpruner2026"]
    assert keys(make("random")) == []


def test_a_run_tells_what_to_cite():
    scenes = bl.load_dataset("scenes", n=1)
    options = {"keep": [0.2, 0.5], "layer": 4, "progress": False}
    results = bl.evaluate(bl.load("grounder"), scenes, methods=["none", "random", "fastv:score=no_rope"], **options)
    assert re.findall(r"^@\w+{(\w+),", results.citations(), re.M) == ["fastv2024", "feather2025"]
    run = json.loads(json.dumps(results.run))
    run["identity"]["configurations"][-1]["method"] = "of a plug-in that is gone"
    assert Results(results.samples, run).citations() == FastV.source.bibtex() + "\n\n" + _feather()


def _feather():
    return FastV(score="no_rope").citations()[1].bibtex()
