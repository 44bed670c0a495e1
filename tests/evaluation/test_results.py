"""Tables from sample lines: accuracies on common samples, retention, p-values, differences, round trip."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from biaslab._util.jsonl import JsonLines
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.result_rows import COLUMNS
from biaslab.evaluation.results import Results
from biaslab.evaluation.sample_log import log_path
from biaslab.evaluation.schema import LINE_FIELDS
from biaslab.stats.hit_rate import hit_rate
from biaslab.stats.paired_hits import paired_hits
from biaslab.stats.resampling import ImageBootstrap, paired_p_value

CONFIGS = [
    {"method": "none", "options_hash": "", "profile_hash": "", "keep": 1.0, "layer": None, "options": {}},
    {"method": "random", "options_hash": "a", "profile_hash": "", "keep": 0.5, "layer": 2, "options": {}},
    {"method": "random", "options_hash": "a", "profile_hash": "", "keep": 64, "layer": 2, "options": {}},
    {"method": "fastv", "options_hash": "b", "profile_hash": "", "keep": 0.5, "layer": 2, "options": {}},
    {"method": "fastv", "options_hash": "b", "profile_hash": "", "keep": 0.5, "layer": 4, "options": {}},
]
N = 60


def run_record(configs=CONFIGS):
    return {
        "identity": {
            "model": {"name": "toy", "family": "toy"},
            "dataset": {"name": "toy", "split": "test", "hash": "0", "n": N},
            "options": {"seed": 0},
            "configurations": configs,
        },
        "settings": {"reference": "random"},
        "n_samples": N,
    }


def make_lines(configs=CONFIGS, errors=()):
    """Lines with random IoUs; ``errors`` are (sample, configuration) pairs without a verdict."""
    rng = np.random.default_rng(0)
    for i in range(N):
        for c, config in enumerate(configs):
            line = dict.fromkeys(LINE_FIELDS) | {name: config[name] for name in list(config)[:5]}
            line |= {"index": i, "id": f"s{i}", "image_id": f"image{i // 3}", "seed": 0, "info": {}}
            line |= {"expression_type": ("attribute", "location", "relation")[i % 3]}
            line |= {"object_size": ("small", "large")[i % 2]}
            iou = float(np.clip(rng.normal(0.75 - 0.1 * c, 0.25), 0, 1))
            parsed = iou > 0.2
            iou = iou if parsed else 0.0
            if (i, c) in errors:
                line["error"] = "RuntimeError: boom"
            else:
                line |= {"iou": iou, "hit": iou >= 0.5, "parsed": parsed, "target_kept": 0.5, "peak_mb": float(i)}
                line |= {
                    "prefill_ms": 100.0 if i == 0 else 2.0,
                    "decode_ms": 1.0,
                    "target_auroc": None if c < 3 else 0.7,
                }
            yield line


@pytest.fixture
def folder(tmp_path):
    def make(configs=CONFIGS, errors=(), skip=lambda line: False):
        (tmp_path / "run.json").write_text(json.dumps(run_record(configs)))
        with JsonLines(log_path(tmp_path, 0)) as a, JsonLines(log_path(tmp_path, 1)) as b:
            for line in make_lines(configs, errors):
                if not skip(line):
                    (a if line["index"] % 2 else b).append(line)
        return tmp_path

    return make


def hits(results, config, ids):
    part = results.samples[results.samples["key"] == json.dumps([config[k] for k in list(config)[:5]])]
    return part.set_index("id").loc[ids, "hit"].to_numpy(float)


def test_rows_are_computed_on_the_samples_that_all_configurations_answered(folder):
    results = Results.load(folder(errors={(3, 1), (3, 3), (7, 4)}), n_resamples=300)
    assert results.complete and list(results.table.columns) == COLUMNS
    ids = [f"s{i}" for i in range(N) if i not in (3, 7)]
    images = [f"image{int(i[1:]) // 3}" for i in ids]
    bootstrap = ImageBootstrap(images, n_resamples=300)
    rows = results.table[results.table["expression_type"] == "all"].reset_index(drop=True)
    none = hits(results, CONFIGS[0], ids)
    reference = hits(results, CONFIGS[1], ids)
    for i, config in enumerate(CONFIGS):
        row, mine = rows.loc[i], hits(results, config, ids)
        assert (row["method"], row["keep"]) == (config["method"], config["keep"])
        assert row["n"] == 58 and row["errors"] == [0, 1, 0, 1, 1][i]
        expected = tuple(hit_rate(mine, images, bootstrap=bootstrap))
        assert (row["acc50"], row["acc50_lo"], row["acc50_hi"]) == pytest.approx(expected)
        expected = tuple(bootstrap.ratio(mine, none))
        assert (row["retention"], row["retention_lo"], row["retention_hi"]) == pytest.approx(expected)
        part = results.samples[(results.samples["key"] == json.dumps([config[k] for k in list(config)[:5]]))]
        part = part[part["id"].isin(ids)]
        assert row["unparsed"] == (part["iou"] == 0).sum() and row["miou"] == pytest.approx(part["iou"].mean())
    assert rows.loc[3, "p_vs_reference"] == paired_p_value(hits(results, CONFIGS[3], ids), reference, images)
    assert rows.loc[[0, 1, 2, 4], "p_vs_reference"].isna().all()  # no random at that keep and layer, or itself
    assert rows["prefill_ms"].eq(2.0).all() and rows["peak_mb"].eq(59.0).all()
    assert rows["target_auroc"].isna().tolist() == [True] * 3 + [False] * 2


def test_expression_types_and_object_sizes(folder):
    results = Results.load(folder(), n_resamples=50)
    assert results.table["expression_type"].unique().tolist() == ["all", "attribute", "location", "relation"]
    sizes = results.by("object_size")
    assert sizes["expression_type"].unique().tolist() == ["all", "large", "small"]
    none = sizes[sizes["method"] == "none"].set_index("expression_type")
    assert none.loc["large", "n"] + none.loc["small", "n"] == none.loc["all", "n"] == N
    mean = (none.loc["large", "acc50"] + none.loc["small", "acc50"]) / 2
    assert none.loc["all", "acc50"] == pytest.approx(mean)
    with pytest.raises(InputError, match="choose expression_type or object_size"):
        results.by("colour")


def test_counts_stay_counts(folder):
    results = Results.load(folder(), n_resamples=50)
    assert results.table["keep"].head(5).tolist() == [1.0, 0.5, 64, 0.5, 0.5]
    assert isinstance(results.table["keep"][2], int)
    text = results.save().read_text().splitlines()[3]
    assert ",random,a,,64,2,0," in text
    assert set(map(type, Results.load(folder(CONFIGS[:2]), n_resamples=50).samples["keep"])) == {float}


def test_differences_to_any_method(folder):
    results = Results.load(folder(), n_resamples=100)
    to_random = results.differences()
    assert to_random[["method", "keep", "layer"]].to_numpy().tolist() == [["fastv", 0.5, 2]]
    ids = [f"s{i}" for i in range(N)]
    images = [f"image{i // 3}" for i in range(N)]
    a, b = hits(results, CONFIGS[3], ids), hits(results, CONFIGS[1], ids)
    row = to_random.iloc[0]
    expected = tuple(paired_hits(a, b, images))
    assert (row["difference"], row["difference_lo"], row["difference_hi"]) == pytest.approx(expected)
    assert row["p"] == paired_p_value(a, b, images) and row["n"] == N
    to_none = results.differences("none", expression_type="location")
    assert len(to_none) == 4 and (to_none["n"] == N // 3).all()
    with pytest.raises(InputError, match="no method 'divprune' in this run: choose one of none, random, fastv"):
        results.differences("divprune")


def test_an_unfinished_run_has_a_table_of_what_there_is(folder):
    results = Results.load(
        folder(skip=lambda line: line["index"] >= 40 or (line["index"] == 39 and line["layer"] == 4))
    )
    assert not results.complete and "incomplete" in repr(results)
    assert (results.table[results.table["expression_type"] == "all"]["n"] == 39).all()


def test_an_empty_run(folder):
    results = Results.load(folder(skip=lambda line: True))
    assert len(results.samples) == 0 and len(results.table) == 0 and list(results.table.columns) == COLUMNS


def test_a_second_try_replaces_an_error_and_other_configurations_are_left_out(folder):
    path = folder(errors={(0, 0)})
    stale = dict.fromkeys(LINE_FIELDS) | {"index": 0, "id": "s0", "method": "uniform", "options_hash": "z", "keep": 0.5}
    good = next(make_lines())
    with JsonLines(log_path(path, 0)) as log:
        log.append(stale)
        log.append(good)
    results = Results.load(path, n_resamples=50)
    assert results.complete and results.samples["error"].isna().all()
    assert results.samples.iloc[0]["iou"] == good["iou"]


def test_without_the_unpruned_model_there_is_no_retention(folder):
    table = Results.load(folder(CONFIGS[1:]), n_resamples=50).table
    assert table["retention"].isna().all() and table["acc50"].notna().all()


def test_summary_and_saving(folder, tmp_path):
    results = Results.load(folder(), n_resamples=50)
    assert len(results.summary()) == 5 and "acc50" in results.summary() and "tflops" in results.summary()
    path = results.save(tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(
        pd.read_csv(path)[["n", "acc50", "retention"]], results.table[["n", "acc50", "retention"]]
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="choose another folder"):
        results.save(tmp_path / "file" / "deeper")
    with pytest.raises(InputError, match="pass save"):
        Results(results.samples, results.run).save()
