"""The command line as a user meets it: output, files, exit status, one line per error."""

import json

import pytest
from commands import run
from PIL import Image

from biaslab import __version__
from biaslab.cli import main
from biaslab.pruning import METHODS, parse
from biaslab.scenes import scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    scene("validation", 0).image.save(path)
    return path


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "grounder.safetensors"
    with pytest.raises(SystemExit):
        main(["fit-bias", "--n", "12", "--out", str(path), "--layers", "1,3", "--json"])
    return path


def test_help_and_version(capsys):
    status, out, _ = run(capsys, "--version")
    assert (status, out.strip()) == (0, __version__)
    status, out, _ = run(capsys, "--help")
    assert status == 0
    verbs = "models methods fit-bias inspect prune evaluate figures bench demo train-grounder"
    for verb in verbs.split():
        assert verb in out
        status, help_text, _ = run(capsys, verb, "--help")
        assert status == 0 and "Example: biaslab" in help_text


def test_models_lists_aliases(capsys):
    status, out, _ = run(capsys, "models", "--json")
    rows = {r["alias"]: r for r in json.loads(out)["models"]}
    assert status == 0
    assert rows["grounder"]["on disk"] == "yes"
    assert rows["internvl3-8b"]["checkpoint"] == "OpenGVLab/InternVL3-8B-hf"
    for options in ([], ["--checkpoints"], ["--family", "llava"]):  # a terminal of 80 columns shows it unbroken
        lines = run(capsys, "models", *options)[1].splitlines()
        assert max(map(len, lines)) < 80 and len(lines) > 2
    assert "grounder" not in run(capsys, "models", "--family", "LLaVA")[1]
    status, _, err = run(capsys, "models", "--family", "lava")
    assert status == 2 and "choose one of internvl, " in err


def test_fit_bias_writes_profile_card_and_figures(capsys, profile, tmp_path):
    for ending in (".safetensors", ".md", ".pdf", ".png", ".csv"):
        assert profile.with_suffix(ending).stat().st_size > 0
    out = tmp_path / "again.safetensors"
    status, text, err = run(capsys, "fit-bias", "--n", 12, "--layers", "1,3", "--out", out)
    assert status == 0, err
    assert "12 images (scenes)" in text
    few = "The profile rests on 12 images, fewer than 20: take its map for noise unless its reliability says otherwise."
    assert few in text and few in out.with_suffix(".md").read_text()
    assert f"wrote {out}" in text
    assert out.read_bytes() == profile.read_bytes()  # the same calibration set gives the same file


def test_fit_bias_says_how_many_questions_on_how_many_pictures(capsys, tmp_path):
    out = tmp_path / "p.safetensors"
    fit = ("fit-bias", "--n", 4, "--layers", 1, "--out", out)
    status, text, err = run(capsys, *fit, "--questions", 2)
    assert status == 0 and "questions on 4 images (scenes), estimator mean" in text, err
    assert '| asked | {"prompts": "expressions", "questions": 2, "pictures": 4} |' in out.with_suffix(".md").read_text()
    status, text, err = run(capsys, *fit, "--prompts", "generic", "--questions", 3, "--dry-run")
    assert status == 0 and "data    scenes: 12 questions on 4 images" in text, err


def test_fit_bias_lets_a_model_name_objects_once_and_keeps_the_names(capsys, tmp_path):
    (photos := tmp_path / "photos").mkdir()
    for index in range(3):
        scene("validation", index).image.save(photos / f"{index}.png")
    out, log = tmp_path / "p.safetensors", tmp_path / "p.named.jsonl"
    fit = ("fit-bias", "--model", "internvl2.5-1b", "--rehearse", "--images", photos, "--layers", 1, "--out", out)
    status, text, err = run(capsys, *fit, "--prompts", "named", "--questions", 2)
    assert status == 0 and f"wrote {log}" in text, err
    named = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["image"] for line in named] == ["0.png", "1.png", "2.png"] and all(
        line["expressions"] for line in named
    )
    before, profile = log.read_bytes(), out.read_bytes()
    assert run(capsys, *fit, "--prompts", "named", "--questions", 2)[0] == 0
    assert (log.read_bytes(), out.read_bytes()) == (before, profile)  # nothing is asked again
    assert run(capsys, *fit, "--prompts", log, "--questions", 2, "--json")[0] == 0  # the log is a file of captions
    assert run(capsys, *fit, "--prompts", "named", "--dry-run")[0] == 2  # with --rehearse


