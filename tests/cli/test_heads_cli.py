"""The verb ``biaslab heads``."""

import json

from commands import run


def test_heads_are_rated_compared_and_written(capsys, tmp_path):
    status, out, _ = run(
        capsys, "heads", "--model", "grounder", "--n", 9, "--layers", 3, "--criterion", "quality,auroc,ablation",
        "--out", tmp_path / "heads", "--json",
    )  # fmt: skip
    said = json.loads(out)
    assert status == 0 and len(said["ratings"]) == 12 and len(said["agreement"]) == 3
    assert (tmp_path / "heads" / "card.md").exists()


def test_what_cannot_be_rated_is_refused_in_a_line(capsys, tmp_path):
    for arguments, words in (
        (["--criterion", "size"], "criteria must be among quality, localization, auroc, ablation, ippro"),
        (["--criterion", "quality,quality"], "each once"),
        (["--criterion", "ippro", "--lam", 0], "--lam is above 0"),
        (["--n", 4], "at least 4 pictures"),
        (["--layers", 40], "40"),
        (["--dataset", tmp_path / "nowhere"], "nowhere"),
    ):
        status, _, err = run(capsys, "heads", "--out", tmp_path / "heads", *arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, (arguments, err)
    assert not (tmp_path / "heads").exists()
