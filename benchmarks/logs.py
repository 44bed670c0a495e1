"""Logs of the paper's size: 57,457 expressions x 29 configurations, generated, in the real schema.

    python -m benchmarks.logs

Every line of the table is a process of its own: CPU seconds of all its threads after the imports, and its peak resident
memory. ``--folder`` keeps the generated run for another call.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from biaslab._util import jsonl
from biaslab.evaluation.line_heads import read_heads
from biaslab.evaluation.line_store import PARQUET_FILE
from biaslab.evaluation.results import Results
from biaslab.evaluation.run_folder import read_run
from biaslab.evaluation.runner import missing_tasks
from biaslab.evaluation.schema import record_key
from biaslab.figures import AccuracyDisplay

from .common import arguments, in_fresh_process
from .log_generator import EXPRESSIONS, IMAGES, write_run
from .report import Report, Table, Target

#: name of a probe -> what it does; in this order, for the parquet file is there from ``save`` on
PROBES = {
    "resume": "resuming: which lines are there, from the logs",
    "results": "summary, three tables of differences, figure, from the logs",
    "results-json": "the same, lines parsed by the standard library",
    "save": "the same, and writing results.csv and samples.parquet",
    "results-parquet": "summary, differences, figure, from samples.parquet",
    "no-op": "a finished run: what is missing, table, results.csv, from samples.parquet",
}


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.logs", __doc__, repeats=1)
    parser.add_argument("--expressions", type=int, default=EXPRESSIONS, help=f"default {EXPRESSIONS}")
    parser.add_argument("--tokens", type=int, default=256, help="visual tokens of an image (default 256)")
    parser.add_argument("--folder", type=Path, help="of the generated run; default: a temporary one")
    parser.add_argument("--probe", choices=PROBES, help="only print the figures of one task, as JSON")
    options = parser.parse_args(argv)
    if options.probe:
        print(json.dumps(probe(options.probe, options.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "run"
        if not folder.exists():
            images = max(1, options.expressions * IMAGES // EXPRESSIONS)
            write_run(folder, expressions=options.expressions, images=images, tokens=options.tokens)
        report(folder, options.threads).publish(options.out)


def report(folder: Path, threads: int) -> Report:
    """Time and memory of every probe."""
    (folder / PARQUET_FILE).unlink(missing_ok=True)
    (folder / "results.csv").unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in folder.glob("samples-*.jsonl"))
    rows: list[dict[str, Any]] = []
    for name, what in PROBES.items():
        if name in ("results-parquet", "no-op") and not (folder / PARQUET_FILE).exists():
            continue
        found = in_fresh_process("benchmarks.logs", "--probe", name, "--folder", str(folder), threads=threads)
        rows.append({"name": name, "what": what, **found})
    by_name = {row["name"]: row for row in rows}
    lines = by_name["resume"]["lines"]
    targets = [
        Target("summary, differences and figure: CPU s", by_name["results"]["cpu"], 60),
        Target("summary, differences and figure: peak GB", by_name["results"]["peak"], 2),
    ]
    if "no-op" in by_name:
        targets.append(Target("a finished run: CPU s", by_name["no-op"]["cpu"], 10))
    columns = {
        "what": ("task", ""), "cpu": ("CPU s", ".1f"), "read": ("of it reading", ".1f"), "peak": ("peak GB", ".2f"),
    }  # fmt: skip
    return Report(
        name="logs",
        title="Logs of the paper's size",
        settings={"lines": f"{lines:,}", "bytes a line": round(size / lines), "threads": threads,
                  "orjson": _there("orjson"), "pyarrow": _there("pyarrow")},
        tables=[Table(f"{lines:,} lines, {size / 1e9:.2f} GB of JSON lines", columns, rows)],
        targets=targets,
        notes=[
            "CPU s: of all threads of a process of its own, after the imports; peak: resident, imports included",
            "a finished run: without the model and the data set, which the command also opens and hashes",
        ],
    )  # fmt: skip


def probe(name: str, folder: Path) -> dict[str, Any]:
    """Run one task."""
    if name == "results-json":
        jsonl.orjson = None
    start = time.process_time()
    if name == "resume":
        found = read_heads(folder, read_run(folder))
        return {"lines": len(found), "cpu": time.process_time() - start, "peak": _peak()}
    if name == "no-op":
        run = read_run(folder)
        names = [f"refcoco-all-{index:06d}" for index in range(run["n_samples"])]
        samples = [SimpleNamespace(id=name) for name in names]
        configs = [SimpleNamespace(key=record_key(config)) for config in run["identity"]["configurations"]]
        if missing_tasks(samples, configs, read_heads(folder, run)):  # type: ignore[arg-type]
            raise RuntimeError("the generated run is not complete")
    results = Results.load(folder)
    read = time.process_time() - start
    if name != "no-op":
        results.summary()
        for reference in ("random", "divprune", "none"):
            results.differences(reference)
        AccuracyDisplay.from_results(results, labels=results.labels).plot()
    if name in ("no-op", "save"):
        results.save()
    return {"cpu": time.process_time() - start, "read": read, "peak": _peak()}


def _peak() -> float:
    """GB that this process has had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _there(package: str) -> str:
    return "installed" if find_spec(package) else "none"


if __name__ == "__main__":
    main()
