import re

import pytest
from commands import run
from recipes import RECIPE, SMALL

from biaslab._util.command_line import running
from biaslab.datasets.scenes import ScenesDataset
from biaslab.workflows import demo
from biaslab.workflows.train_grounder import build_grounder


@pytest.mark.slow
@pytest.mark.usefixtures("grounder_at_hand")
def test_demo_measures_every_method_and_names_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "KEEPS", (0.2, 0.1))  # two are a curve, too
    with running(["demo", "--out", "runs/demo"]):
        made = demo.demo(tmp_path, n_calibration=6, n_pictures=8, n_test=2, layer=3, processes=1, progress=False)
    table = made.results.table.query("expression_type == 'all'")
    assert (table["method"] == "none").sum() == 1
    assert len(table) == 1 + (len(demo.methods()) - 1) * len(demo.KEEPS)
    assert (table["n"] == 2).all() and (table["errors"] == 0).all()
    cut = made.equal_cost.table.query("expression_type == 'all'")
    assert sorted(cut["keep"].unique()) == sorted({*demo.SHARES, 0.44, 0.37, 1.0})  # 3 of 10 layers whole
    assert set(cut["method"]) == {"none", *demo.before_decoder()} and (cut["errors"] == 0).all()
    assert set(made.ranking["layer"]) == set(range(10))
    names = {f.relative_to(tmp_path).as_posix() for f in made.files}
    assert {"profile.safetensors", "results.csv", "figures/acc50-keep.pdf", "figures/acc50-flops.pdf",
            "figures/attention.png", "figures/target-auroc.pdf", "tables/acc50.tex", "lookahead.safetensors",
            "equal-cost/results.csv"} <= names  # fmt: skip
    scenes = {s.image_id for s in ScenesDataset("test", n=2)}  # the first three of them are drawn
    assert sum("figures/kept-" in n and n.endswith(".png") for n in names) == min(len(scenes), 3)
    assert all(f.stat().st_size > 0 for f in made.files) and made.files[-1] == tmp_path / "report.html"
    page = (tmp_path / "report.html").read_text()
    assert "biaslab demo --out runs/demo" in page and "made in Python" not in page
    assert "Drawn are those that keep least; 7 configurations more are left out." in page
    mapped = re.findall(r'aria-label="accuracy by place of the target, ([^"]*)"', page)
    assert len(mapped) == 8 and mapped[0].startswith("no pruning")
    assert all("keep 0.1 layer 3" in name for name in mapped[1:])
    status, _, err = run(capsys, "evaluate", "--config", tmp_path, "--out", tmp_path / "again")
    assert status == 2 and "made by `biaslab demo --out runs/demo`; run that" in err


@pytest.mark.slow
def test_build_grounder_exports_measures_and_writes_the_card(tmp_path):
    made = build_grounder(tmp_path, recipe=RECIPE, n_test=3)
    rows = {r["expression_type"]: r for r in made.accuracy}
    assert rows["all"]["n"] == 3 and {"attribute", "location", "relation"} & rows.keys()
    assert {"small", "medium", "large"} & rows.keys()
    card = (made.folder / "README.md").read_text()
    assert f"{SMALL.grid} x {SMALL.grid} visual tokens" in card
    assert f"| all | 3 | {100 * rows['all']['acc50']:.1f}" in card
