"""The benchmark of selections times every method that it can feed."""

from benchmarks import rules
from biaslab.pruning import METHODS


def test_every_method_without_a_profile_is_timed():
    found = rules.report([256], 0.1, dim=16, repeats=1, threads=1)
    rows = {row["method"]: row for row in found.tables[0].rows}
    assert {"divprune", "mmr", "cdpruner", "scope", "fastv", "layer_ratio"} <= rows.keys() <= set(METHODS)
    assert all(row["ms_256"] > 0 and row["cost"] for row in rows.values()) and rows["divprune"]["ratio_256"] == 1
    assert "N = 256, ms" in found.markdown()
