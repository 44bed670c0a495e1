"""Attention capture in a prefill against plain SDPA and against eager attention with ``output_attentions=True``.

All heads of all layers are captured, for the last prompt token (1 row) or the last 64 (64 rows). Time is
taken side by side in one process. Peak memory is that of a prefill in a process of its own, over the idle model; what
was captured is alive when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from biaslab.attention.capture import capture
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM

from . import inputs
from .common import arguments, extra_peak, in_fresh_process, measured_clock, numbers, side_by_side
from .report import Report, Table, Target

SIZES = [1024, 2048, 4096]
MODES = {
    "plain": "SDPA, no capture",
    "row1": "ours, 1 row",
    "row64": "ours, 64 rows",
    "eager": "eager, output_attentions",
}
FEW = {"eager": 2}  # rounds of what is too slow for more
WARM = 256  # tokens of the prompt that warms up


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.capture", __doc__, repeats=7)
    parser.add_argument("--sizes", type=numbers(int), default=SIZES, help="prompt tokens, e.g. 1024,2048")
    parser.add_argument("--layers", type=int, default=8, help="decoder layers")
    parser.add_argument("--hidden", type=int, default=512, help="width of the decoder")
    parser.add_argument("--probe", choices=MODES, help="only print the peak memory of one mode, as JSON")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    shape = {"hidden": options.hidden, "layers": options.layers}
    if options.probe:
        print(json.dumps(peak(options.probe, options.sizes[0], shape)))
        return
    report(options.sizes, shape, options.repeats, options.threads).publish(options.out)


def report(sizes: list[int], shape: dict[str, int], repeats: int, threads: int) -> Report:
    """Measure every size and mode."""

    def probe(mode: str, size: int) -> float | None:
        flags = [f for key, value in shape.items() for f in (f"--{key}", str(value))]
        return in_fresh_process("benchmarks.capture", "--probe", mode, "--sizes", str(size), *flags, threads=threads)

    clock = measured_clock(threads)
    vlm = inputs.model(**shape)
    rows = [row for size in sizes for row in measure(vlm, size, repeats, clock, probe)]
    n, targets = max(sizes), []
    for row in rows:
        if row["n"] == n and row["mode"].startswith("row"):
            what = f"{row['name']}, N = {n}"
            targets.append(Target(f"{what}: {clock} time over plain SDPA", row["time_ratio"], 1.10))
            if row["memory_ratio"] is not None:
                targets.append(Target(f"{what}: peak memory over plain SDPA", row["memory_ratio"], 1.35))
    columns = {
        "n": ("N", "d"),
        "visual": ("visual", "d"),
        "name": ("attention", ""),
        "s": (f"{clock} s", ".3f"),
        "s_min": ("min s", ".3f"),
        "wall_s": ("wall s", ".3f"),
        "time_ratio": ("x time", ".3f"),
        "peak_mb": ("peak MiB", ".0f"),
        "memory_ratio": ("x memory", ".2f"),
        "rows_mb": ("of it rows MiB", ".1f"),
    }
    return Report(
        name="capture",
        title="Attention capture against plain SDPA and eager attention",
        settings={
            "model": "InternVL, random float32 weights",
            **shape,
            "repeats": repeats,
            "threads": threads,
        },
        tables=[Table("Prefill of one prompt, every head of every layer captured", columns, rows)],
        targets=targets,
        notes=[
            f"{clock} s, min s, wall s: median and minimum of {clock} time and median of wall time; x time: median "
            "over the rounds of the time over that of plain SDPA in the same round",
            f"eager attention: {FEW['eager']} rounds, not warmed up",
            "peak: resident memory over the idle model, decoder prefill only (the image features are given)",
        ],
    )


def measure(
    vlm: VLM, size: int, repeats: int, clock: str, probe: Callable[[str, int], float | None]
) -> list[dict[str, Any]]:
    """One row per mode; ``probe(mode, size)`` gives the peak memory in MiB."""
    encoded = _prompt(vlm, size)
    tasks = {mode: lambda mode=mode: prefill(vlm, encoded, mode) for mode in MODES}
    times = side_by_side(tasks, repeats, fewer_repeats=FEW)
    peaks = {mode: probe(mode, size) for mode in MODES}
    visual = encoded.visual.shape[1]
    maps = {"row1": 1, "row64": 64, "eager": size}
    cells = {mode: rows * (size if mode == "eager" else visual) for mode, rows in maps.items()}
    heads = vlm.n_layers * vlm.decoder.config.num_attention_heads
    return [
        {
            "n": size,
            "visual": visual,
            "mode": mode,
            "name": name,
            "s": times[mode].median(clock),
            "s_min": times[mode].min(clock),
            "wall_s": times[mode].median("wall"),
            "time_ratio": times[mode].ratio_to(times["plain"], clock),
            "peak_mb": peaks[mode],
            "memory_ratio": peaks[mode] / peaks["plain"] if peaks["plain"] else None,
            "rows_mb": cells[mode] * heads * 4 / 2**20 if mode in cells else None,
            "times_s": times[mode].summary(),
        }
        for mode, name in MODES.items()
    ]


def peak(mode: str, size: int, shape: dict[str, int]) -> float | None:
    """MiB a prefill takes; to be called in a process of its own."""
    vlm = inputs.model(**shape)
    small, encoded = _prompt(vlm, min(size, WARM)), _prompt(vlm, size)
    return extra_peak(lambda: prefill(vlm, encoded, mode), warm=lambda: prefill(vlm, small, mode))


def prefill(vlm: VLM, encoded: Encoded, mode: str) -> Any:
    """One forward; returns it with everything that was captured."""
    if mode == "plain":
        return vlm.forward(encoded, logits_to_keep=1)
    if mode == "eager":
        with _eager(vlm):
            return vlm.forward(encoded, logits_to_keep=1, output_attentions=True)
    queries = "last" if mode == "row1" else torch.arange(-64, 0)
    with capture(vlm, queries=queries) as rows:
        return vlm.forward(encoded, logits_to_keep=1), rows


@contextmanager
def _eager(vlm: VLM):
    before = vlm.decoder.config._attn_implementation
    vlm.decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        vlm.decoder.set_attn_implementation(before)


def _prompt(vlm: VLM, size: int) -> Encoded:
    text = min(256, size // 4)
    return inputs.prompt(vlm, size - text, text)


if __name__ == "__main__":
    main()
