"""What calibration images are asked, and what that costs the conditional profile.

    python -m benchmarks.asked
    python -m benchmarks.asked --queries last

The same calibration scenes are asked for their true expressions, for several, through a file of captions, for generic
expressions, for nouns alone. A look-ahead profile is fitted on each; ``lookahead`` before the decoder then locates the
same validation expressions. Nothing is chosen here. The work is kept in a folder and resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import biaslab as bl
from biaslab.datasets.asked import with_places
from biaslab.datasets.calibration import Calibration, calibration
from biaslab.datasets.drawn import DRAWN
from biaslab.models.vlm import VLM
from biaslab.scenes import EXPRESSION_TYPES, Scene, scene
from biaslab.stats.resampling import ImageBootstrap
from biaslab.workflows.fit_bias import fit_bias

from .common import RESULTS
from .report import Report, Table, percent

TRUE = "expressions"  # what the others are compared with
KEEPS = (0.1, 0.156)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asked", description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=int, default=600, help="scenes that the profiles are fitted on")
    parser.add_argument("--queries", default="answer", help="rows that teach (default answer, as of fit-bias)")
    parser.add_argument("--only", action="append", help="a set by its name; may be repeated (default all)")
    parser.add_argument("--n", type=int, default=300, help="validation expressions that are located")
    parser.add_argument("--work", type=Path, default=Path("runs/asked"), help="folder that the work is kept in")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(bl.load("grounder"), options).publish(options.out)


def captions(kinds: dict[str, Callable[[Scene], list[str]]], folder: Path, n: int) -> tuple[Path, dict[str, Path]]:
    """Write the first n calibration scenes as images, and a file of captions for each kind of words."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {kind: [] for kind in kinds}
    for index in range(n):
        shown = scene("calibration", index)
        if not shown.expressions:
            continue
        file = pictures / f"{shown.id}.png"
        if not file.exists():
            shown.image.save(file)
        for kind, words in kinds.items():
            lines[kind].append(json.dumps({"image": file.name, "expressions": words(shown)}))
    files = {kind: folder / f"{kind}.jsonl" for kind in kinds}
    for kind, file in files.items():
        file.write_text("\n".join(lines[kind]) + "\n")
    return pictures, files


def asked(shown: Scene) -> Any:
    """Return the expression that a scene is asked for, which the caller knows it has."""
    first = DRAWN["scenes"].samples("calibration", shown.index)[0]
    return next(e for e in shown.expressions if e.expression_type == first.expression_type)


def objects(shown: Scene) -> list[str]:
    """List the names of the objects of a scene: what a model would say that names them all."""
    return list(dict.fromkeys(thing.name for thing in shown.objects))


