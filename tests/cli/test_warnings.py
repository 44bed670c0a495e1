"""Warnings of the library, as a user of a verb meets them."""

import json
import warnings

import pytest
from commands import run

from biaslab.scenes import scene


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        scene("validation", i).image.save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("default:The profile rests on")
def test_a_warning_is_one_line_on_stderr(capsys, pictures, tmp_path):
    hook = warnings.showwarning
    command = ["fit-bias", "--images", pictures, "--layers", 1, "--out", tmp_path / "p.safetensors", "--json"]
    status, out, err = run(capsys, *command)
    record = json.loads(out)  # stdout stays one JSON object
    assert status == 0 and record["n"] == 2 and "rests on 2 images, fewer than 20" in record["notes"][0]
    line, few = err.strip().splitlines()
    assert few.startswith("biaslab: warning: The profile rests on 2 images")
    assert line.startswith("biaslab: warning: 1 image skipped, the first: ") and "broken.png" in line
    assert warnings.showwarning is hook  # what a verb sets ends with it


def test_lines_are_joined_and_code_is_shown_to_debuggers_only(capsys, monkeypatch):
    from biaslab.models import listing

    def known_models():
        warnings.warn("a first line\n    and a second", stacklevel=1)
        return []

    monkeypatch.setattr(listing, "known_models", known_models)
    status, out, err = run(capsys, "models", "--json")
    assert (status, json.loads(out)["models"]) == (0, [])
    assert err == "biaslab: warning: a first line and a second\n"
    with pytest.warns(UserWarning, match="a first line"):
        assert run(capsys, "models", "--json", "--debug")[2] == ""
