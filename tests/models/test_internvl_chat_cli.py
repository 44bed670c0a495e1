"""The command line on checkpoints in InternVL2.5's original layout: from images to a profile to a table."""

from __future__ import annotations

import json

import original
import pytest
import tiny
from commands import run

from biaslab.profiles import load as load_profile

SIZES = [(112, 56), (60, 60), (90, 150), (200, 40), (64, 256)]


@pytest.fixture(scope="module", params=["internlm2", "qwen2"])
def checkpoint(request, tmp_path_factory):
    """As the 8B is published (InternLM2, shards) and as the 1B is (Qwen2, one file)."""
    folder = tmp_path_factory.mktemp(request.param) / "InternVL2_5"
    return original.write(folder, request.param, shards=3 if request.param == "internlm2" else 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(tiny.images(len(SIZES), SIZES)):
        image.save(folder / f"{i}.png")
    rows = [
        {"image": f"{i}.png", "sent": f"the thing {i}", "bbox": [2, 2, 40, 30], "width": w, "height": h}
        for i, (w, h) in enumerate(SIZES)
    ]
    (folder / "refcoco_val.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_from_pictures_to_a_table(checkpoint, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    profile, out = tmp_path / "tile.safetensors", tmp_path / "run"
    status, text, _ = run(
        capsys, "fit-bias", "--model", checkpoint, "--images", pictures, "--estimator", "tile", "--batch-size", 3,
        "--out", profile, "--json",
    )  # fmt: skip
    assert status == 0 and json.loads(text)["n"] == len(SIZES)
    fitted = load_profile(profile)
    assert fitted.provenance_["family"] == "internvl" and len(fitted.layouts_) > 1
    status, text, _ = run(
        capsys, "evaluate", "--model", checkpoint, "--dataset", pictures / "refcoco_val.jsonl",
        "--image-root", pictures, "--methods", "none,fastv,d2pruner", "--keep", "0.3", "--layer", "2",
        "--profile", profile, "--batch-size", 3, "--out", out, "--json",
    )  # fmt: skip
    assert status == 0
    rows = [r for r in json.loads(text)["rows"] if r["expression_type"] == "all"]
    assert {r["method"] for r in rows} == {"none", "fastv", "d2pruner"}
    assert all(r["n"] == len(SIZES) and r["errors"] == 0 for r in rows)
    assert (out / "results.csv").exists()
