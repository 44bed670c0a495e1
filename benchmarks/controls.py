"""Controls of look-ahead: what its student needs, and what it does not rest on.

    python -m benchmarks.controls                       hours on two cores, minutes on a GPU with a dozen
    python -m benchmarks.controls --device cuda --processes 14

Maps of calibration scenes are collected in several forms, a look-ahead profile is fitted for each control, and
``lookahead`` before the decoder then locates the same validation expressions. Nothing is chosen here, and no test
expression is read. The work is kept in a folder and resumes; the results are written as they come.
"""

from __future__ import annotations

import argparse
import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import biaslab as bl
from biaslab.maps.stored import StoredMaps
from biaslab.models.vlm import VLM
from biaslab.scenes.objects import NAMES
from biaslab.stats.resampling import ImageBootstrap

from .common import RESULTS
from .control_fits import Control, fit, join, teacher_auroc
from .oracle import Oracle
from .report import Report, Table, percent
from .scene_pool import Expressions, Picture, expressions, mentions, pictures

KEEPS = (0.1, 0.156)
BASE = "3,000 expressions"
UNSEEN = tuple(sorted(NAMES)[::4])
#: maps -> (split of the scenes, rows that teach)
SETS: dict[str, tuple[str, Any]] = {
    "answer": ("calibration", "answer"), "other": ("monitor", "answer"), "last": ("calibration", "last"),
    "text": ("calibration", "text"), "end": ("calibration", torch.tensor([-5])),
}  # fmt: skip
HELD = "of validation"
_ALL = [(layer, head) for layer in range(10) for head in range(4)]
_PART = 1500  # images that one process collects

_world: dict[str, Any] = {}  # images and expressions, which forked processes share


def controls(most: int) -> list[Control]:
    """List the controls, those of the largest fit first; ``most``: expressions of it."""
    base = min(3000, most)
    return [
        Control(f"{most:,} expressions", n=most),
        Control(BASE, n=base),
        *(Control(f"{n:,} expressions", n=n) for n in (1000, 300, 100) if n < base),
        Control("student of another seed", n=base, options={"seed": 1}),
        Control("student of a third seed", n=base, options={"seed": 2}),
        Control("scenes of another generator seed", maps="other", n=base),
        Control("embeddings of the question rotated", n=base, rotated=True),
        Control("a quarter of the names never said", n=base, without=UNSEEN),
        Control("does not look at the question", n=base, options={"reads": False}),
        Control("teacher with its position", n=base, options={"debiased": False}),
        Control("teacher: the best head alone", n=base, options={"share": 1.0}),
        Control("teacher: all heads of all layers", n=base, options={"heads": _ALL}),
        Control("teacher: all heads of layer 3", n=base, options={"heads": [(3, h) for h in range(4)]}),
        Control("teacher: the last row of the prompt", maps="last", n=base),
        Control("teacher: all rows behind the image", maps="text", n=base),
        Control("teacher: the row that ends the expression", maps="end", n=base),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.controls", description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=10_000, help="expressions of the largest fit")
    parser.add_argument("--n", type=int, default=1000, help="validation expressions that are located")
    parser.add_argument("--only", action="append", help="a control by its name; may be repeated (default all)")
    parser.add_argument("--work", type=Path, default=Path("runs/controls"), help="folder that the work is kept in")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    chosen = [c for c in controls(options.most) if not options.only or c.name in {BASE, *options.only}]
    render(chosen, options)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("fork")) as pool:
        run(chosen, pool, options)
    card = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else ""
    report(chosen, options, card=card).publish(options.out)


def render(chosen: Sequence[Control], options: argparse.Namespace) -> None:
    """Make all images, before there are other processes: they find them here."""
    _world["validation"] = expressions("validation", 0, options.n, options.processes)
    for split in {SETS[c.maps][0] for c in chosen}:
        # some scenes have no expression, and some expressions are not to be said
        most = max(c.n if not c.without else 2 * c.n for c in chosen if SETS[c.maps][0] == split)
        _world[split] = pictures(split, int(1.02 * most) + 4, options.processes)


def ids_of(control: Control, shown: Sequence[Picture]) -> list[str]:
    """List the images that a control is fitted on."""
    fitting = [p.id for p in shown if not (control.without and p.mentions(control.without))]
    return fitting[: control.n]