def test_inspect_shows_what_a_profile_was_fitted_on(capsys, profile, tmp_path):
    out = tmp_path / "atlas"
    status, text, _ = run(capsys, "inspect", profile, "--out", out, "--layers", "3")
    assert status == 0
    assert "grounder" in text and "Layer 3: Over positions" in text and "Layer 1:" not in text
    for name in ("figures/profile.png", "tables/strength.csv", "tables/summary.tex", "card.md", "profile.md"):
        assert (out / name).stat().st_size > 0 and f"wrote {out / name}" in text
    assert (out / "card.md").read_text().strip() in text
    status, text, _ = run(capsys, "inspect", profile, "--json")
    record = json.loads(text)
    assert status == 0 and [r["layer"] for r in record["summary"]] == [1, 3] and record["files"] == []
    assert record["hash"] and record["tables"]["strength"][0]["map_sd_factor"] > 1


def test_prune_prints_boxes_and_draws_what_was_kept(capsys, picture, profile, tmp_path):
    status, out, err = run(
        capsys, "prune", picture, "the cat", "--methods", "none,fastv,d2pruner:pivots_suppress=true", "--keep", 0.1,
        "--layer", 2, "--profile", profile, "--out", tmp_path / "kept", "--json",
    )  # fmt: skip
    assert status == 0, err
    record = json.loads(out)
    assert [r["kept"] for r in record["results"]] == [256, 25, 25]
    assert {f.rsplit(".", 1)[1] for f in record["files"]} == {"pdf", "png", "csv"}


def test_schedules_are_words_of_prune_evaluate_and_bench(capsys, picture, tmp_path):
    word = "divprune@0.5@0+fastv@0.1@4"
    status, out, err = run(
        capsys, "prune", picture, "the cat", "--methods", f"none,{word}", "--out", tmp_path / "kept", "--json"
    )
    assert status == 0, err
    assert [(r["method"], r["kept"]) for r in json.loads(out)["results"]] == [("none", 256), (word, 25)]
    command = (
        "evaluate", "--n", 2, "--methods", f"none,{word},pyramiddrop", "--keep", 0.1, "--out", tmp_path / "run"
    )  # fmt: skip
    status, out, err = run(capsys, *command, "--json")
    assert status == 0, err
    rows = {r["method"]: r for r in json.loads(out)["rows"] if r["expression_type"] == "all"}
    assert rows["divprune+fastv"]["mean_share"] == pytest.approx((4 * 128 + 6 * 25) / 2560)
    assert (rows["pyramiddrop"]["layer"], rows["pyramiddrop"]["keep"]) == (2, 0.1)
    status, out, err = run(capsys, *command, "--dry-run", "--json")
    assert status == 0, err
    assert [(r["method"], r["kept"]) for r in json.loads(out)["rows"]] == [
        ("none", 256),
        (word, 25),
        ("pyramiddrop", 25),
    ]
    status, out, err = run(capsys, "figures", tmp_path / "run")
    assert status == 0, err
    status, out, err = run(capsys, "bench", "--methods", word, "--n", 1, "--repeats", 1, "--new-tokens", 2, "--json")
    assert status == 0, err
    assert json.loads(out)["rows"][1]["method"] == word


def test_prune_without_pruning_answers_and_draws_the_box(capsys, picture, tmp_path):
    status, out, err = run(capsys, "prune", picture, "the cat", "--methods", "none", "--out", tmp_path / "answer")
    assert status == 0, err
    assert "none: '[[" in out and "256 of 256 tokens" in out and (tmp_path / "answer.png").stat().st_size > 0


