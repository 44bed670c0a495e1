"""The options that name a model: the same in every verb that loads one, refused before anything is loaded."""

import inspect
import json
from dataclasses import fields

import pytest
import typer
from commands import run
from typer.testing import CliRunner

import biaslab as bl
from biaslab.cli.app import app
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.errors import InputError
from biaslab.models import loading
from biaslab.models import loading as loading_module
from biaslab.scenes import scene

pytestmark = pytest.mark.slow

VERBS = ("bench", "check", "evaluate", "fit-bias", "heads", "probe", "prune", "sinks")
OPTIONS = [
    "--model", "--device", "--dtype", "--device-map", "--revision", "--attn", "--load-in", "--adapter", "--model-arg",
    "--image-option",
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_the_model_options_under_one_heading_and_in_order(capsys, verb):
    status, text, _ = run(capsys, verb, "--help")
    before, panel = text.split("\nModel:\n")
    panel = panel.split("\n\n")[0]
    places = [panel.index(f" {option} ") for option in OPTIONS]
    assert status == 0 and places == sorted(places)
    assert not any(f" {option} " in before for option in OPTIONS)
    assert "[default: grounder]" in panel and " -m, " in panel


def test_they_are_the_fields_of_the_choice_in_every_verb_that_loads(capsys):
    run(capsys, "--help")  # the verbs are known once the program has started
    names = [field.name for field in fields(ModelChoice)]
    for verb, command in typer.main.get_command(app).commands.items():
        own = [p.name for p in command.params if p.name in names]
        # a report loads the model as its run says, but for the device; training makes one
        device = ["device"] if verb in ("report", "train-observer") else []
        assert own == (names if verb in VERBS else device), verb


def test_a_verb_is_handed_a_choice_and_keeps_its_other_parameters():
    calls = []

    @with_model
    def verb(subject: str, model: ModelChoice, n: int = 3) -> None:
        """What it does."""
        calls.append((subject, model, n))

    assert verb.__doc__ == "What it does."
    assert list(inspect.signature(verb).parameters) == ["subject", *(f.name for f in fields(ModelChoice)), "n"]
    program = typer.Typer()
    program.command()(verb)
    arguments = [
        "it",
        "-m",
        "x/y",
        "--dtype",
        "float16",
        "--image-option",
        "a=1",
        "--image-option",
        "b = 2",
        "--n",
        "4",
    ]
    assert CliRunner().invoke(program, arguments).exit_code == 0
    assert CliRunner().invoke(program, ["it"]).exit_code == 0
    choice = ModelChoice(name="x/y", dtype="float16", image_option=["a=1", "b = 2"])
    assert calls == [("it", choice, 4), ("it", ModelChoice(), 3)]
    assert choice.image_options == {"a": 1, "b": 2} and ModelChoice().image_options == {}


def test_image_options_are_refused_when_the_choice_is_made():
    for text in ("max_tiles", "max_tiles=", "max_tiles=few", "max_tiles=-1"):
        with pytest.raises(InputError, match="NAME=NUMBER"):
            ModelChoice(image_option=[text])


def test_a_rehearsal_has_layers_beyond_the_deepest_that_is_read():
    vlm = ModelChoice().load(rehearse=True, deepest=5)
    assert vlm.name == "rehearsal of grounder" and vlm.n_layers == 7


def test_bad_arguments_are_refused_before_a_model_is_loaded(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("loaded"))
    picture = tmp_path / "scene.png"
    scene("validation", 0).image.save(picture)
    evaluate = ["evaluate", "--out", tmp_path / "run", "--methods", "none,random", "--n", 4]
    for arguments, words in (
        (["fit-bias", "--estimator", "foo"], "unknown profile estimator"),
        (["fit-bias", "--estimator", "foo", "--dry-run"], "unknown profile estimator"),
        (["fit-bias", "--criterion", "foo"], "unknown criterion"),
        (["fit-bias", "--images", tmp_path / "nowhere"], "no calibration source"),
        (["fit-bias", "--image-option", "max_tiles"], "NAME=NUMBER"),
        (["bench", "--images", tmp_path / "nowhere"], "no calibration source"),
        (["bench", "--keep", 2.5], "keep must be"),
        (["bench", "--methods", "d2pruner"], "needs a profile"),
        ([*evaluate, "--keep", 1.5], "keep must be"),
        ([*evaluate, "--reference", "fastv"], "not among the methods"),
        ([*evaluate, "--reference", "fastv", "--dry-run"], "not among the methods"),
        ([*evaluate, "--rehearse", "--device", "cpu"], "--rehearse runs on the CPU"),
        ([*evaluate, "--rehearse", "--attn", "eager"], "--rehearse runs on the CPU"),
        ([*evaluate, "--attn", "fast"], "unknown attention 'fast': use sdpa, eager"),
        ([*evaluate, "--attn", "owner/kernel"], "code from a hub, which is not run"),
        ([*evaluate, "--load-in", "3bit"], "unknown --load-in 3bit: use 4bit or 8bit"),
        ([*evaluate, "--revision", "main"], "is for hub models"),
        ([*evaluate, "--revision", "main", "--dry-run"], "is for hub models"),
        ([*evaluate, "--adapter", tmp_path], "is no adapter: give a folder with adapter_config.json"),
        (["fit-bias", "--adapter", "nothing like it"], "unknown model 'nothing like it'"),
        (["fit-bias", "--model-arg", "rope_theta"], "--model-arg takes KEY=VALUE"),
        (["fit-bias", "--model-arg", "trust_remote_code=true"], "trust_remote_code is not taken"),
        (["fit-bias", "--model-arg", "use_safetensors=false"], "weights are safetensors alone"),
        (["fit-bias", "--model-arg", "attn_implementation=eager"], "give --attn"),
        (["fit-bias", "--model-arg", "a=1", "--model-arg", "a=2"], "a is given twice"),
        (["bench", "--model-arg", "rope_teta=3"], "rope_teta is no setting of this model's configuration"),
        (["bench", "--model-arg", 'text_config={"num_hidden_layers": 2}'], "does not take these settings"),
        ([*evaluate, "--dry-run", "--model-arg", "rope_teta=3"], "rope_teta is no setting"),
        (["prune", picture, "the cat", "--keep", 0], "keep must be"),
        (["prune", picture, "the cat", "--methods", "relative"], "needs a profile"),
        (["probe", "--out", tmp_path / "run", "--image-option", "max_tiles="], "NAME=NUMBER"),
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, (arguments, err)
    assert not (tmp_path / "run").exists()


def test_model_arguments_are_json_or_else_text():
    choice = ModelChoice(model_arg=["a=1e6", 'text_config={"b": [1, 2]}', "c=dynamic", "d=false", "e=x=y"])
    assert choice.arguments == {"a": 1e6, "text_config": {"b": [1, 2]}, "c": "dynamic", "d": False, "e": "x=y"}


def test_what_was_said_on_loading_is_recorded_and_repeated(capsys, tmp_path, monkeypatch):
    coarse = 'text_config={"rms_norm_eps": 0.01}'
    said = ["--attn", "eager", "--model-arg", coarse, "--device", "cpu"]
    evaluate = ["evaluate", "--methods", "none", "--n", "2", "--max-new-tokens", "4"]
    assert run(capsys, *evaluate, *said, "--out", tmp_path / "a")[0] == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    loading = {"attn_implementation": "eager", "arguments": {"text_config": {"rms_norm_eps": 0.01}}}
    assert record["settings"]["loading"] == loading and " with-" in record["identity"]["model"]["fingerprint"]

    loads = []
    real = loading_module.load
    monkeypatch.setattr(loading_module, "load", lambda *a, **k: loads.append(k) or real(*a, **k))
    assert run(capsys, "evaluate", "--config", tmp_path / "a", "--out", tmp_path / "b")[0] == 0
    again = json.loads((tmp_path / "b" / "run.json").read_text())
    assert again["identity"] == record["identity"] and again["settings"]["loading"] == loading
    assert loads[0]["attn_implementation"] == "eager" and loads[0]["text_config"] == {"rms_norm_eps": 0.01}

    # another attention rounds, and goes on with the run; another setting is another model
    assert run(capsys, *evaluate, *said[2:], "--out", tmp_path / "a")[0] == 0
    status, _, err = run(capsys, *evaluate, "--device", "cpu", "--out", tmp_path / "a")
    assert status == 1 and "holds another run (model.fingerprint" in err

    maps = tmp_path / "maps"
    fit = ["fit-bias", "--n", "4", "--layers", "1", "--maps", maps, *said, "--out", tmp_path / "p.safetensors"]
    assert run(capsys, *fit)[0] == 0
    assert json.loads((maps / "maps.json").read_text())["loading"] == loading
    provenance = bl.profiles.load(tmp_path / "p.safetensors").provenance_
    assert provenance["loading"] == loading and " with-" in provenance["fingerprint"]
    status, _, err = run(capsys, *evaluate[:2], "relative", "--layer", 2, "--n", 2, "--device", "cpu", "--profile",
                         tmp_path / "p.safetensors", "--out", tmp_path / "c")  # fmt: skip
    assert status == 1 and "with other weights" in err
