"""What a selection asks of a device: launches, waits and uploads per image, one image at a time and in a batch.

No device is needed. A launch is an operation that computes or copies (aten operations that are neither views nor
allocations, counted by a dispatch mode on a CPU with the block sizes of a GPU): a proxy, for some are several kernels
on a device, a sort for one. A wait is where the host reads what the device has computed (``cpu``, ``item``, ``tolist``,
``nonzero``, a look-up by a mask ...), an upload a copy the other way. Times are those of the CPU, as it runs.

``--against FOLDER`` measures another checkout beside this one, for example ``git worktree add FOLDER COMMIT``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import inputs  # by its full name: this file also runs beside another checkout
from biaslab.pruning import Method, TokenContext, budget, make
from biaslab.pruning.algorithms import graph, mis

METHODS = ("fastv", "divprune", "d2pruner", "d2pruner, pivots suppress")
LAYER = 2
_READS = {"cpu", "item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__"}
_ALLOCATE = ("aten.empty", "aten.new_empty", "aten.lift", "aten.detach", "aten.alias")


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    from benchmarks.common import arguments, numbers

    parser = arguments("benchmarks.launches", __doc__, repeats=5)
    parser.add_argument("--size", type=int, default=1024, help="visual tokens (default 1024)")
    parser.add_argument("--keep", type=numbers(float), default=[0.1, 0.5], help="keep ratios, e.g. 0.1,0.5")
    parser.add_argument("--batch", type=numbers(int), default=[1, 16], help="images of a batch, e.g. 1,16")
    parser.add_argument("--dim", type=int, default=1024, help="width of the features")
    parser.add_argument("--against", type=Path, default=None, help="another checkout to measure beside this one")
    options = parser.parse_args(argv)
    settings = {name: getattr(options, name) for name in ("size", "keep", "batch", "dim", "repeats", "threads")}
    rows = probe(settings) if options.against is None else beside(options.against, settings)
    report(settings, rows).publish(options.out)


def report(settings: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    """Lay out what was measured; ``before`` where another checkout was."""
    from benchmarks.report import Report, Table

    columns: dict[str, tuple[str, str]] = {"method": ("method", ""), "keep": ("keep", ".0%"), "batch": ("batch", "d")}
    shown = (("launches", ".1f"), ("waits", ".2f"), ("uploads", ".2f"), ("ms", ".2f"))
    for key, spec in shown:
        title = "cpu ms" if key == "ms" else key
        if any(f"{key}_before" in row for row in rows):
            columns[f"{key}_before"] = (f"{title} before", spec)
        columns[key] = (title, spec)
    if any("ratio" in row for row in rows):
        columns["ratio"] = ("ms / before", ".2f")
    return Report(
        name="launches",
        title="Selection: launches, waits and uploads per image",
        settings=settings,
        tables=[Table("Per image of the batch", columns, rows)],
        notes=[
            "launches: operations that compute or copy, a proxy for kernels; block sizes of a GPU for these counts, "
            "those of the CPU for the times",
            "waits: reads of the device's results; uploads: copies to it, which wait as well unless they are pinned",
            "images: features smooth over the image, a seed each; the batch lies in one tensor, as in the engine",
            *(["before: the other checkout, in a process of its own just before; same images, same tokens kept"]
              if "ratio" in columns else []),
        ],
    )  # fmt: skip


def probe(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Count and time this checkout: a row per method, keep ratio and batch."""
    torch.set_num_threads(settings["threads"])
    layout = inputs.layout_of(settings["size"])
    most = max(settings["batch"])
    stack = torch.cat([inputs.features(layout, settings["dim"], seed, length=0.04) for seed in range(most)])
    attention = [inputs.attention(layout, seed=seed) for seed in range(most)]
    profile = inputs.profile(layout, LAYER - 1)
    rows = []
    for name in METHODS:
        for keep in settings["keep"]:
            method, kept = _method(name, keep, profile), budget(keep, layout.n)
            images = [
                TokenContext(layout, kept, i, LAYER, a, stack[i * layout.n : (i + 1) * layout.n])
                for i, a in enumerate(attention)
            ]
            for b in settings["batch"]:
                with torch.inference_mode():
                    rows.append(
                        {"method": name, "keep": keep, "batch": b, **_measure(method, images[:b], stack, settings)}
                    )
    return rows


