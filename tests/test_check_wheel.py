"""The check of the wheel sees what is missing from it; `.ci/run` builds the wheel itself."""

from __future__ import annotations

from zipfile import ZipFile

from tools.check_wheel import ROOT, lacking, sources


def test_a_file_that_is_missing_or_cut_is_named(tmp_path):
    names = sources()
    data = [name for name in names if name.startswith("biaslab/") and not name.endswith(".py")]
    kinds = {name.rpartition(".")[2] for name in data}
    assert {"safetensors", "json", "jinja", "css", "js", "webp", "md", "typed"} <= kinds and "pyproject.toml" in names
    whole, short, cut = (tmp_path / f"{name}.whl" for name in ("whole", "short", "cut"))
    for wheel, left_out, emptied in ((whole, "", ""), (short, data[3], ""), (cut, "", data[5])):
        with ZipFile(wheel, "w") as archive:
            for name in names:
                if name != left_out:
                    archive.writestr(name, b"" if name == emptied else (ROOT / name).read_bytes())
    assert [lacking(wheel, ROOT, names) for wheel in (whole, short, cut)] == [[], [data[3]], [data[5]]]
