"""`report` of folders that `probe`, `inspect` and `heads` have written: what it says of where they come from."""

import base64
import json
import re

import pytest
from commands import run

from biaslab.errors import RunFolderError
from biaslab.workflows.make_report import report

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    from biaslab.cli import main

    where = tmp_path_factory.mktemp("measured")

    def verb(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert not ended.value.code

    profile = where / "bias.safetensors"
    verb("fit-bias", "--n", 12, "--layers", "3,9", "--out", profile, "--maps", where / "maps", "--heads", "all")
    verb("fit-bias", "--n", 12, "--layers", "3,9", "--out", where / "mean.safetensors")
    verb("probe", "--pairs", 6, "--size", 224, "--grid", "2x2", "--scale", "0.5,0.9", "--layers", 3, "--seed", 5,
         "--profile", where / "mean.safetensors", "--out", where / "probe")  # fmt: skip
    verb("inspect", where / "mean.safetensors", "--out", where / "atlas")
    verb("inspect", where / "maps", "--out", where / "of-maps")
    verb("heads", "--n", 9, "--layers", 3, "--criterion", "quality", "--out", where / "heads")
    return where


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("probe", "biaslab probe --pairs 6 "), ("atlas", "biaslab inspect mean.safetensors "),
        ("of-maps", "biaslab inspect maps "), ("heads", "biaslab heads --n 9 "),
    ],
)  # fmt: skip
def test_a_report_says_where_a_folder_comes_from(folders, name, command):
    known = json.loads((folders / name / "provenance.json").read_text())
    assert known["command"].startswith(command)
    assert known["environment"]["torch"] and known["settings"]["fingerprint"].startswith("weights-")
    text = report(folders / name).read_text(encoding="utf-8")
    section = text.partition('<section id="provenance">')[2]
    for said in (known["command"], known["settings"]["fingerprint"], "version of transformers", "@software{biaslab,"):
        assert said in section, said
    links = dict(re.findall(r'download="(citations.bib|provenance.json)" href="[^"]*base64,([^"]*)"', section))
    assert json.loads(base64.b64decode(links["provenance.json"])) == known
    assert base64.b64decode(links["citations.bib"]).decode() == known["bibtex"]
    assert ("d2pruner2026" in known["bibtex"]) == (name != "heads")  # the mean of each position is its prior


def test_a_probe_names_its_seed_and_its_profile(folders):
    known = json.loads((folders / "probe" / "provenance.json").read_text())
    assert known["settings"]["design"]["seed"] == 5 and len(known["profile"]["hash"]) == 16
    assert f"<dd>{known['profile']['hash']}</dd>" in report(folders / "probe").read_text()


def test_a_folder_of_an_earlier_version_says_how_to_get_it(folders, tmp_path, capsys):
    (tmp_path / "card.md").write_text((folders / "probe" / "card.md").read_text())
    assert "The folder has no provenance.json" in report(tmp_path).read_text()
    (tmp_path / "provenance.json").write_text("[]")
    with pytest.raises(RunFolderError, match="provenance.json cannot be read"):
        report(tmp_path)
    status, _, err = run(capsys, "report", tmp_path)
    assert status == 1 and len(err.strip().splitlines()) == 1
