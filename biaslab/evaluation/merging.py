"""Merges run folders that are parts of one run, as machines or jobs leave them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from biaslab._util.arguments import as_path
from biaslab._util.files import atomic_write, locked, writing_to
from biaslab._util.jsonl import JsonLines
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.extending import KnownSamples, check_parts, united
from biaslab.evaluation.results import Results
from biaslab.evaluation.run_folder import RUN_FILE, read_run
from biaslab.evaluation.sample_log import log_files, log_path, sample_lines
from biaslab.evaluation.schema import record_key

__all__ = ["merge_runs"]

_JUDGED = ("answer", "box", "hit")  # what a second run of the same thing must repeat; times and memory it need not


def merge_runs(folders: Sequence[str | Path], out: str | Path) -> Results:
    """Merge run folders of one model, data set, seed and decoding into a new one.

    Their configurations and samples may be apart or overlap. The merged folder is a run like any other: the command
    that lacks something in it goes on there.

    Parameters
    ----------
    folders : sequence of str or Path
        Two run folders or more; they stay as they are.
    out : str or Path
        The new folder.

    Returns
    -------
    Results
        Of the merged run; ``results.csv`` is written.

    Raises
    ------
    InputError
        Fewer than two folders.
    RunFolderError
        A folder that holds no run, runs that are no parts of one (the message names what differs), a sample that two
        of them answer differently, or ``out`` cannot be written or holds a run.

    Examples
    --------
    >>> import tempfile
    >>> import biaslab as bl
    >>> vlm, scenes = bl.load("grounder"), bl.load_dataset("scenes", n=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for method in ("none", "random"):
    ...         _ = bl.evaluate(vlm, scenes, methods=method, keep=0.5, out=f"{folder}/{method}", progress=False)
    ...     merged = bl.merge_runs([f"{folder}/none", f"{folder}/random"], f"{folder}/both")
    >>> merged.summary()[["method", "n"]].to_dict("records"), merged.complete
    ([{'method': 'none', 'n': 2}, {'method': 'random', 'n': 2}], True)
    """
    several = isinstance(folders, Iterable) and not isinstance(folders, (str, Path))
    parts, out = [as_path("folders", folder) for folder in (folders if several else ())], as_path("out", out)
    if len(parts) < 2:
        raise InputError("merge takes two run folders or more, and the folder of the merged run as out (--out)")
    _check_new(out)
    record, lines = read_run(parts[0]), _lines(parts[0])
    for part in parts[1:]:
        other, more = read_run(part), _lines(part)
        agree = KnownSamples.of_lines(lines.values()).agrees(KnownSamples.of_lines(more.values()))
        check_parts(parts[0], record, other, agree)
        _check_answers(parts[0], lines, part, more)
        record = united(record, other)
        lines |= {name: line for name, line in more.items() if name not in lines or lines[name]["error"] is not None}
    record["merged"] = [str(part) for part in parts]
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / RUN_FILE):
            _check_new(out)  # another merge may have been here meanwhile
            _write(record, lines.values(), parts, out)
    results = Results.load(out)
    results.save()
    return results


def _check_new(out: Path) -> None:
    if (out / RUN_FILE).exists() or log_files(out):
        raise RunFolderError(f"{out} holds a run already: choose a new folder")


def _write(record: dict[str, Any], lines: Iterable[dict[str, Any]], parts: Sequence[Path], out: Path) -> None:
    for profile in record.get("profiles", {}).values():
        copies = [part / profile["file"] for part in parts if (part / profile["file"]).exists()]
        if not copies:
            raise RunFolderError(f"{profile['file']} is in none of the folders: copy it back")
        atomic_write(out / profile["file"], copies[0].read_bytes())
    log_file = log_path(out, 0)
    try:
        with JsonLines(log_file) as log:
            for line in lines:
                log.append(line)
        # last: a folder without it is no run
        atomic_write(out / RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    except BaseException:
        log_file.unlink(missing_ok=True)  # or the next try would be refused
        raise


def _lines(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Lines of a run by sample and configuration; a verdict counts before an error."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in sample_lines(folder):
        name = (line["id"], record_key(line))
        if name not in found or line["error"] is None:
            found[name] = line
    return found


def _check_answers(a: Path, lines: Mapping[Any, dict], b: Path, more: Mapping[Any, dict]) -> None:
    differ = [
        name
        for name, line in more.items()
        if name in lines
        and line["error"] is None
        and lines[name]["error"] is None
        and any(line[field] != lines[name][field] for field in _JUDGED)
    ]
    if differ:
        raise RunFolderError(
            f"{a} and {b} answer {len(differ)} of their common sample runs differently, the first {differ[0][0]} "
            f"({json.loads(differ[0][1])[0]}): leave one of them out"
        )
