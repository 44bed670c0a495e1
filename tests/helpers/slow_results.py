"""The statistics of a run as they were computed line by line, from dicts and one column at a time: an oracle.

Written out before results were made of columns; it shares the resampling of one column with the library, and nothing of
what reads, pairs and gathers.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from biaslab.stats.hit_rate import hit_rate
from biaslab.stats.paired_hits import paired_hits
from biaslab.stats.resampling import ImageBootstrap, paired_p_value

KEYS = ("method", "options_hash", "profile_hash", "keep", "layer")
NAMES = {"kind": "expression_type", "size_class": "object_size"}
MEANS = ("target_auroc", "target_kept", "tflops_vision", "tflops_projector", "tflops_decoder")


def key_of(record):
    return json.dumps([record[name] for name in KEYS])


def lines_of(folder, configs):
    """Lines of a run, each sample and configuration once, in order."""
    order = {key_of(config): i for i, config in enumerate(configs)}
    latest = {}
    for path in sorted(folder.glob("samples-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not text.endswith("\n"):
                continue
            line = {NAMES.get(name, name): value for name, value in json.loads(text).items()}
            name = (line["id"], key_of(line))
            if name[1] in order and (name not in latest or line["error"] is None):
                latest[name] = line
    return sorted(latest.values(), key=lambda line: (line["index"], order[key_of(line)]))


def compared(lines, configs):
    """Lines of each configuration on the samples that all of them have answered, and the errors of each."""
    mine = [{line["id"]: line for line in lines if key_of(line) == key_of(config)} for config in configs]
    present = [(config, part) for config, part in zip(configs, mine, strict=True) if part]
    answered = [{name: line for name, line in part.items() if line["error"] is None} for _, part in present]
    shared = list(dict.fromkeys(line["id"] for line in lines))
    for part in answered:
        shared = [name for name in shared if name in part] if part else shared
    images = {}
    for line in lines:
        images.setdefault(line["id"], str(line["image_id"]))
    rows = []
    for (config, every), part in zip(present, answered, strict=True):
        chosen = [part[name] for name in shared] if part else []
        hits = [float(line["hit"]) for line in chosen] if part else [np.nan] * len(shared)
        rows.append((config, chosen, np.array(hits), sum(line["error"] is not None for line in every.values())))
    return rows, [images[name] for name in shared]


def find(rows, method, like):
    for i, (config, *_) in enumerate(rows):
        if config["method"] == method and (method == "none" or all(config[n] == like[n] for n in ("keep", "layer"))):
            return i
    return None


def table(folder, configs, n_resamples, reference="random", column="expression_type"):
    """Rows of results.csv that statistics make."""
    every, made = lines_of(folder, configs), []
    groups = [("all", every)]
    for value in sorted({line[column] for line in every if line[column]}):
        groups.append((value, [line for line in every if line[column] == value]))
    for name, lines in groups:
        rows, images = compared(lines, configs)
        bootstrap = ImageBootstrap(images, n_resamples=n_resamples)
        none = find(rows, "none", None)
        for i, (config, chosen, hits, errors) in enumerate(rows):
            accuracy, other = hit_rate(hits, images, bootstrap=bootstrap), find(rows, reference, config)
            truncated = [bool(line.get("truncated")) and not line["parsed"] for line in chosen]
            known = all(line.get("truncated") is not None for line in chosen)
            empty = sum(not line["parsed"] for line in chosen)
            row = {
                "expression_type": name, **{n: config[n] for n in KEYS}, "n": len(chosen), "errors": errors,
                "unparsed": empty - sum(truncated) if known else empty, "truncated": sum(truncated) if known else None,
                "acc50": accuracy.value, "acc50_lo": accuracy.lo, "acc50_hi": accuracy.hi,
                "miou": pd.Series([line["iou"] for line in chosen], dtype=float).mean(),
                "p_vs_reference": np.nan
                if other is None or other == i
                else paired_p_value(hits, rows[other][2], images),
                **{n: pd.Series([line.get(n) for line in chosen], dtype=float).mean() for n in MEANS},
                "prefill_ms": pd.Series([line.get("prefill_ms") for line in chosen], dtype=float).median(),
            }  # fmt: skip
            if none is not None:
                kept = bootstrap.ratio(hits, rows[none][2])
                row |= {"retention": kept.value, "retention_lo": kept.lo, "retention_hi": kept.hi}
            made.append(row)
    return pd.DataFrame(made)


def differences(folder, configs, reference, n_resamples):
    """Rows of the table of paired differences, one column at a time."""
    rows, images = compared(lines_of(folder, configs), configs)
    bootstrap, made = ImageBootstrap(images, n_resamples=n_resamples), []
    for i, (config, _, hits, _) in enumerate(rows):
        other = find(rows, reference, config)
        if other is None or other == i:
            continue
        found = paired_hits(hits, rows[other][2], images, bootstrap=bootstrap)
        made.append({
            **{n: config[n] for n in KEYS}, "n": len(hits), "difference": found.value, "difference_lo": found.lo,
            "difference_hi": found.hi, "p": paired_p_value(hits, rows[other][2], images),
        })  # fmt: skip
    return pd.DataFrame(made)
