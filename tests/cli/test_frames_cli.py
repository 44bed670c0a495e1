"""``--frames`` of fit-bias and prune, as a user meets it: files, one line per error, before a model is loaded."""

from __future__ import annotations

import json

import pytest
from commands import run

import biaslab as bl
from biaslab.cli.model_options import ModelChoice
from biaslab.core.frames import frames_layout
from biaslab.scenes import scene


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight videos of three frames."""
    folder = tmp_path_factory.mktemp("videos")
    for v in range(8):
        (folder / f"clip{v}").mkdir()
        for k in range(3):
            scene("calibration", 3 * v + k).image.save(folder / f"clip{v}" / f"{k + 9}.png")
    return folder


@pytest.mark.slow
def test_a_profile_of_frames_debiases_a_video(capsys, videos, tmp_path):
    out = tmp_path / "frames.safetensors"
    fit = ["fit-bias", "--images", videos, "--frames", 2, "--layers", 3, "--out", out, "--json"]
    status, said, _ = run(capsys, *fit)
    assert status == 0 and json.loads(said)["n"] == 8
    profile = bl.load_profile(out)
    assert profile.provenance_["frames"] and list(profile.layouts_) == ["internvl/16x16/tiles1x1/frames2"]
    words = "adatp:relevance=profile,fastv,none"
    prune = ["prune", videos / "clip1", "Where is the cat?", "--frames", 2, "--layer", 4, "--keep", 0.1]
    status, said, _ = run(
        capsys, *prune, "--methods", words, "--profile", out, "--budget", "joint", "--out", tmp_path / "kept", "--json"
    )
    assert status == 0, said
    found = json.loads(said)
    assert found["frames"] == 2 and [r["method"] for r in found["results"]] == words.split(",")
    assert [r["kept"] for r in found["results"]] == [51, 51, 512]
    assert all(sum(r["kept_per_frame"]) == r["kept"] for r in found["results"])
    assert {f"kept.{ending}" for ending in ("pdf", "png", "csv")} <= {p.name for p in tmp_path.iterdir()}
    # what the Python calls give
    vlm, frames = bl.load("grounder"), [videos / "clip1" / f"{k}.png" for k in (9, 10, 11)]
    taken = [frames[0], frames[2]]
    with bl.prune(vlm, bl.FastV(keep=0.1), 4, budget="joint") as pruned:
        answer = vlm.ask([taken], "Where is the cat?", frames=True)
    assert found["results"][1]["answer"] == answer[0]
    assert found["results"][1]["kept_per_frame"] == [len(s.indices) for s in pruned.selections]
    assert profile.expected(frames_layout([s.parts[0] for s in profile.layouts_.values()] * 2), 3).shape[-1] == 512
    # the same frames one by one, each with its own share
    each = ["prune", taken[0], "Where is the cat?", "--image", taken[1], "--frames", "all", "--methods", "fastv"]
    status, said, _ = run(capsys, *each, "--layer", 4, "--out", tmp_path / "each")
    assert status == 0 and "50 of 512 tokens, by frame 25 25" in said


@pytest.mark.slow
def test_a_dry_run_counts_the_tokens_of_all_frames(capsys, videos):
    words = ["fit-bias", "--images", videos, "--frames", 3, "--model", "internvl3-8b", "--dry-run", "--json"]
    status, said, _ = run(capsys, *words)
    plan = json.loads(said)
    assert status == 0 and plan["data"]["tokens"]["max"] == 3 * 256 and plan["data"]["count"] == "8 videos"
    assert plan["rows"][0]["videos"] == 8


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("fit-bias --frames 3", 2, "scenes holds no videos: give a folder"),
        ("fit-bias --images {videos} --frames few", 2, "--frames is a whole number of frames of each video, or all"),
        ("fit-bias --images {videos} --frames 0", 2, "got '0'"),
        ("fit-bias --images {videos}/clip1 --frames 3", 2, "itself holds images"),
        ("fit-bias --images {videos} --frames 3 --estimator smooth", 2, "'smooth' knows no frames: choose among"),
        ("fit-bias --images {videos} --frames 3 --estimator lookahead", 2, "'lookahead' knows no frames"),
        ("fit-bias --images {videos} --frames 3 --estimator localization_heads", 2, "knows no frames"),
        ("fit-bias --images {videos} --frames 3 --prompts generic", 2, "asks for boxes in one image"),
        ("fit-bias --images {videos} --frames 3 --split test", 2, "videos are no data set"),
        ("fit-bias --images {videos} --frames 3 --model qwen2.5-vl-7b", 1, "--frames is not for qwen2_5_vl models"),
        ("fit-bias --images {videos} --frames 3 --image-option max_tiles=4", 2, "frames have max_tiles=1"),
        ("fit-bias --images {videos} --frames 3 --model paligemma-3b-mix-224 --queries null", 1, "null reads a row"),
        ("fit-bias --images {long} --frames all", 2, "6 frames take 1605 positions with their question"),
        ("fit-bias --images {long} --frames all --dry-run", 2, "take fewer of them, --frames N"),
        ("prune {long}/clip cat --frames 6 --methods fastv", 2, "take fewer of them, --frames N"),
        ("prune {videos}/clip1 cat", 2, "is a folder: give one image"),
        ("prune {videos}/clip1 cat --budget joint", 2, "--budget is of frames of a video: add --frames all"),
        ("prune {videos}/clip1/9.png cat --image {videos}/clip1/10.png", 2, "--image is of frames of a video"),
        ("prune {videos}/clip1/9.png cat --frames all", 2, "is one image: give the folder of the frames"),
        ("prune {videos} cat --frames 3", 2, "holds 8 folders of images (clip0, clip1, clip2 ...)"),
        ("prune {videos}/clip1 cat --frames 3 --budget half", 2, "budget must be 'separate' or 'joint', got 'half'"),
        ("prune {videos}/clip1 cat --frames 3 --model qwen2-vl-2b", 1, "--frames is not for qwen2_vl models"),
        ("prune {videos}/clip1 cat --frames 3 --methods relative", 2, "needs a profile"),
        ("prune {videos}/clip1 cat --frames 3 --layer 99", 2, "0 .. 9, got 99"),
        ("prune {videos}/clip1 {empty} --frames 3", 2, "empty question: say what to ask about the video"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_loading(capsys, monkeypatch, videos, tmp_path, words, status, said):
    def load(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(ModelChoice, "load", load)
    if "{long}" in words:
        (tmp_path / "clip").mkdir()
        for k in range(6):
            scene("calibration", k).image.save(tmp_path / "clip" / f"{k}.png")
    places = {"videos": videos, "long": tmp_path, "empty": " "}
    arguments = [word.format(**places) for word in words.split(" ")]
    out = ["--out", tmp_path / "out"]
    found = run(capsys, *arguments, *out)
    lines = [line for line in found[2].splitlines() if line.strip()]
    assert found[0] == status and said in found[2], found[2]
    assert len(lines) == 1, lines
    assert not (tmp_path / "out").exists()


def test_a_profile_of_frames_is_refused_for_single_pictures_with_the_way_out(capsys, monkeypatch, videos, tmp_path):
    from biaslab.maps.simulate import simulate
    from biaslab.profiles import MeanProfile

    layout = bl.load("grounder").encode([scene("test", 0).image], ["?"]).layouts[0]
    profile = MeanProfile().fit(simulate("bottom-heavy", {frames_layout([layout] * 3): 20}, layers=4).maps)
    for key in ("model", "revision", "fingerprint", "rotary"):
        profile.provenance_.pop(key, None)
    profile.provenance_["family"] = "internvl"
    profile.save(tmp_path / "p.safetensors")
    words = ["prune", videos / "clip1", "cat", "--frames", 3, "--methods", "relative", "--layer", 4, "--profile"]
    status, _, err = run(capsys, *words, tmp_path / "p.safetensors", "--out", tmp_path / "kept")
    assert status == 1 and "was fitted on frames of videos" in err and "prune with --budget joint" in err
