"""Images before the model: what the host does and sends for each, and what threads ahead of the model save.

    python -m benchmarks.pictures

Host: opened images through the processors of InternVL2.5-8B (13 tiles), LLaVA-1.5 and Qwen2.5-VL (640x480 both) with
a stand-in tokenizer, rescaled and normalised by the processor (the way of before) against 8-bit values and a table
looked up where the model is; here that is the CPU too, on a GPU the look-up is the GPU's. Expressions: six of one
image, cut once and sent once, against six copies of it. Threads: ``collect`` on photographs of 1600x1200 as JPEG and
``evaluate`` on scenes with the embedded grounder, with 0, 1 and 2 workers, and a device that leaves the cores free,
which is a wait as long as the preparation of a batch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import biaslab as bl
from biaslab._util.ahead import ahead
from biaslab.core.images import load_image
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.worker import Worker, WorkItem
from biaslab.models.offline.geometry import Geometry, geometry
from biaslab.models.pixel_values import RawPixels, table_of
from biaslab.models.preparing import Preparers
from biaslab.models.vlm import VLM

from .common import Timing, arguments, measured_clock, numbers, side_by_side
from .report import Report, Table, Target

CASES = {"internvl2.5-8b": (1792, 1344), "llava-1.5-7b": (640, 480), "qwen2.5-vl-7b": (640, 480)}
EXPRESSIONS = 6
QUESTION = "Where is the red cup?"


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.pictures", __doc__, repeats=5)
    parser.add_argument("--n", type=int, default=16, help="images of a run with threads (default 16)")
    parser.add_argument("--side", type=int, default=1600, help="longer side of its photographs (default 1600)")
    parser.add_argument("--workers", type=numbers(int), default=[0, 1, 2])
    parser.add_argument("--models", type=numbers(str), default=list(CASES))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    clock = measured_clock(options.threads)
    cases = {name: geometry(name) for name in options.models}
    host = [one_picture(name, case, options.repeats, clock) for name, case in cases.items()]
    several = [expressions(name, case, options.repeats, clock) for name, case in cases.items()]
    threads = with_threads(options.n, options.side, options.workers, max(1, options.repeats - 2))
    Report(
        name="pictures",
        title="Images before the model: the host's work, what is sent, threads ahead",
        settings={"n": options.n, "side": options.side, "expressions": EXPRESSIONS, "repeats": options.repeats,
                  "threads": options.threads},
        tables=[
            Table("An image on the host", {
                "model": ("model", ""), "tiles": ("tiles or patches", "d"),
                "plain_ms": (f"normalised by the processor, {clock} ms", ".1f"),
                "raw_ms": (f"8 bits, {clock} ms", ".1f"), "share": ("of before", ".2f"),
                "lookup_ms": (f"look-up on the CPU, {clock} ms", ".1f"), "plain_mb": ("MB sent before", ".2f"),
                "raw_mb": ("MB sent", ".2f"), "equal": ("pixel values", ""),
            }, host),
            Table(f"{EXPRESSIONS} expressions of one image in a batch, for each", {
                "model": ("model", ""), "copies_ms": (f"cut each time, {clock} ms", ".1f"),
                "once_ms": (f"cut once, {clock} ms", ".1f"), "ratio": ("x faster", ".1f"),
                "copies_mb": ("MB sent", ".2f"), "once_mb": ("MB sent, once", ".2f"), "equal": ("inputs", ""),
            }, several),
            Table("Threads ahead of the model, wall seconds side by side", {
                "run": ("run", ""), "workers": ("workers", "d"), "wall": ("seconds", ".2f"),
                "ratio": ("of those of 0 workers", ".2f"), "equal": ("results", ""),
            }, threads),
        ],
        targets=[
            *(Target("13 tiles: host time, of before", r["share"], 0.55) for r in host if r["tiles"] == 13),
            *(Target(f"{r['model']}: MB sent, of before", r["raw_mb"] / r["plain_mb"], 0.25) for r in host),
        ],
        notes=["of before, x faster, of those of 0 workers: medians over the rounds of one time over the other",
               "collect and evaluate: the model computes on the cores that the threads want as well"],
    ).publish(options.out)  # fmt: skip


def one_picture(name: str, case: Geometry, repeats: int, clock: str) -> dict[str, Any]:
    """One image both ways: host time, bytes and whether the pixel values are the same."""
    images = [[photograph(*CASES[name])]]
    raw_inputs, plain_inputs = (encoded(case, images, raw=raw) for raw in (True, False))
    pixels = raw_inputs["pixel_values"]
    form = case.family.pixel_form
    assert form is not None
    look_up = partial(RawPixels(table_of(case.processor.image_processor), form).normalised, pixels)
    times = side_by_side(
        {"plain": lambda: encoded(case, images), "raw": lambda: encoded(case, images, raw=True), "look-up": look_up},
        repeats,
    )
    equal = torch.equal(look_up(), plain_inputs["pixel_values"])
    return {
        "model": name, "tiles": len(pixels), "plain_ms": 1e3 * times["plain"].median(clock),
        "raw_ms": 1e3 * times["raw"].median(clock), "share": times["raw"].ratio_to(times["plain"], clock),
        "lookup_ms": 1e3 * times["look-up"].median(clock), "plain_mb": plain_inputs["pixel_values"].nbytes / 1e6,
        "raw_mb": pixels.nbytes / 1e6, "equal": _equal(equal), "times_s": {k: t.summary() for k, t in times.items()},
    }  # fmt: skip


def expressions(name: str, case: Geometry, repeats: int, clock: str) -> dict[str, Any]:
    """Several expressions of one image: the image itself for each, against a copy for each."""
    image = photograph(*CASES[name])
    once, copies = ([[each] for each in images] for images in ([image] * EXPRESSIONS, _copies(image)))
    times = side_by_side(
        {"copies": lambda: encoded(case, copies, raw=True), "once": lambda: encoded(case, once, raw=True)}, repeats
    )
    a, b = encoded(case, once, raw=True), encoded(case, copies, raw=True)
    repeated = {**a, "pixel_values": a["pixel_values"][a["pixel_rows"]]}
    equal = all(torch.equal(repeated[key], value) for key, value in b.items() if isinstance(value, torch.Tensor))
    return {
        "model": name, "copies_ms": 1e3 * times["copies"].median(clock) / EXPRESSIONS,
        "once_ms": 1e3 * times["once"].median(clock) / EXPRESSIONS,
        "ratio": times["copies"].ratio_to(times["once"], clock), "equal": _equal(equal),
        "copies_mb": b["pixel_values"].nbytes / 1e6 / EXPRESSIONS,
        "once_mb": a["pixel_values"].nbytes / 1e6 / EXPRESSIONS,
        "times_s": {k: t.summary() for k, t in times.items()},
    }  # fmt: skip


def with_threads(n: int, side: int, workers: list[int], repeats: int) -> list[dict[str, Any]]:
    """Collect, evaluate and wait with each number of workers, in turns."""
    vlm, rows = bl.load("grounder"), []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.jpg" for i in range(n)]
        for i, path in enumerate(paths):
            photograph(side, side * 3 // 4, seed=i).save(path, quality=90)
        runs: dict[str, Callable[[int], Any]] = {
            "collect": partial(_collected, vlm, paths), "evaluate": partial(_evaluated, vlm, n),
            "a free device": partial(_waited, vlm, paths, _seconds_of_a_batch(vlm, paths)),
        }  # fmt: skip
        for name, run in runs.items():
            times = side_by_side({str(w): partial(run, w) for w in workers}, repeats)
            first = run(workers[0])
            rows += [
                {"run": name, "workers": w, "wall": times[str(w)].median("wall"),
                 "ratio": _against(times, w, workers[0]), "equal": _equal(run(w) == first),
                 "times_s": times[str(w)].summary()}
                for w in workers
            ]  # fmt: skip
    return rows


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Make an image with gradients and grain, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / (40 + 9 * c) + seed) + np.cos(y / (60 - 7 * c)) for c in range(3)]
    values = 128 + 45 * np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def encoded(case: Geometry, images: list[list[Image.Image]], *, raw: bool = False) -> dict[str, Any]:
    """Run the processor on a prompt for each image."""
    return case.family.encode(case.processor, images, [QUESTION] * len(images), {}, raw=raw)[0]


def _collected(vlm: VLM, paths: list[Path], workers: int) -> list[float]:
    maps = bl.collect(vlm, paths, layers=[1], batch_size=4, progress=False, workers=workers)
    return [value for key in maps.layouts for value in maps.moments(1, key).mean.ravel().tolist()]


def _evaluated(vlm: VLM, n: int, workers: int) -> list[dict[str, Any]]:
    configs, lines = configurations(["none", "fastv"], [0.25], [4], None), []
    tasks = [WorkItem(i, sample, (0, 1)) for i, sample in enumerate(bl.load_dataset("scenes", n=n))]
    Worker(vlm, configs, GenerationOptions(), lines.append, workers=workers).run(tasks, 8)
    return [{key: line[key] for key in ("id", "method", "answer")} for line in lines]


def _prepared(preparers: Preparers, paths: list[Path]) -> int:
    with preparers.one() as vlm:
        return len(vlm.prepare([load_image(path) for path in paths], [QUESTION] * len(paths)))


def _seconds_of_a_batch(vlm: VLM, paths: list[Path]) -> float:
    task = partial(_prepared, Preparers(vlm, 0), paths[:4])
    return side_by_side({"batch": task}, 3)["batch"].median("wall")


def _waited(vlm: VLM, paths: list[Path], seconds: float, workers: int) -> list[int]:
    preparers, done = Preparers(vlm, workers), []
    each = [paths[i : i + 4] for i in range(0, len(paths), 4)]
    with ahead(partial(_prepared, preparers), each, workers=workers) as results:
        for prompts in results:
            time.sleep(seconds)
            done.append(prompts)
    return done


def _copies(image: Image.Image) -> list[Image.Image]:
    return [image.copy() for _ in range(EXPRESSIONS)]


def _against(times: dict[str, Timing], workers: int, base: int) -> float:
    return times[str(workers)].ratio_to(times[str(base)], "wall")


def _equal(equal: bool) -> str:
    return "equal bit by bit" if equal else "DIFFERENT"


if __name__ == "__main__":
    main()
