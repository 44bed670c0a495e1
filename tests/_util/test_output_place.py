import pytest

from biaslab._util.output_place import check_output_file, check_output_folder
from biaslab.errors import InputError, RunFolderError


def test_nothing_stays_of_the_trial(tmp_path):
    folder = tmp_path / "runs with spaces" / "k4"
    assert check_output_folder(folder) == folder
    assert check_output_file(folder / "p.safetensors", suffix=".safetensors") == folder / "p.safetensors"
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "results.csv").write_text("1")
    check_output_folder(tmp_path / "runs")
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["results.csv"]


@pytest.mark.parametrize("place", ["/proc/x/runs", "/dev/full/runs"])
def test_a_place_that_cannot_be_written_is_named(place):
    with pytest.raises(RunFolderError, match=rf"{place} cannot be written \(.*\): choose another folder"):
        check_output_folder(place)


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(RunFolderError, match="results is a file: choose another"):
        check_output_folder(tmp_path / "results")
    with pytest.raises(RunFolderError, match="cannot be written"):
        check_output_folder(tmp_path / "results" / "k4")
    with pytest.raises(InputError, match="is a folder: name a file in it, such as .*profile.safetensors"):
        check_output_file(tmp_path, suffix=".safetensors")


def test_a_full_disk_leaves_no_folder_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("biaslab._util.output_place.TemporaryFile", full)
    with pytest.raises(RunFolderError, match="disk full: make room, or choose another folder"):
        check_output_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
