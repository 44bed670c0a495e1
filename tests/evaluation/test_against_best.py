"""Whether a method differs from the best one beside it: against a slow, obvious computation."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import coins, made_run

from biaslab.evaluation.best import against_best
from biaslab.evaluation.results import Results
from biaslab.stats.multiple_testing import holm
from biaslab.stats.resampling import paired_p_value

N = 80
HITS = {
    "none": {1.0: coins(0.95, N, 0)},
    "random": {0.5: coins(0.5, N, 1), 0.1: coins(0.2, N, 2)},
    "fastv": {0.5: coins(0.8, N, 3), 0.1: coins(0.5, N, 4)},
    "d2pruner:pivots_suppress=true": {0.5: coins(0.82, N, 5), 0.1: coins(0.9, N, 6)},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results.load(made_run(tmp_path_factory.mktemp("best") / "run", HITS))


def test_each_method_is_tested_against_the_best_at_its_keep(results):
    table = against_best(results)
    assert len(table) == 6 and "none" not in set(table["method"])
    images, p = [f"image{i // 2}" for i in range(N)], []
    for keep in (0.5, 0.1):
        best = max((word for word in HITS if word != "none"), key=lambda word: HITS[word][keep].mean())
        for word in ("random", "fastv", "d2pruner:pivots_suppress=true"):
            row = table[(table["method"] == word.partition(":")[0]) & (table["keep"] == keep)].iloc[0]
            if word == best:
                assert np.isnan(row["p"]) and row["best"] == row["options_hash"]
            else:
                want = paired_p_value(HITS[word][keep].astype(float), HITS[best][keep].astype(float), images)
                assert row["p"] == want
                p.append((row["p"], row["p_adjusted"]))
    raw, adjusted = np.array(p).T
    assert len(raw) == 4 and adjusted.tolist() == _holm_by_hand(raw)


def test_the_best_is_looked_for_among_what_is_shown(results):
    shown = results.table[results.table["method"].isin(["none", "random", "fastv"])]
    table = against_best(results, shown)
    assert set(table["method"]) == {"random", "fastv"} and table["p"].notna().sum() == 2
    assert table.loc[table["method"] == "fastv", "p"].isna().all()


def _holm_by_hand(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    out, worst = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, p[i] * (len(p) - place)))
        out[i] = worst
    return out


def test_holm_counts_only_what_was_tested():
    assert holm([np.nan, 0.02]).tolist()[1] == 0.02
    assert np.isnan(holm([np.nan, 0.02])[0]) and holm([]).size == 0