def run(chosen: Sequence[Control], pool: ProcessPoolExecutor, options: argparse.Namespace) -> None:
    """Collect, fit and evaluate, several at a time; what depends on nothing else does not wait."""
    pool.submit(_ready).result()  # all processes are forked before there are threads
    problems: list[BaseException] = []
    writing = threading.Lock()

    def of_set(name: str) -> None:
        try:
            work_on(name)
        except BaseException as error:
            problems.append(error)

    def work_on(name: str) -> None:
        own = [c for c in chosen if c.maps == name]
        shown = _world[SETS[name][0]]
        last = max(max(map([p.id for p in shown].index, ids_of(c, shown))) for c in own) + 1
        starts = range(0, last, _PART)
        held = pool.submit(collect_held, name, options)
        parts = [pool.submit(collect_part, name, i, min(i + _PART, last), options) for i in starts]
        folders = [part.result() for part in parts]
        pool.submit(put_together, name, folders, options).result()
        held.result()
        for future in [pool.submit(fit_and_locate, c, options) for c in own]:
            future.result()
            with writing:
                so_far(chosen, options)

    first: Future = pool.submit(locate_without, options)
    threads = [threading.Thread(target=of_set, args=[name]) for name in dict.fromkeys(c.maps for c in chosen)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first.result()
    if problems:
        raise problems[0]


def so_far(chosen: Sequence[Control], options: argparse.Namespace) -> None:
    """Write what is known by now."""
    done = [c for c in chosen if (options.work / c.slug / "results.csv").exists()]
    if (options.work / "without" / "results.csv").exists() and any(c.name == BASE for c in done):
        report(done, options).write(options.out)


def _ready() -> None:
    """Nothing: a process that is asked for it is there."""


@cache
def _model(device: str) -> VLM:
    """Load the model, once in each process."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("biaslab").setLevel(logging.ERROR)
    return bl.load("grounder", device=device, dtype="float32")


def _collect(shown: Sequence[Any], texts: list[str], ids: list[str], queries: Any, out: Path, options: Any) -> None:
    vlm = _model(options.device)
    bl.collect(
        vlm, [p.image() for p in shown], prompt=[vlm.family.grounding_prompt(text) for text in texts], ids=ids,
        queries=queries, heads="all", features=True, out=out, batch_size=options.batch_size, progress=False,
    )  # fmt: skip


def collect_part(name: str, start: int, end: int, options: argparse.Namespace) -> Path:
    """Collect the maps of some images."""
    split, queries = SETS[name]
    shown = _world[split][start:end]
    out = options.work / "maps" / f"{name}-{start}"
    _collect(shown, [p.expression for p in shown], [p.id for p in shown], queries, out, options)
    return out


def collect_held(name: str, options: argparse.Namespace) -> None:
    """Collect the maps of the validation expressions."""
    samples = _world["validation"].samples
    out = options.work / "maps" / f"{name}-{HELD.replace(' ', '-')}"
    _collect(samples, [s.expression for s in samples], [s.id for s in samples], SETS[name][1], out, options)


def put_together(name: str, folders: list[Path], options: argparse.Namespace) -> None:
    """Join the parts, where that is still to do."""
    out = options.work / "maps" / name
    wanted = sum(StoredMaps(folder).n for folder in folders)
    if not out.exists() or StoredMaps(out).n < wanted:
        join(folders, out)


def fit_and_locate(control: Control, options: argparse.Namespace) -> None:
    """Fit a control, and locate the validation expressions by it."""
    vlm = _model(options.device)
    file = options.work / f"{control.slug}.safetensors"
    if not file.exists():
        ids = ids_of(control, _world[SETS[control.maps][0]])
        fit(control, options.work / "maps" / control.maps, ids, options.device).save(file)
    profile = bl.load_profile(file)
    held = StoredMaps(options.work / "maps" / f"{control.maps}-{HELD.replace(' ', '-')}")
    aurocs = options.work / f"{control.slug}.auroc"
    if not aurocs.exists():
        boxes = {s.id: s.box for s in _world["validation"]}
        aurocs.write_text(" ".join(map(str, teacher_auroc(profile, held, boxes))))
    _evaluate(vlm, "lookahead", options, options.work / control.slug, profile)


def locate_without(options: argparse.Namespace) -> None:
    """Locate them by what needs no fit."""
    data: Expressions = _world["validation"]
    _evaluate(_model(options.device), ["none", "divprune", Oracle.of(data)], options, options.work / "without")


def _evaluate(vlm: VLM, methods: Any, options: argparse.Namespace, out: Path, profile: Any = None) -> None:
    bl.evaluate(
        vlm, _world["validation"], methods=methods, keep=KEEPS, layer=0, profile=profile, out=out, progress=False,
        batch_size=options.batch_size,
    )  # fmt: skip


def hits_of(out: Path) -> Mapping[tuple[str, float], pd.Series]:
    """Read the hits of a run, by method and keep; a failed line is a miss."""
    lines = bl.Results.load(out).samples
    lines["hit"] = lines["hit"].fillna(False).astype(float)
    lines["key"] = list(zip(lines["method"].astype(str), lines["keep"].astype(float), strict=True))
    return {key: own.set_index("id")["hit"] for key, own in lines.groupby("key")}


def report(chosen: Sequence[Control], options: argparse.Namespace, card: str = "") -> Report:
    """Compare every control with the fit on 3,000 expressions."""
    data: Expressions = _world["validation"]
    ids = [s.id for s in data]
    of_unseen = np.array([mentions(s.expression, UNSEEN) for s in data])
    images = np.array([s.image_id for s in data])
    without = hits_of(options.work / "without")
    base = hits_of(options.work / Control(BASE).slug)
    rows: list[dict[str, Any]] = []
    unseen: list[dict[str, Any]] = []
    for name, method in (("no pruning", "none"), ("oracle", "oracle"), ("DivPrune", "divprune")):
        row: dict[str, Any] = {"control": name}
        for keep in KEEPS:
            hits = without[method, 1.0 if method == "none" else keep].reindex(ids).to_numpy()
            row[f"acc{keep}"] = percent(ImageBootstrap(images).mean(hits))
        rows.append(row)
    for control in chosen:
        profile = bl.load_profile(options.work / f"{control.slug}.safetensors")
        about, curve = profile.provenance_, profile.curve_
        best = curve.loc[curve["held_out"].idxmin()]
        student, teacher = map(float, (options.work / f"{control.slug}.auroc").read_text().split())
        row = {
            "control": control.name, "prompts": about["learned_from"] + about["held_out"]["images"],
            "excess": float(best["held_out"] - best["floor"]), "position": about["held_out"]["position"],
            "all": about["held_out"]["all"], "student": student, "teacher": teacher, "heads": len(about["teacher"]),
        }  # fmt: skip
        own = hits_of(options.work / control.slug)
        for keep in KEEPS:
            hits, plain = (x["lookahead", keep].reindex(ids).to_numpy() for x in (own, base))
            bootstrap = ImageBootstrap(images)
            row[f"acc{keep}"] = percent(bootstrap.mean(hits))
            if control.name != BASE:
                row[f"gain{keep}"] = percent(bootstrap.difference(hits, plain), "+")
            if control.without:
                some = ImageBootstrap(images[of_unseen])
                there = without["divprune", keep].reindex(ids).to_numpy()
                unseen.append({
                    "keep": keep, "n": int(of_unseen.sum()), "never": percent(some.mean(hits[of_unseen])),
                    "said": percent(some.mean(plain[of_unseen])), "divprune": percent(some.mean(there[of_unseen])),
                    "difference": percent(some.difference(hits[of_unseen], plain[of_unseen]), "+"),
                })  # fmt: skip
        rows.append(row)
    columns: dict[str, tuple[str, str]] = {"control": ("", ""), "prompts": ("prompts", "d")}
    for keep in KEEPS:
        columns |= {f"acc{keep}": (f"Acc@0.5 at {100 * keep:g} %", ""), f"gain{keep}": (f"against {BASE}", "")}
    columns |= {
        "all": ("explained", ".2f"), "position": ("by position", ".3f"), "excess": ("cross entropy", ".3f"),
        "student": ("AUROC, student", ".3f"), "teacher": ("AUROC, teacher", ".3f"), "heads": ("heads that taught", "d"),
    }  # fmt: skip
    names: dict[str, tuple[str, str]] = {
        "keep": ("tokens kept", ".1%"), "n": ("n", "d"), "never": ("never said", ""), "said": ("said", ""),
        "difference": ("difference", ""), "divprune": ("DivPrune", ""),
    }  # fmt: skip
    return Report(
        name="controls",
        title="Controls of look-ahead",
        settings={"model": "grounder", "expressions": options.n, "split": "validation", "layer": 0,
                  "device": card or options.device},
        tables=[
            Table(f"{options.n} validation expressions", columns, rows),
            *([Table("Expressions that say a name which was never said in the fit", names, unseen)] if unseen else []),
        ],
        notes=[
            "Acc@0.5 and differences in percent, with 95 % intervals (bootstrap over images, paired)",
            f"against {BASE}: also two fits that differ in nothing but the student's seed, the size of what is chance",
            "explained: share of the variance of the teacher's log attention on held-out calibration images; cross "
            "entropy there, in nats above the teacher's own entropy. Another teacher is another question",
            "AUROC: of the target's tokens against the others, means over the validation expressions; the teacher has "
            "seen the answer being made",
            "oracle: knows the target's place, keeps its tokens and those around it, evenly spread",
            f"never said: {', '.join(UNSEEN)}",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
