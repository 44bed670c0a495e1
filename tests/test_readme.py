"""Every command and every block of Python in README and its two long pages, as it stands; only sizes are small."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import original
import pytest
from commands import run
from recipes import RECIPE

from biaslab.scenes import scene

ROOT = Path(__file__).parents[1]
README, COMMANDS, PYTHON = (ROOT / name for name in ("README.md", "docs/command-line.md", "docs/python.md"))

#: what makes a line small: added where the line does not say it, put in place of what it says otherwise
SMALL = {
    "fit-bias": {"--n": "6", "--batch-size": "2"},
    "probe": {"--pairs": "2", "--grid": "2x2", "--scale": "0.4,0.8", "--layers": "1,3"},
    "evaluate": {"--n": "3", "--processes": "1"},
    "heads": {"--n": "8"},
    "bench": {"--n": "1", "--repeats": "1", "--new-tokens": "2"},
    "train-grounder": {"--processes": "1", "--test": "0"},
}


def blocks(page):
    """The language and the text of every block of code of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page):
    """The words of every command of biaslab on a page, in order."""
    for language, block in blocks(page):
        if language != "bash":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["biaslab"]:
                yield words[1:]


def small(words, checkpoint):
    """The same command with little to do, and a model of this machine in place of one that is to be fetched."""
    words = [checkpoint if word == "internvl2.5" and "--dry-run" not in words else word for word in words]
    for option, value in SMALL.get(words[0], {}).items():
        if option in words:
            words[words.index(option) + 1] = value
        elif "--rehearse" not in words or option != "--n":
            words += [option, value]
    return words


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder but for what the README takes as the user's own: photos, COCO and RefCOCO's annotations."""
    home = tmp_path / "an empty folder"
    (home / "photos").mkdir(parents=True)
    for index in range(2):
        scene("validation", index).image.save(home / "photos" / f"{index}.png")
    scene("validation", 2).image.save(home / "photo.png")
    shutil.copytree(ROOT / "data" / "sample" / "images", home / "coco" / "images")
    shutil.copy(ROOT / "data" / "sample" / "refcoco_sample.jsonl", home / "refcoco_val.jsonl")
    shutil.copy(ROOT / "data" / "sample" / "sample.csv", home / "mine.csv")
    (home / "videos" / "cat").mkdir(parents=True)
    for index in range(4):
        scene("validation", index).image.save(home / "videos" / "cat" / f"{index}.png")
    picture = sorted((home / "coco" / "images").iterdir())[0].name
    asked = {"question_id": 1, "image": f"images/{picture}", "text": "Is there a cat in the image?", "label": "yes"}
    (home / "coco_pope_random.json").write_text(json.dumps(asked))
    monkeypatch.chdir(home)
    return home


@pytest.mark.long
def test_every_command_of_the_readme_runs(folder, capsys):
    for words in commands(README):
        status, out, err = run(capsys, *small(words, ""))
        assert status == 0 and out, (words, err)
    assert (folder / "runs/k4/report.html").exists()


@pytest.mark.long
def test_every_command_runs(folder, capsys, monkeypatch):
    checkpoint = str(original.write(folder.parent / "checkpoint", "qwen2"))
    monkeypatch.setattr("biaslab.grounder.recipe.Recipe", lambda **given: replace(RECIPE, **given))
    ran = []
    for words in commands(COMMANDS):
        status, out, err = run(capsys, *small(words, checkpoint))
        assert status == 0 and out, (words, err)
        ran.append(words[0])
    verbs = "models methods fit-bias heads probe inspect prune evaluate bench figures report train-grounder"
    assert set(ran) == set(verbs.split())
    made = [
        "grounder.safetensors", "runs/probe/card.md", "runs/atlas/card.md", "kept.png", "runs/k4/results.csv",
        "runs/refcoco/results.csv", "runs/k4/tables/acc50.tex", "runs/grounder/model/model.safetensors",
    ]  # fmt: skip
    assert all((folder / name).exists() for name in made)


@pytest.mark.long
def test_every_block_of_python_runs(folder):
    """One after the other, as in a session; the sizes written in them are divided."""
    parts = [block for page in (README, PYTHON) for language, block in blocks(page) if language == "python"]
    names: dict = {}
    for block in parts:
        block = re.sub(r"\bn=(\d+)", lambda found: f"n={1 if found[1] == '1' else 6}", block)
        exec(compile(block, "README.md", "exec"), names)  # what a reader types
    plt.close("all")
    assert len(parts) == 2 and names["box"] is not None and names["answer"]
    assert (folder / "profile.pdf").exists() and (folder / "runs/atlas/card.md").exists()
