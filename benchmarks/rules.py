"""What a choice costs under every method that needs no profile, as pure tensors: beside DivPrune, in one run.

``Method.select`` on one image with features as decoders have them. Methods that need something else than attention,
features and text, or a profile, are left out and named.
"""

from __future__ import annotations

from typing import Any

import torch

from biaslab.errors import InputError
from biaslab.pruning import METHODS, Method, TokenContext, budget, make

from . import inputs
from .common import arguments, measured_clock, numbers, side_by_side
from .report import Report, Table

SIZES = [256, 1024, 4096]
WORDS = 20
LAYER = 2


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.rules", __doc__, repeats=5)
    parser.add_argument("--sizes", type=numbers(int), default=SIZES, help="visual tokens, e.g. 256,1024")
    parser.add_argument("--keep", type=float, default=0.1, help="keep ratio")
    parser.add_argument("--dim", type=int, default=1024, help="width of the features")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(options.sizes, options.keep, options.dim, options.repeats, options.threads).publish(options.out)


def report(sizes: list[int], keep: float, dim: int, repeats: int, threads: int) -> Report:
    """Measure every method at every size."""
    clock = measured_clock(threads)
    rows: dict[str, dict[str, Any]] = {}
    for n in sizes:
        for name, (ms, ratio) in measure(n, keep, dim, repeats, clock).items():
            rows.setdefault(name, {"method": name, "cost": METHODS[name].cost})
            rows[name] |= {f"ms_{n}": ms, f"ratio_{n}": ratio}
    columns = {"method": ("method", ""), "cost": ("cost", "")}
    columns |= {f"ms_{n}": (f"N = {n}, ms", ".1f") for n in sizes}
    columns |= {f"ratio_{n}": (f"N = {n}, of divprune", ".2f") for n in sizes}
    return Report(
        name="rules",
        title="What a choice costs",
        settings={"sizes": sizes, "keep": keep, "dim": dim, "repeats": repeats, "threads": threads},
        tables=[Table(f"Method.select on one image, {clock} time, median", columns, list(rows.values()))],
        notes=[
            "times of one size are side by side in one run; the ratio is the median over its rounds",
            f"left out, as they need more: {', '.join(sorted(set(METHODS) - set(rows)))}",
        ],
    )


def measure(n: int, keep: float, dim: int, repeats: int, clock: str) -> dict[str, tuple[float, float]]:
    """Time all methods on one image: name -> (milliseconds, ratio to DivPrune)."""
    layout = inputs.layout_of(n)
    features, attention = inputs.features(layout, dim), inputs.attention(layout)
    text = torch.randn(WORDS, dim, generator=torch.Generator().manual_seed(1))
    others = {0: attention.flip(-1)}
    ctx = TokenContext(
        layout, budget(keep, n), layer=LAYER, attention=attention, features=features, text=text, earlier=others,
        other_rows={"null": others[0]},
    )  # fmt: skip
    with torch.inference_mode():
        methods = {name: method for name in METHODS if (method := _served(name, keep, ctx))}
        times = side_by_side({name: lambda m=m: m.select(ctx) for name, m in methods.items()}, repeats)
    return {name: (t.median(clock) * 1e3, t.ratio_to(times["divprune"], clock)) for name, t in times.items()}


def _served(name: str, keep: float, ctx: TokenContext) -> Method | None:
    """Make a method; None where the context lacks what it needs."""
    try:
        method = make(name, keep=keep)
        method.select(ctx)
    except InputError:
        return None
    return method


if __name__ == "__main__":
    main()
