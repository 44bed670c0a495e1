"""fit-bias with a conditional estimator: what it writes, what an interruption leaves, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from biaslab._util.launch import Launch
from biaslab.cli import main
from biaslab.datasets.calibration import calibration
from biaslab.datasets.prompts import expression_in
from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.single_image import compare_methods
from biaslab.maps.stored import load_maps
from biaslab.models import loading
from biaslab.models.vlm import VLM
from biaslab.profiles import LookaheadProfile, load
from biaslab.profiles.lookahead.training import Lessons
from biaslab.pruning import Lookahead
from biaslab.pruning.display_names import UNPRUNED
from biaslab.scenes import scene
from biaslab.workflows import learned_figures
from biaslab.workflows.fit_bias import fit_bias
from biaslab.workflows.learned_figures import draw_foreseen, draw_learned

pytestmark = pytest.mark.slow

BRIEF = {"rank": 8, "epochs": 2, "heads": [(3, 3)]}


@pytest.fixture
def scenes(grounder):
    return calibration(grounder, "scenes", n=12)


def test_profile_card_and_figures_are_written_and_the_maps_kept_where_asked_for(grounder, scenes, tmp_path):
    fitted = fit_bias(
        grounder, scenes, estimator=LookaheadProfile(**BRIEF), layers=[3], out=tmp_path / "la", progress=False
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in fitted.files)
    assert {path.suffix for path in fitted.files} == {".safetensors", ".md", ".pdf", ".png", ".csv"}
    assert {path.stem for path in fitted.files} == {"la", "la-curve", "la-places", "la-words"}
    words = pd.read_csv(tmp_path / "la-words.csv")
    assert "the" in set(words["token"]) and words["n"].max() < 3 * 12  # of what was held out alone
    curve = pd.read_csv(tmp_path / "la-curve.csv")
    np.testing.assert_allclose(curve["held_out"], fitted.profile.curve_["held_out"])
    assert load(tmp_path / "la.safetensors").hash == fitted.profile.hash
    assert list(fitted.variance["explained by"]) == ["position", "position, content, question"]
    kept = fit_bias(
        grounder, scenes, estimator=LookaheadProfile(**BRIEF), layers=[3], maps=tmp_path / "maps", progress=False
    )
    assert kept.files == [] and kept.profile.hash == fitted.profile.hash
    assert load_maps(tmp_path / "maps").n == len(load_maps(tmp_path / "maps").features) == 12


def test_an_interrupted_fit_goes_on_with_what_is_collected(grounder, scenes, tmp_path, monkeypatch):
    def run():
        return fit_bias(
            grounder, scenes, estimator=LookaheadProfile(**BRIEF), layers=[3], out=tmp_path / "la", progress=False
        )

    whole = fit_bias(
        grounder, scenes, estimator=LookaheadProfile(**BRIEF), layers=[3], maps=tmp_path / "maps", progress=False
    )
    with monkeypatch.context() as patched:
        patched.setattr(LookaheadProfile, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert load_maps(tmp_path / "la.partial-maps").n == 12
    monkeypatch.setattr(VLM, "forward", lambda *_, **__: pytest.fail("collected again"))
    assert run().profile.hash == whole.profile.hash
    assert not (tmp_path / "la.partial-maps").exists()


def test_several_questions_share_the_features_of_their_picture_and_are_held_out_with_it(grounder, tmp_path):
    made = calibration(grounder, "scenes", n=12, questions=3)
    fitted = fit_bias(
        grounder, made, estimator=LookaheadProfile(**BRIEF), layers=[3], maps=tmp_path / "maps", progress=False
    )
    assert fitted.maps.n == len(made.images) > 24 and fitted.profile.provenance_["asked"]["pictures"] == 12
    size = (tmp_path / "maps" / "visual.f16").stat().st_size
    assert size == 12 * 256 * 192 * 2  # once an image
    said = fitted.profile.provenance_
    assert said["learned_from"] + said["held_out"]["images"] == fitted.maps.n
    held = Lessons(fitted.maps, np.zeros(0, np.float32), np.zeros(1, np.int64)).split()[1]
    names = [fitted.maps.record(i).id.split("#")[0] for i in range(fitted.maps.n)]
    assert held == [i for i, name in enumerate(names) if name in {names[k] for k in held}]


def test_a_file_of_captions_asks_what_the_scenes_ask(grounder, scenes, tmp_path):
    (tmp_path / "pictures").mkdir()
    rows = []
    for name, picture, prompt in zip(scenes.ids, scenes.images, scenes.prompts, strict=True):
        picture.image().save(tmp_path / "pictures" / f"{name}.png")
        rows.append({"image": f"{name}.png", "caption": expression_in(prompt)})
    (tmp_path / "said.json").write_text(json.dumps(rows))
    read = calibration(grounder, tmp_path / "pictures", prompts=tmp_path / "said.json")
    assert read.prompts == scenes.prompts
    profiles = [
        fit_bias(grounder, made, estimator=LookaheadProfile(**BRIEF), layers=[3], maps=tmp_path / name, progress=False)
        for name, made in (("a", scenes), ("b", read))
    ]
    first, second = (p.profile.arrays_[0]["student"] for p in profiles)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_a_single_question_for_all_pictures_is_warned_of(grounder, scenes, tmp_path):
    same = replace(scenes, prompts="Please describe the provided image.")
    with pytest.warns(UserWarning, match="every image is asked the same"):
        fit_bias(grounder, same, estimator=LookaheadProfile(**BRIEF), maps=tmp_path, progress=False)


def test_refusals(grounder, scenes, tmp_path):
    with pytest.raises(InputError, match="pass maps=folder, or out=file"):
        fit_bias(grounder, scenes, estimator="lookahead", progress=False)
    with pytest.raises(InputError, match="fitted by one process"):
        fit_bias(
            grounder,
            scenes,
            estimator="lookahead",
            out=tmp_path / "la",
            progress=False,
            launch=Launch(rank=0, world_size=2),
        )
    assert not list(tmp_path.iterdir())


def test_ranks_are_refused_before_a_model_is_loaded(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("loaded"))
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as done:
        main(["fit-bias", "--estimator", "lookahead", "--out", str(tmp_path / "la.safetensors")])
    said = capsys.readouterr().err
    assert done.value.code == 2 and "fitted by one process" in said and len(said.strip().splitlines()) == 1


@pytest.mark.long
def test_on_the_command_line_beside_a_positional_profile(capsys, tmp_path):
    def run(*arguments):
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        assert done.value.code in (0, None), capsys.readouterr().err
        return capsys.readouterr().out

    ahead, position, out = tmp_path / "la.safetensors", tmp_path / "p.safetensors", tmp_path / "run"
    said = run("fit-bias", "--estimator", "lookahead", "--n", 40, "--layers", "2,3", "--out", ahead)
    assert "taught by (layer, head): (3, 3)" in said and "position, content, question" in said
    run("fit-bias", "--n", 12, "--layers", 3, "--out", position)
    run(
        "evaluate", "--methods", "none,lookahead,relative", "--keep", 0.2, "--layer", 4, "--n", 3,
        "--max-new-tokens", 12, "--profile", ahead, "--profile", position, "--out", out,
    )  # fmt: skip
    picture = tmp_path / "scene.png"
    scene("test", 0).image.save(picture)
    run("prune", picture, "the cat", "--methods", "none,lookahead:rule=mmr", "--layer", 0, "--profile", ahead,
        "--max-new-tokens", 8, "--out", tmp_path / "kept")  # fmt: skip
    drawn = pd.read_csv(tmp_path / "kept-relevance.csv")
    assert drawn["kept"].sum() == 25 and drawn["attention"].notna().all()
    kept = pd.read_csv(tmp_path / "kept.csv")
    assert set(kept["method"]) > {UNPRUNED}
    kept = kept[kept["method"] != UNPRUNED]  # whose panel shows the image as it is
    assert sorted(kept["token"]) == drawn.loc[drawn["kept"], "token"].tolist()
    lines = json.loads((out / "run.json").read_text())["identity"]["configurations"]
    assert {(c["method"], c["layer"]) for c in lines} == {("none", None), ("lookahead", 0), ("relative", 4)}
    for file in (ahead, position):
        file.unlink()  # the run folder has copies
    again = run("evaluate", "--config", out, "--out", tmp_path / "again")
    assert (
        "lookahead" in again and (tmp_path / "again" / "results.csv").read_text() == (out / "results.csv").read_text()
    )


def test_what_cannot_be_drawn_does_not_cost_the_rest(grounder, scenes, tmp_path, monkeypatch):
    fitted = fit_bias(
        grounder, scenes, estimator=LookaheadProfile(**BRIEF), layers=[3], maps=tmp_path / "maps", progress=False
    )
    maps = load_maps(tmp_path / "maps")
    wrong = dict.fromkeys(scenes.ids, "another question altogether")
    with pytest.warns(UserWarning, match="the words are not drawn: prompt .* tokens behind its image"):
        files = draw_learned(grounder, fitted.profile, maps, prompts=wrong, out=tmp_path / "figure")
    assert {path.stem for path in files} == {"figure-curve", "figure-places"}
    seen = next(iter(scenes.images))
    options = {"methods": [Lookahead(profile=fitted.profile), "none"], "keep": 0.2, "max_new_tokens": 2}
    ahead, unpruned = compare_methods(grounder, seen, "the cat", layer=0, **options)
    draw = lambda answer: draw_foreseen(  # noqa: E731
        grounder, fitted.profile, seen, answer, expression="the cat", out=tmp_path / "one"
    )  # fmt: skip
    draw(ahead)
    assert pd.read_csv(tmp_path / "one.csv")["attention"].notna().all()
    with monkeypatch.context() as patched, pytest.warns(UserWarning, match="the later attention is not drawn: no rows"):
        patched.setattr(learned_figures, "foresee", lambda *_: (_ for _ in ()).throw(UnsupportedError("no rows")))
        draw(ahead)
    drawn = pd.read_csv(tmp_path / "one.csv")
    assert drawn["attention"].isna().all() and drawn["kept"].sum() == 51
    with pytest.raises(InputError, match="'none' keeps by no relevance"):
        draw(unpruned)
    blind = LookaheadProfile(reads=False, **BRIEF).fit(maps)
    files = draw_learned(grounder, blind, maps, prompts=wrong, out=tmp_path / "blind")
    assert {path.stem for path in files} == {"blind-curve", "blind-places"}
