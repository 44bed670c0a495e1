"""What somebody who guesses gives to `inspect` and `report`, and the line that leads on."""

import pytest
from commands import run

import biaslab as bl
from biaslab.errors import InputError, RunFolderError
from biaslab.scenes import scene


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with an image and a run in runs/k4."""
    scene("validation", 2).image.save(tmp_path / "photo.png")
    (tmp_path / "runs" / "k4").mkdir(parents=True)
    (tmp_path / "runs" / "k4" / "run.json").write_text("{}")
    (tmp_path / "bias.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("inspect photo.png", 2, 'photo.png is an image: `biaslab prune photo.png "the cat" --view view.html` shows'),
        ("inspect runs/k4", 1, "runs/k4 is a run, no maps: `biaslab report runs/k4` shows it"),
        ("inspect runs", 1, "no attention maps in runs: collect some by `biaslab fit-bias --maps FOLDER`"),
        ("report nope", 1, "nope does not exist: pass the run folder that evaluate wrote"),
        ("report .", 1, "it has no run.json): pass what evaluate wrote (did you mean runs/k4?)"),
        ("report runs", 1, "(did you mean runs/k4?)"),
        (
            "report bias.safetensors",
            1,
            "is a file, no run folder: pass the folder that evaluate wrote; `biaslab inspect`",
        ),
    ],
)
def test_the_line_names_what_would_do(capsys, line, status, says):
    found, _, err = run(capsys, *line.split())
    assert (found, err.count("\n")) == (status, 1) and says in err


def test_a_folder_without_a_run_near_it_has_no_hint(tmp_path):
    with pytest.raises(RunFolderError, match=r"pass what evaluate wrote$"):
        bl.report(tmp_path)


def test_a_report_is_of_runs_alone():
    with pytest.raises(InputError, match="of a run folder or of results, not of dict"):
        bl.report({})


def test_a_view_refuses_a_target_and_layers_before_the_model_runs(grounder, monkeypatch):
    monkeypatch.setattr("biaslab.workflows.view.compare_methods", lambda *_, **__: pytest.fail("the model ran"))
    image = scene("validation", 2).image
    with pytest.raises(InputError, match=r"target must be a Box in pixels, .* got \(1, 2, 3, 4\)"):
        bl.view(grounder, image, "the cat", target=(1, 2, 3, 4))
    with pytest.raises(InputError, match="layers 0 to 9"):
        bl.view(grounder, image, "the cat", layers=[30])
