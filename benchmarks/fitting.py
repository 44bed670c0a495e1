"""Fitting a profile on 1,000 images, all layers and heads of the embedded grounder, against a plain prefill of them.

    python -m benchmarks.fitting

Both encode the same images and prompts and run the decoder once per image. Fitting also computes the attention rows
of every layer and head, keeps their moments fold by fold (or every map on disk) and fits the mean profile. Images are
rendered before the clock starts. Peak memory is taken in processes of their own, for two numbers of images.
"""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import torch

import biaslab as bl
from biaslab.core.images import load_image
from biaslab.datasets.calibration import calibration
from biaslab.models.vlm import VLM

from .common import arguments, extra_peak, in_fresh_process, measured_clock, side_by_side
from .report import Report, Table, Target

#: for glibc: freed blocks go back to the system at once, or the peak is that of its free lists
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MODES = {"plain": "plain prefill", "streamed": "fit, moments only", "stored": "fit, every map on disk"}


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.fitting", __doc__, repeats=3)
    parser.add_argument("--n", type=int, default=1000, help="images (default 1000)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--probe", choices=MODES, help="only print the peak memory of one mode, as JSON")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.probe:
        print(json.dumps(peak(options.probe, options.n, options.batch_size)))
        return
    report(options.n, options.batch_size, options.repeats, options.threads).publish(options.out)


def report(n: int, batch_size: int, repeats: int, threads: int) -> Report:
    """Time and memory of every mode."""
    vlm, clock = bl.load("grounder"), measured_clock(threads)
    images, prompts = pictures(vlm, n)
    images = [load_image(image) for image in images]
    tasks = {mode: lambda mode=mode: run(vlm, mode, images, prompts, batch_size) for mode in MODES}
    for mode in MODES:  # a pass takes minutes: a short one warms up
        run(vlm, mode, images[:batch_size], prompts[:batch_size], batch_size)
    times = side_by_side(tasks, repeats, warmup=0)
    few, rows = max(batch_size, n // 4), []
    for mode, name in MODES.items():
        small, large = (
            in_fresh_process("benchmarks.fitting", "--probe", mode, "--n", str(count), "--batch-size", str(batch_size),
                             threads=threads, environment=RETURNED)
            for count in (few, n)
        )  # fmt: skip
        rows.append({
            "mode": mode, "name": name, "s": times[mode].median(clock), "s_min": times[mode].min(clock),
            "per_s": n / times[mode].median("wall"), "throughput": 1 / times[mode].ratio_to(times["plain"], clock),
            "few_mb": small["resident"], "peak_mb": large["resident"], "few_held": small["held"],
            "held": large["held"], "growth": large["held"] - small["held"], "times_s": times[mode].summary(),
        })  # fmt: skip
    columns = {
        "name": ("mode", ""), "s": (f"{clock} s", ".2f"), "s_min": ("min s", ".2f"), "per_s": ("images/s", ".0f"),
        "throughput": ("x throughput", ".3f"), "few_mb": (f"peak resident MiB, {few} images", ".1f"),
        "peak_mb": (f"{n} images", ".1f"), "few_held": (f"peak of Python and NumPy MiB, {few} images", ".2f"),
        "held": (f"{n} images", ".2f"),
    }  # fmt: skip
    fitting_rows = rows[1:]
    targets = [
        Target(f"{r['name']}: throughput over the plain prefill", r["throughput"], 0.9, least=True)
        for r in fitting_rows
    ]
    # a map of one image, all layers and heads: what memory would grow by if maps were held
    held = vlm.n_layers * vlm.decoder.config.num_attention_heads * 256 * 4 / 2**20
    for r in fitting_rows:
        what = f"{r['name']}: growth of what Python and NumPy hold over the maps of {n - few} images"
        targets.append(Target(what, r["growth"] / (held * (n - few)), 0.1))
    return Report(
        name="fitting",
        title="Fitting a profile against a plain prefill of the same images",
        settings={"model": "grounder, 10 layers x 4 heads", "images": n, "batch_size": batch_size, "repeats": repeats,
                  "threads": threads},
        tables=[Table(f"{n} images, all layers and heads, last prompt token", columns, rows)],
        targets=targets,
        notes=[
            f"{clock} s: median over the rounds; x throughput: median over the rounds of plain time over this time in "
            "the same round",
            "peaks: over the idle model, resident with an allocator that gives free memory back "
            f"({' '.join(f'{k}={v}' for k, v in RETURNED.items())}), and what Python and NumPy hold (tracemalloc). The "
            f"maps of {n - few} images would take {held * (n - few):.0f} MiB",
        ],
    )  # fmt: skip


def pictures(vlm: VLM, n: int) -> tuple[list[Any], list[str]]:
    """Calibration scenes, unrendered, and their prompts."""
    scenes = calibration(vlm, "scenes", n=n)
    return list(scenes.images), list(scenes.prompts)


def run(vlm: VLM, mode: str, images: list[Any], prompts: list[str], batch_size: int) -> Any:
    """One pass over the images."""
    if mode == "plain":
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                batch = [[load_image(image)] for image in images[start : start + batch_size]]
                encoded = vlm.encode(batch, prompts[start : start + batch_size])
                vlm.forward(encoded, use_cache=False, logits_to_keep=1)
        return None
    about = {"prompt": prompts, "heads": "all", "batch_size": batch_size, "progress": False}
    ids = [str(i) for i in range(len(images))]
    if mode == "streamed":
        return bl.MeanProfile().fit(bl.collect(vlm, images, ids=ids, **about))
    with tempfile.TemporaryDirectory() as folder:
        return bl.MeanProfile().fit(bl.collect(vlm, images, ids=ids, out=Path(folder) / "maps", **about))


def peak(mode: str, n: int, batch_size: int) -> dict[str, float | None]:
    """MiB a pass takes, resident and held by Python and NumPy; to be called in a process of its own.

    Images are rendered as they are read.
    """
    vlm = bl.load("grounder")
    images, prompts = pictures(vlm, n)
    few, traced = 2 * batch_size, []

    def measured() -> None:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        run(vlm, mode, images, prompts, batch_size)
        traced.append((tracemalloc.get_traced_memory()[1] - before) / 2**20)
        tracemalloc.stop()

    resident = extra_peak(measured, warm=lambda: run(vlm, mode, images[:few], prompts[:few], batch_size))
    return {"resident": resident, "held": traced[0]}


if __name__ == "__main__":
    main()