def sets(vlm: VLM, work: Path, n: int) -> dict[str, Calibration]:
    """Make the calibration sets, by what is asked."""
    pictures, files = captions(
        {
            "same": lambda shown: [asked(shown).text],
            "phrase": lambda shown: [str(asked(shown).head)],
            "noun": lambda shown: [asked(shown).head.name],
            "objects": objects,
            "places": lambda shown: with_places(objects(shown), shown.index),
        },
        work, n,
    )  # fmt: skip
    return {
        TRUE: calibration(vlm, "scenes", n=n),
        "3 expressions each": calibration(vlm, "scenes", n=n, questions=3),
        "a third of the images": calibration(vlm, "scenes", n=n // 3),
        "these, 3 expressions each": calibration(vlm, "scenes", n=n // 3, questions=3),
        "the same, through a file": calibration(vlm, pictures, prompts=files["same"]),
        "noun phrase of the target": calibration(vlm, pictures, prompts=files["phrase"]),
        "noun of the target": calibration(vlm, pictures, prompts=files["noun"]),
        "noun of an object": calibration(vlm, pictures, prompts=files["objects"]),
        "nouns of 3 objects": calibration(vlm, pictures, prompts=files["objects"], questions=3),
        "noun of an object, half with a place": calibration(vlm, pictures, prompts=files["places"]),
        "nouns of 3, half with a place": calibration(vlm, pictures, prompts=files["places"], questions=3),
        "generic": calibration(vlm, pictures, prompts="generic"),
        "3 generic each": calibration(vlm, pictures, prompts="generic", questions=3),
        "to be described": calibration(vlm, pictures),
    }


def report(vlm: VLM, options: argparse.Namespace) -> Report:
    """Fit, evaluate, and compare every set with the true expressions."""
    work: Path = options.work / options.queries
    work.mkdir(parents=True, exist_ok=True)
    rows, hits = [], {}
    data = bl.load_dataset("scenes", split="validation", n=options.n)
    for name, found in sets(vlm, options.work, options.calibration).items():
        if name != TRUE and options.only and name not in options.only:
            continue
        slug = name.replace(" ", "-").replace(",", "")
        file = work / f"{slug}.safetensors"
        seconds = None
        if not file.exists():
            started = time.process_time()
            fit_bias(vlm, found, queries=options.queries, estimator="lookahead", out=file, progress=False)
            seconds = time.process_time() - started
            (work / f"{slug}.seconds").write_text(f"{seconds}\n")
        profile = bl.load_profile(file)
        results = bl.evaluate(
            vlm, data, methods="lookahead", keep=KEEPS, layer=0, profile=profile, out=work / slug, progress=False
        )
        lines = results.samples
        hits[name] = lines.pivot(index="id", columns="keep", values="hit").astype(float)
        images = lines.drop_duplicates("id").set_index("id")["image_id"].reindex(hits[name].index)
        bootstrap = ImageBootstrap(images)
        about = profile.provenance_
        row: dict[str, Any] = {
            "asked": name, "questions": len(found.images),
            "teacher": ", ".join(f"{layer}.{head}" for layer, head, _ in about["teacher"]),
            "position": about["held_out"]["position"], "all": about["held_out"]["all"],
            "seconds": float((work / f"{slug}.seconds").read_text()),
        }  # fmt: skip
        for keep in KEEPS:
            accuracy = bootstrap.mean(hits[name][keep].to_numpy())
            row[f"acc{keep}"] = percent(accuracy)
            if name != TRUE:
                gain = bootstrap.difference(hits[name][keep].to_numpy(), hits[TRUE][keep].to_numpy())
                row[f"gain{keep}"] = percent(gain, "+")
        types = lines[lines["keep"] == KEEPS[0]].groupby("expression_type")["hit"]
        row |= {kind: 100 * float(hit.astype(float).mean()) for kind, hit in types}
        rows.append(row)
    columns: dict[str, tuple[str, str]] = {"asked": ("asked", ""), "questions": ("questions", "d")}
    for keep in KEEPS:
        columns |= {
            f"acc{keep}": (f"Acc@0.5 at {100 * keep:g} %", ""), f"gain{keep}": (f"against {TRUE}", ""),
        }  # fmt: skip
    columns |= {kind: (f"{kind} at {100 * KEEPS[0]:g} %", ".1f") for kind in EXPRESSION_TYPES}
    columns |= {
        "all": ("explained", ".2f"), "position": ("by position", ".2f"), "teacher": ("layer.head", ""),
        "seconds": ("CPU s", ".0f"),
    }  # fmt: skip
    return Report(
        name="asked",
        title="What calibration images are asked, and what lookahead is worth after it",
        settings={"model": "grounder", "pictures": options.calibration, "expressions": options.n, "split": "validation",
                  "layer": 0, "queries": options.queries, "threads": options.threads},
        tables=[Table(f"{options.calibration} calibration scenes, {options.n} validation expressions", columns, rows)],
        notes=[
            "Acc@0.5 and differences with 95 % intervals (bootstrap over images, paired)",
            "explained: share of the variance of the teacher's log attention on held-out calibration images, asked "
            "as the others were: another question for every line",
            "CPU s: collecting and fitting",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