def _method(name: str, keep: float, profile: Any) -> Method:
    if not name.startswith("d2pruner"):
        return make(name, keep=keep)
    return make("d2pruner", keep=keep, profile=profile, diagnose=False, pivots_suppress="," in name)


def _measure(method: Method, images: list[TokenContext], stack: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
    n, b = images[0].n, len(images)

    def run() -> list[Tensor]:
        if not hasattr(method, "select_batch"):  # of an earlier checkout
            return [method.select(ctx).indices for ctx in images]
        from biaslab.pruning.batch import TokenBatch

        batch = TokenBatch(images, stack[: b * n], [i * n for i in range(b)])
        return [found.indices for found in method.select_batch(batch)]

    kept = run()
    with _like_a_gpu(), Counts() as counts:
        run()
    times = []
    for _ in range(settings["repeats"]):
        start = time.process_time()
        run()
        times.append((time.process_time() - start) * 1e3 / b)
    return {
        **{key: counts.found[key] / b for key in ("launches", "waits", "uploads")},
        "ms": statistics.median(times),
        "times_ms": times,
        "kept": [int(indices.sum()) for indices in kept],
    }


@contextmanager
def _like_a_gpu() -> Iterator[None]:
    """Use the block sizes of a GPU on a CPU; the names are those of this checkout or of an earlier one."""
    graphs = sys.modules.get("biaslab.pruning.algorithms.graphs")
    changes = [(mis, "_BLOCK_ON_CPU", mis._BLOCK), (graph, "_STRIP", 2**24), (graph, "CPU_CELLS", 2**24)]
    if graphs is not None:
        changes.append((graphs, "CPU_CELLS", 2**24))
    known = [(module, name, getattr(module, name), value) for module, name, value in changes if hasattr(module, name)]
    for module, name, _, value in known:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value, _ in known:
            setattr(module, name, value)


class Counts:
    """Counts launches, waits and uploads while it is entered."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._modes = [_Launches(self.found), _Waits(self.found)]
        from_numpy = torch.from_numpy

        def counted(array: Any) -> Tensor:  # no mode sees it
            self.found["uploads"] += 1
            return from_numpy(array)

        self._patch = patch.object(torch, "from_numpy", counted)

    def __enter__(self) -> Counts:
        self._patch.start()
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._patch.stop()


class _Launches(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.counts = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        view = bool(made) and all(x.untyped_storage().data_ptr() in given for x in made) and not func._schema.is_mutable
        if not view and made and not str(func).startswith(_ALLOCATE):
            self.counts["launches"] += 1
        return out


class _Waits(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.counts = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        masked = name == "__getitem__" and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
        )
        self.counts["waits"] += masked or name in _READS
        self.counts["uploads"] += name == "tensor"
        return func(*args, **(kwargs or {}))


def beside(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure another checkout, then this one, each in a process; raises if they do not keep the same tokens."""
    here = Path(__file__).resolve().parents[1]
    rows: list[dict[str, Any]] = []
    for old, new in zip(*(_fresh(place, settings) for place in (folder.resolve(), here)), strict=True):
        if old["kept"] != new["kept"]:
            raise RuntimeError(f"the two checkouts keep other tokens: {new['method']}, keep {new['keep']}")
        told = {f"{key}_before": old[key] for key in ("launches", "waits", "uploads", "ms", "times_ms")}
        rows.append({**new, **told, "ratio": new["ms"] / old["ms"]})
    return rows


def _fresh(checkout: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps(settings)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the selection of {checkout} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        sys.path.pop(0)  # this folder, whose names are not to be found as top-level ones
        print(json.dumps(probe(json.loads(sys.argv[1]))))
    else:
        main()
