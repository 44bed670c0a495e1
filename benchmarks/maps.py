"""What attention maps of many images cost beside the forward: their moments, and the rows held until it is over.

    python -m benchmarks.maps

Moments: 16 maps of 32 layers x 32 heads, five folds, one image at a time (``Moments.merge`` of ``Moments.of``, the way
of before and the reference of the tests) against a batch at once (``StreamedMaps.add_batch``), with equal results.
Rows: a batch of the embedded grounder with every text token as a query and all heads, ``capture`` against
``capture_means``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import biaslab as bl
from biaslab.attention.means import capture_means
from biaslab.core.images import load_image
from biaslab.core.layout import TokenLayout
from biaslab.datasets.calibration import calibration
from biaslab.maps.base import ImageRecord, fold_of
from biaslab.maps.moments import Moments
from biaslab.maps.streamed import StreamedMaps
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM

from .common import arguments, measured_clock, numbers, side_by_side
from .report import Report, Table, Target

FOLDS = 5
GRIDS = {1024: (32, 32), 3328: (52, 64)}


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.maps", __doc__, repeats=5)
    parser.add_argument("--n", type=int, default=16, help="images of a batch (default 16)")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--tokens", type=numbers(int), default=[1024, 3328], help="visual tokens of an image")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    clock = measured_clock(options.threads)
    rows = [
        timed(options.n, options.layers, options.heads, tokens, options.repeats, clock) for tokens in options.tokens
    ]
    held = held_rows(options.n)
    few, all_rows = held[1], held[0]
    Report(
        name="maps",
        title="Maps of many images: their moments, and the rows held until the forward is over",
        settings={"images": options.n, "layers": options.layers, "heads": options.heads, "folds": FOLDS,
                  "repeats": options.repeats, "threads": options.threads},
        tables=[
            Table("Moments of a batch, CPU", {
                "tokens": ("tokens", "d"), "single_ms": (f"one by one, {clock} ms/image", ".1f"),
                "batch_ms": (f"a batch, {clock} ms/image", ".1f"), "ratio": ("x faster", ".2f"),
                "equal": ("moments", ""),
            }, rows),
            Table(f"Rows of a batch of {options.n} on the grounder, all layers and heads, every text token", {
                "name": ("kept", ""), "queries": ("query rows", "d"), "held": ("MiB held after the forward", ".2f"),
                "peak": ("MiB peak over the plain forward", ".2f"),
            }, held),
        ],
        targets=[
            *(Target(f"{r['tokens']} tokens: moments of a batch, x faster", r["ratio"], 2, least=True) for r in rows),
            Target("rows held, over those of before and the number of query rows",
                   few["held"] * few["queries"] / all_rows["held"], 1.01),
        ],
        notes=["x faster: median over the rounds of one time over the other in the same round",
               "peak: bytes of all live tensors in the decoder, at the most, less those of a forward without capture"],
    ).publish(options.out)  # fmt: skip


def timed(n: int, layers: int, heads: int, tokens: int, repeats: int, clock: str) -> dict[str, Any]:
    """Time the moments of one batch, added to those of earlier images, both ways."""
    height, width = GRIDS.get(tokens, (1, tokens))
    layout = TokenLayout.raster(height, width, size=(28 * width, 28 * height), family="benchmark")
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(tokens), (n, layers, heads)).astype(np.float32)
    images = [(ImageRecord(str(i), layout, str(i)), torch.from_numpy(x)) for i, x in enumerate(values)]
    before = {fold: Moments.empty((layers, heads, tokens)).plus([values[0]]) for fold in range(FOLDS)}

    def single() -> dict[int, Moments]:
        moments = dict(before)
        for record, attention in images:
            fold = fold_of(record.id, FOLDS)
            moments[fold] = moments[fold].merge(Moments.of(attention.numpy()))
        return moments

    def batch() -> dict[int, Moments]:
        maps = StreamedMaps({"layers": list(range(layers)), "folds": FOLDS, "heads": "all"})
        maps._moments.update({(layout.key, fold): moments for fold, moments in before.items()})
        maps.add_batch(images)
        return {fold: maps._moments[layout.key, fold] for fold in range(FOLDS)}

    times = side_by_side({"single": single, "batch": batch}, repeats)
    one, other = single(), batch()
    fields = ("mean", "var", "log_mean", "log_var")
    equal = all(np.array_equal(getattr(one[f], x), getattr(other[f], x)) for f in range(FOLDS) for x in fields)
    return {
        "tokens": tokens, "single_ms": 1e3 * times["single"].median(clock) / n,
        "batch_ms": 1e3 * times["batch"].median(clock) / n, "ratio": times["single"].ratio_to(times["batch"], clock),
        "equal": "equal bit by bit" if equal else "DIFFERENT", "times_s": {k: t.summary() for k, t in times.items()},
    }  # fmt: skip


def held_rows(n: int) -> list[dict[str, Any]]:
    """Bytes of the rows of one batch on the grounder."""
    vlm = bl.load("grounder")
    scenes = calibration(vlm, "scenes", n=n)
    encoded = vlm.encode([[load_image(image)] for image in scenes.images], list(scenes.prompts))
    plain, _ = peak_of(vlm, lambda: vlm.forward(encoded, use_cache=False, logits_to_keep=1))
    return [
        {"name": name, **_held(vlm, way, encoded, plain)}
        for name, way in (("all rows, averaged later", bl.capture), ("their means", capture_means))
    ]


def _held(vlm: VLM, way: Callable, encoded: Encoded, plain: int) -> dict[str, Any]:
    def forward() -> Any:
        with way(vlm, queries="text", heads="all") as rows:
            vlm.forward(encoded, use_cache=False, logits_to_keep=1)
        return rows

    peak, rows = peak_of(vlm, forward)
    held = sum(rows[layer].values.untyped_storage().nbytes() for layer in rows.layers)
    return {"queries": rows.prompt.queries.shape[1], "held": held / 2**20, "peak": (peak - plain) / 2**20}


def peak_of(vlm: VLM, task: Callable[[], Any]) -> tuple[int, Any]:
    """Most bytes of tensors that live at one time from the decoder on, of those ``task`` makes, and what it returns."""
    with torch.no_grad(), _LiveBytes() as live:
        handle = vlm.decoder.register_forward_pre_hook(lambda *_: live.restart())
        try:
            returned = task()
        finally:
            handle.remove()
    return live.peak, returned


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations have made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._live = 0, {}

    def restart(self) -> None:
        """Forget the peak so far: the vision tower's is larger than that of a small decoder."""
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        self._live = {key: pair for key, pair in self._live.items() if not pair[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:
                    self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return out


if __name__ == "__main__":
    main()