def test_every_default_of_evaluate_works(capsys, tmp_path):
    """Nothing is named: what needs a profile is left out, and a line says how to add it."""
    status, out, err = run(capsys, "evaluate", "--n", 1, "--out", tmp_path / "run", "--json")
    assert status == 0, err
    rows = [r for r in json.loads(out)["rows"] if r["expression_type"] == "all"]
    assert {r["method"] for r in rows} == {"none", "random", "uniform", "fastv", "divprune"}
    assert {r["layer"] for r in rows if r["method"] != "none"} == {4} and len(rows) == 1 + 4 * 4
    (line,) = [line for line in err.splitlines() if "left out" in line]
    assert "relative, d2pruner" in line and "biaslab fit-bias --model grounder" in line and "--profile" in line


def _row(width):
    return {"image": "a.png", "sent": "the cat", "bbox": [0, 0, 10, 10], "width": width, "height": 224}


def test_a_run_without_a_verdict_fails_and_says_how_to_go_on(capsys, picture, tmp_path):
    """A cause outside the run (half an image) is put right; the same command then says what to do."""
    data, scene_file = tmp_path / "mine.jsonl", picture.read_bytes()
    (tmp_path / "a.png").write_bytes(scene_file[: len(scene_file) // 2])
    data.write_text("\n".join(json.dumps(_row(224)) for _ in range(2)))
    command = ["evaluate", "--dataset", data, "--methods", "none,random", "--keep", 0.1, "--out", tmp_path / "run"]
    status, out, err = run(capsys, *command)
    last = err.strip().splitlines()[-1]
    assert status == 1 and "wrote" in out and (tmp_path / "run" / "results.csv").exists()
    assert "2 of 2 configurations without a verdict (none keep 1; random keep 0.1 layer 4)" in last
    assert "4 of 4 sample runs failed" in last and "truncated" in last and "--retry-errors" in last
    (tmp_path / "a.png").write_bytes(scene_file)
    status, _, err = run(capsys, *command)
    last = err.strip().splitlines()[-1]
    assert status == 1 and "failed in an earlier call and were not tried again" in last and "cause then" in last
    status, out, err = run(capsys, *command, "--retry-errors")
    assert status == 0 and "failed" not in err, err


def test_evaluate_resumes_and_figures_draw(capsys, profile, tmp_path):
    command = ["evaluate", "--n", 4, "--methods", "none,random,relative", "--keep", "0.2,16", "--layer", 2,
               "--profile", profile, "--out", tmp_path / "run", "--json"]  # fmt: skip
    status, out, err = run(capsys, *command)
    assert status == 0, err
    rows = [r for r in json.loads(out)["rows"] if r["expression_type"] == "all"]
    assert {(r["method"], r["keep"]) for r in rows} == {
        ("none", 1.0), ("random", 0.2), ("random", 16), ("relative", 0.2), ("relative", 16)
    }  # fmt: skip
    assert all(r["n"] == 4 and r["errors"] == 0 for r in rows)
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert run(capsys, *command)[:2] == (0, out)
    assert {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before
    status, out, err = run(capsys, "figures", tmp_path / "run")
    assert status == 0, err
    assert (tmp_path / "run" / "figures" / "acc50-keep.pdf").exists()
    assert (tmp_path / "run" / "tables" / "acc50.tex").read_text().count(r"\toprule") == 1


def test_scores_by_name_are_fitted_and_pruned_with(capsys, tmp_path):
    mine = tmp_path / "no_rope.safetensors"
    status, _, err = run(capsys, "fit-bias", "--n", 4, "--layers", 3, "--score", "no_rope", "--out", mine)
    assert status == 0, err
    methods = "fastv,fastv:score=no_rope,fastv:score=value_norm,layer_ratio:over=1,relative:score=no_rope"
    command = ["evaluate", "--n", 2, "--keep", 0.1, "--layer", 4, "--profile", mine, "--json"]
    status, out, err = run(capsys, *command, "--methods", methods, "--out", tmp_path / "run")
    assert status == 0, err
    rows = [r for r in json.loads(out)["rows"] if r["expression_type"] == "all"]
    asked = [parse(text) for text in methods.split(",")]
    assert [(r["method"], r["options_hash"]) for r in rows] == [(m.name, m.options_hash) for m in asked]
    assert all(r["n"] == 2 and r["errors"] == 0 for r in rows)
    status, _, err = run(capsys, *command, "--methods", "relative", "--out", tmp_path / "other")
    assert status == 1 and "fitted for score 'no_rope'" in err


def test_tflops_are_printed_with_significant_digits(capsys, tmp_path):
    """The grounder's 0.005 TFLOPs are not 0.005 for every method."""
    from biaslab.cli.output import significant

    assert [significant(v) for v in (0.00512345, 53.71, 1234.5, 0.0, float("nan"))] == [
        "0.00512", "53.7", "1230", "0", "-",
    ]  # fmt: skip
    command = ["evaluate", "--n", 2, "--methods", "none,random", "--keep", "0.5,0.05", "--out", tmp_path / "run"]
    status, out, err = run(capsys, *command)
    assert status == 0, err
    header, *rows = (line.split() for line in out.splitlines() if line.startswith((" ", "method", "random")))
    assert header[-1] == "tflops"
    tflops = [row[-1] for row in rows]
    assert len(set(tflops)) == 3 and all(len(value.lstrip("0.")) <= 3 for value in tflops)


def test_bench_measures_and_writes(capsys, tmp_path):
    command = ["bench", "--n", 1, "--repeats", 1, "--new-tokens", 2, "--methods", "none,random", "--layer", 2]
    status, out, err = run(capsys, *command, "--out", tmp_path / "bench", "--json")
    assert status == 0, err
    data = json.loads(out)
    none, random = data["rows"]
    assert (none["method"], random["method"], random["keep"], random["layer"]) == ("none", "random", 0.1, 2)
    assert random["flops_prefill"] > 1 and none["layer"] is None and none["prefill_ms"] > 0
    assert [p.split("/")[-1] for p in data["files"]] == ["bench.csv", "bench-runs.csv", "bench.tex", "bench.json"]
    status, out, err = run(capsys, *command)
    assert status == 0 and "random keep 0.1 layer 2: prefill " in out


def test_dry_runs_load_and_write_nothing(capsys, tmp_path, profile, monkeypatch):
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("weights loaded"))
    fit = ["fit-bias", "--n", 2, "--layers", "1,3", "--out", tmp_path / "p.safetensors", "--dry-run"]
    evaluate = ["evaluate", "--n", 3, "--methods", "none,relative", "--keep", "0.2", "--layer", "2,4",
                "--profile", profile, "--out", tmp_path / "run", "--dry-run"]  # fmt: skip
    for command in (fit, evaluate):
        status, out, err = run(capsys, *command)
        assert status == 0, err
        assert "5.67 million parameters" in out and "256 / 256 / 256 visual" in out
        status, out, err = run(capsys, *command, "--json")
        plan = json.loads(out)
        assert status == 0 and plan["dry_run"] is True and plan["model"]["layers"] == 10
    assert len(plan["rows"]) == 3 and not list(tmp_path.iterdir())
    status, _, err = run(capsys, *evaluate[:-1], "--layer", 9, "--dry-run")
    assert status == 1 and "layer" in err  # what the real run would refuse


def test_rehearsals_say_so_and_do_not_mix(capsys, tmp_path, profile):
    mine = tmp_path / "rehearsed.safetensors"
    fit = ["fit-bias", "--n", 4, "--layers", 3, "--out", mine, "--rehearse"]
    status, out, err = run(capsys, *fit)
    assert status == 0, err
    assert out.startswith("rehearsal, random weights")
    evaluate = ["evaluate", "--n", 3, "--methods", "none,relative", "--keep", "0.2", "--layer", 4]
    rehearsed = [*evaluate, "--profile", mine, "--out", tmp_path / "run"]
    status, out, err = run(capsys, *rehearsed, "--rehearse", "--json")
    assert status == 0, err
    data = json.loads(out)
    assert data["note"] == "rehearsal, random weights"
    assert {row["model"] for row in data["rows"]} == {"rehearsal of grounder"}
    assert run(capsys, *rehearsed, "--rehearse")[0] == 0  # resumes
    for command, words in (
        (rehearsed, "this profile is a rehearsal's"),
        ([*evaluate, "--methods", "none", "--out", tmp_path / "run"], "holds a rehearsal"),
        ([*evaluate, "--profile", profile, "--out", tmp_path / "a", "--rehearse"], "fit-bias --rehearse"),
    ):
        status, _, err = run(capsys, *command)
        assert status == 1 and words in err and len(err.strip().splitlines()) == 1, err


def _bad(tmp_path, picture, profile):
    """Commands that must fail: name -> arguments, exit status, words of the one line."""
    broken = tmp_path / "broken.jpg"
    Image.new("RGB", (64, 64)).save(broken)
    broken.write_bytes(broken.read_bytes()[:200])
    blocked = tmp_path / "file"
    blocked.write_text("")
    evaluate = ["evaluate", "--n", 2, "--methods", "none,random"]
    return {
        "missing image": (["prune", tmp_path / "no.jpg", "the cat"], 2, "no.jpg"),
        "truncated image": (["prune", broken, "the cat"], 2, "broken.jpg"),
        "empty expression": (["prune", picture, "  "], 2, "empty expression"),
        "keep 0": (["prune", picture, "the cat", "--keep", 0], 2, "keep"),
        "two keeps": (["prune", picture, "the cat", "--keep", "0.1,0.2"], 2, "--keep"),
        "image option": (["prune", picture, "the cat", "--image-option", "max_tiles"], 2, "NAME=NUMBER"),
        "unknown image option": (["fit-bias", "--image-option", "max_pixels=9", "--n", 2], 2, "max_tiles"),
        "unknown reference": ([*evaluate, "--reference", "rand", "--out", tmp_path / "a"], 2, "rand"),
        "keep 1.5": ([*evaluate, "--keep", 1.5, "--out", tmp_path / "a"], 2, "keep"),
        "keep is a word": ([*evaluate, "--keep", "half", "--out", tmp_path / "a"], 2, "--keep"),
        "unknown model": (["fit-bias", "--model", "groundr"], 2, "grounder"),
        "unknown model of evaluate": (["evaluate", "--model", "groundr", "--out", tmp_path / "a"], 2, "grounder"),
        "model not here": (["fit-bias", "--model", "internvl3-1b", "--n", 2], 1, "hf download"),
        "unknown method": (["prune", picture, "the cat", "--methods", "fastvv"], 2, "fastv"),
        "unknown score": (["prune", picture, "the cat", "--methods", "fastv:score=cosine"], 2, "value_norm"),
        "unknown score to fit": (["fit-bias", "--score", "cosine", "--n", 2], 2, "value_norm"),
        "ratio over a deep layer": (
            ["prune", picture, "the cat", "--methods", "layer_ratio:over=1", "--layer", 2], 2, "use K >= 3"),
        "unknown option": (["prune", picture, "the cat", "--methods", "fastv:speed=2"], 2, "speed"),
        "dry rehearsal": ([*evaluate, "--dry-run", "--rehearse", "--out", tmp_path / "a"], 2, "exclude"),
        "rehearsal on a device": ([*evaluate, "--rehearse", "--device", "cpu", "--out", tmp_path / "a"], 2, "--device"),
        "layers backwards": ([*evaluate, "--rehearse", "--layer", "3-1", "--out", tmp_path / "a"], 2, "such as 1-3"),
        "bench without rounds": (["bench", "--n", 1, "--keep", 2.5], 2, "keep"),
        "no profile": (["prune", picture, "the cat", "--methods", "d2pruner"], 2, "pass --profile ("),
        "two layers": (["prune", picture, "the cat", "--layer", "2,3"], 2, "a single layer"),
        "below the first layer": (["prune", picture, "the cat", "--layer=-11"], 2, "-10 .. -1"),
        "layer not in profile": (
            ["prune", picture, "the cat", "--methods", "relative", "--layer", 6, "--profile", profile], 1, "layer"),
        "layer too deep": (["prune", picture, "the cat", "--layer", 99], 2, "layer"),
        "no such profile": (["inspect", tmp_path / "no.safetensors"], 2, "no.safetensors"),
        "no profile file": (["inspect", blocked], 2, "file"),
        "no maps": (["inspect", tmp_path], 1, "no attention maps"),
        "no probe": (["inspect", profile, "--probe", tmp_path], 1, "biaslab probe"),
        "images of a profile": (["inspect", profile, "--images", "scenes", "--out", tmp_path / "a"], 2, "maps"),
        "images without out": (["inspect", profile, "--images", "scenes"], 2, "--out"),
        "estimator of a profile": (["inspect", profile, "--estimator", "tile"], 2, "--estimator needs"),
        "layer not fitted": (["inspect", profile, "--layers", "8"], 2, "not [8]"),
        "run folder": ([*evaluate, "--out", blocked / "run"], 1, "run"),
        "no run": (["figures", tmp_path], 1, "run.json"),
        "no folder": (["fit-bias", "--images", tmp_path / "nowhere"], 2, "nowhere"),
        "empty folder": (["fit-bias", "--images", profile.parent / ".."], 2, "no image in"),
    }  # fmt: skip


def test_bad_input_gives_one_line_and_a_status(capsys, tmp_path, picture, profile):
    for name, (arguments, wanted, words) in _bad(tmp_path, picture, profile).items():
        if name == "empty folder":
            (tmp_path / "empty").mkdir()
            arguments = ["fit-bias", "--images", tmp_path / "empty"]
        status, out, err = run(capsys, *arguments)
        lines = [line for line in err.splitlines() if line.strip()]
        assert status == wanted, (name, status, err)
        assert len(lines) == 1 and lines[0].startswith("biaslab: "), (name, err)
        assert words in err, (name, err)
        assert "Traceback" not in err


def test_a_profile_knows_its_model_by_the_weights(capsys, tmp_path, picture, profile):
    import shutil

    from safetensors.torch import load_file, save_file

    from biaslab.models.registry import grounder_folder

    folder = shutil.copytree(grounder_folder(), tmp_path / "copy")
    out = ("--out", tmp_path / "kept")
    prune = ("prune", picture, "the cat", "--model", folder, "--methods", "relative", "--profile", profile, *out)
    assert run(capsys, *prune)[0] == 0, "the same model in another folder"
    path = folder / "model.safetensors"
    tensors = load_file(path)
    last = tensors[max(tensors)]
    last += 1.0
    save_file(tensors, path, metadata={"format": "pt"})
    status, _, err = run(capsys, *prune)
    assert status == 1 and "fitted for model 'grounder'" in err


def test_bad_arguments_are_typers_business(capsys):
    assert run(capsys, "evaluate", "--batch-size", 0, "--out", "x")[0] == 2
    for verb in ("evaluate", "fit-bias", "probe"):
        assert run(capsys, verb, "--workers", -1, "--out", "x")[0] == 2
    assert run(capsys, "prune")[0] == 2
    assert run(capsys, "no-such-verb")[0] == 2


def test_debug_shows_the_traceback(picture):
    from biaslab.errors import InputError

    with pytest.raises(InputError):
        main(["prune", str(picture), "the cat", "--keep", "0", "--debug"])


def test_methods_lists_what_each_reads_and_cites(capsys):
    status, out, _ = run(capsys, "methods", "--json")
    rows = {r["method"]: r for r in json.loads(out)["methods"]}
    assert status == 0 and rows["divprune"]["reads"] == "features" and rows["d2pruner"]["from_layer"] == 1
    lines = run(capsys, "methods")[1].splitlines()
    assert max(map(len, lines)) < 90 and len(lines) == len(rows) + 2
    details = run(capsys, "methods", "--details")[1]
    assert all(row["cost"] in details and row["verified"] in details for row in rows.values())
    text = run(capsys, "methods", "--bibtex")[1]
    works = {work.key for cls in METHODS.values() for work in cls().citations()}
    assert text.startswith("@") and text.count("@") == len(works)
