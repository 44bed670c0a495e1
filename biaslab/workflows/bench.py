"""Prefill and decode time and peak memory of pruning methods, against what FLOPs promise and an answer allows."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from biaslab import __version__
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.jsonable import records
from biaslab._util.progress import progress_bar
from biaslab._util.tables import write_table
from biaslab.cost import Flops
from biaslab.errors import InputError
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.decoding.ways import check_way
from biaslab.evaluation.run_once import GenerationOptions, OneRun, run_once
from biaslab.evaluation.runner import check_configurations
from biaslab.evaluation.stopwatch import GenerationTimer, cuda_devices, extra_peak, interleaved
from biaslab.models.prune_layer import prune_layers
from biaslab.pruning import Method, Random, Schedule
from biaslab.pruning.engine.vision import tower_request, with_tower
from biaslab.pruning.keep_counts import warn_of_counts
from biaslab.workflows.bench_table import bench_latex, bench_table

if TYPE_CHECKING:
    from biaslab.attention.vision_record import VisionRequest
    from biaslab.datasets.calibration import Calibration
    from biaslab.evaluation.configurations import Profiles
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["BenchResult", "bench"]


@dataclass(frozen=True)
class BenchResult:
    """The measurements of a benchmark.

    Attributes
    ----------
    table : DataFrame
        One row per configuration, the unpruned model first; see :func:`biaslab.workflows.bench_table.bench_table`.
    runs : DataFrame
        One row per batch of images, round and configuration: the times behind the medians.
    settings : dict
        Model, machine and options; ``failed``: configurations that could not be measured, with the reason.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def records(self) -> list[dict[str, Any]]:
        """Return the table as plain values, None for what was not measured."""
        return records(self.table)

    def save(self, out: str | Path) -> list[Path]:
        """Write ``bench.csv``, ``bench-runs.csv``, ``bench.tex`` and ``bench.json`` (settings) into a folder.

        Parameters
        ----------
        out : str or Path
            The folder.

        Returns
        -------
        list of Path
            The four files.

        Raises
        ------
        RunFolderError
            The place cannot be written.
        """
        folder = Path(out)
        settings = folder / "bench.json"
        latex = bench_latex(self.table, self.settings)
        with writing_to(folder):
            table, tex = write_table(self.table, folder / "bench", self.settings, latex=latex)
            (runs,) = write_table(self.runs, folder / "bench-runs", self.settings)
            atomic_write(settings, json.dumps(self.settings, indent=1, default=str) + "\n")
        return [table, runs, tex, settings]


def bench(
    vlm: VLM,
    images: Calibration,
    *,
    methods: Sequence[str | Method | Schedule],
    keep: float | int | Sequence[float | int],
    layer: int | Sequence[int] | None = None,
    profile: Profiles = None,
    batch_size: int = 1,
    seed: int = 0,
    progress: bool = True,
    repeats: int = 5,
    warmup: int = 1,
    new_tokens: int = 16,
    memory: bool = True,
    decode: str = "dynamic",
    cache: str = "full",
) -> BenchResult:
    """Time every method on the same prompts, taking turns.

    Parameters
    ----------
    vlm : VLM
        The model.
    images : Calibration
        Images with their prompts; see :func:`biaslab.datasets.calibration.calibration`.
    methods : sequence of str, Method or Schedule
        Pruning methods, as in :func:`biaslab.evaluation.runner.evaluate`. The unpruned model is always measured, as
        the reference of the others. Limits of a schedule are those of its first layer.
    keep : float, int, or a sequence of them
        Keep ratios in (0, 1], or counts of visual tokens per image.
    layer : int or sequence of int, optional
        Prune layers K: tokens are dropped just before layer K, -1 the last; default: from the model's geometry.
    profile : Profile or sequence of these, optional
        The fitted profile of methods that debias.
    batch_size : int
        Images per forward.
    seed : int
        Seed of random methods.
    progress : bool
        Show a progress bar.
    repeats, warmup : int
        Rounds per batch of images that count, and before them.
    new_tokens : int
        Length of every answer, end tokens suppressed, so that decode times can be compared.
    memory : bool
        Measure peak memory too, in one more run of each configuration on the longest prompts.
    decode : {"dynamic", "static", "graph"}
        How the tokens after the first are made, as in :func:`biaslab.evaluation.runner.evaluate`. A configuration's
        graph is captured at its fourth step and used again in later rounds: let a round with as many tokens warm up.
    cache : {"full", "trimmed"}
        What layers below K hold of the prompt while an answer is generated; see :func:`biaslab.pruning.prune`.

    Returns
    -------
    BenchResult
        Table, single runs and settings.

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        Bad arguments, or what the pruning engine cannot do right in this model; before any work.

    Notes
    -----
    Prefill is everything up to the first token: attention rows, scoring, selection and cutting included (also
    reported apart, by the engine's own clock). The vision tower is timed apart, in every round once as it is and once
    for each thing that methods read of it: what recording it takes (``record_ms``) is part of these methods' answers.

    Beside every speed-up stands its limit, by Amdahl's law: what an answer would gain if the layers from K on took no
    time, and decoding what it takes with one visual token of each image left from layer K on, which is one more run for
    each K and round (:mod:`biaslab.workflows.bench_limits`). The unpruned prefill is split at the beginning of layer K.
    Limits are of medians: a speed-up close to its limit may pass it by the noise of the clock.

    Examples
    --------
    Times differ from machine to machine, the speed-up that FLOPs promise does not:

    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> scenes = bl.calibration(vlm, "scenes", n=1)
    >>> result = bl.bench(vlm, scenes, methods=["random"], keep=0.1, layer=2, repeats=1, warmup=0, new_tokens=2,
    ...                   memory=False, progress=False)
    >>> result.table[["method", "keep", "layer", "flops_prefill"]].round(2)
       method  keep  layer  flops_prefill
    0    none   1.0   <NA>           1.00
    1  random   0.1      2           3.07
    """
    for name, value, least in (
        ("repeats", repeats, 1), ("warmup", warmup, 0), ("new_tokens", new_tokens, 2), ("batch_size", batch_size, 1),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    failed: dict[int, str] = {}
    configs = _with_unpruned(configurations(methods, keep, prune_layers(vlm, layer), profile, model=vlm))
    options = GenerationOptions(seed, new_tokens, decode=check_way(decode, vlm.device), cache=cache)
    check_configurations(vlm, configs, options)
    batches = list(_batches(vlm, images, batch_size))
    most = max((layout.n for encoded in batches for layout in encoded.layouts), default=0)
    warn_of_counts((keep for config in configs for keep in config.keeps), most)
    tasks = [*configs, *_floors(configs)]
    requests = [tower_request(vlm, [task.method]) for task in tasks]
    total, runs, costs = len(batches) * (repeats + warmup) * (len(tasks) + len(set(requests))), [], []
    with progress_bar("bench", total=total, show=progress) as advance:
        for number, encoded in enumerate(batches):
            rows, spent = _timed(vlm, encoded, tasks, requests, options, repeats, warmup, advance, failed)
            runs += [{"batch": number} | row for row in _with_layer_times(rows, tasks, len(configs))]
            costs.append(spent)
    longest = max(batches, key=lambda encoded: encoded.last)
    peaks = [
        _tried(failed, i, partial(_peak, vlm, longest, config, options)) if memory else {}
        for i, config in enumerate(configs)
    ]
    left = [i for i in range(len(configs)) if i not in failed]
    frame = pd.DataFrame([row | {"config": left.index(row["config"])} for row in runs if row["config"] in left])
    frame = frame.astype({"below_ms": float, "floor_decode_ms": float})  # None where there is no K
    settings = _settings(vlm, images, batches, repeats, options, batch_size)
    settings["failed"] = {_name(tasks[i]): why for i, why in failed.items()}
    table = bench_table(
        frame, [configs[i] for i in left], costs=[[batch[i] for i in left] for batch in costs],
        peaks=[peaks[i] for i in left],
    )  # fmt: skip
    return BenchResult(table, frame, settings)


def _tried(failed: dict[int, str], which: int, work: Callable[[], Any]) -> Any:
    """Return what ``work()`` does; None for a configuration that has failed, now or before.

    The unpruned model's failure is the benchmark's own: it is what the others are measured against.
    """
    if which in failed:
        return None
    try:
        return work()
    except Exception as error:
        if which == 0:
            raise
        failed[which] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return None


def _name(config: Config) -> str:
    if config.method is None or len(config.stages) > 1:
        return config.label
    return f"{config.label} keep {config.method.keep:g} layer {config.layer}"


def _with_unpruned(configs: list[Config]) -> list[Config]:
    """Put the unpruned model first."""
    return [Config(None, None), *(c for c in configs if c.method is not None)]


def _floors(configs: Sequence[Config]) -> list[Config]:
    """One configuration for each K that leaves as little as any can: decoding is nowhere shorter."""
    return [Config(Random(keep=1), layer) for layer in sorted({c.layer for c in configs if c.layer is not None})]


def _batches(vlm: VLM, images: Calibration, size: int) -> Iterator[Encoded]:
    prompts = images.prompts if isinstance(images.prompts, list) else [images.prompts] * len(images.images)
    ids = images.ids or [str(i) for i in range(len(prompts))]
    for first in range(0, len(prompts), size):
        part = slice(first, first + size)
        yield vlm.encode(list(images.images[part]), prompts[part], sample_ids=ids[part])


def _timed(
    vlm: VLM, encoded: Encoded, tasks: list[Config], requests: Sequence[VisionRequest | None],
    options: GenerationOptions, repeats: int, warmup: int, advance: Callable[[int], Any], failed: dict[int, str],
) -> tuple[list[dict[str, Any]], list[Flops | None]]:  # fmt: skip
    """All rounds of one batch of images: times by round and configuration, FLOPs by configuration."""
    ready, rows, vision = with_tower(vlm, encoded, [task.method for task in tasks]), [], {}
    reading = {request: task.method for request, task in zip(requests, tasks, strict=True)}  # None: nothing is read
    graphs = None
    if options.decode == "graph":
        from biaslab.evaluation.decoding.step_graph import GraphedStates  # pulls in transformers

        graphs = GraphedStates(most=len(tasks))
    costs: list[Flops | None] = [None] * len(tasks)
    layers = sorted({task.layer for task in tasks if task.layer is not None})
    for turn, which in interleaved([*reading, *range(len(tasks))], repeats, warmup):
        advance(1)
        if not isinstance(which, int):
            vision[turn, which] = _vision_ms(vlm, encoded, reading[which])
            continue
        marks = layers if tasks[which].method is None else ()
        task = partial(
            run_once, vlm, ready, tasks[which], options, full_length=True, timed=True, graphs=graphs, marks=marks
        )
        run = _tried(failed, which, task)
        if run is None:
            continue
        rows.append({"round": turn, "config": which, **_times(run)})
        costs[which] = _sum(run.flops)  # the same in every round
    for row in rows:
        row["vision_ms"] = vision[row["round"], requests[row["config"]]]
    return [row for row in rows if row["round"] >= 0], costs


def _with_layer_times(rows: list[dict[str, Any]], tasks: Sequence[Config], n: int) -> list[dict[str, Any]]:
    """Rows of the first ``n`` tasks, each with what an unpruned answer took at its K in the same round."""
    begun = {row["round"]: row["below"] for row in rows if row["config"] == 0}
    floors = {(row["round"], tasks[row["config"]].layer): row["decode_ms"] for row in rows if row["config"] >= n}
    joined = []
    for row in (row for row in rows if row["config"] < n):
        turn, layer = row["round"], tasks[row["config"]].layer
        times = {"below_ms": begun[turn].get(layer), "floor_decode_ms": floors.get((turn, layer))}
        joined.append({name: value for name, value in row.items() if name != "below"} | times)
    return joined


def _times(run: OneRun) -> dict[str, Any]:
    return {
        "prefill_ms": run.timer.prefill_ms,
        "decode_ms": run.timer.decode_ms,
        "below": run.timer.below_ms,
        "attention_ms": run.selection_times.get("attention_ms", 0.0),
        "select_ms": run.selection_times.get("select_ms", 0.0),
    }


def _sum(flops: Sequence[Flops | None]) -> Flops | None:
    """Sum over the batch; None for a model whose cost is not known."""
    if any(f is None for f in flops):
        return None
    return Flops(*(sum(getattr(f, part) for f in flops) for part in ("vision", "projector", "decoder", "decode")))


def _vision_ms(vlm: VLM, encoded: Encoded, method: Method | Schedule | None) -> float:
    """Time of vision tower and projector, and of recording what a method reads of the tower."""
    timer = GenerationTimer(vlm.model, vlm.decoder)
    start = timer.now()
    with_tower(vlm, encoded, [method])
    return 1e3 * (timer.now() - start)


def _peak(vlm: VLM, encoded: Encoded, config: Config, options: GenerationOptions) -> dict[str, float | None]:
    """Peak memory of one answer from features made before, in MiB.

    ``extra_mb`` is what it takes over the idle model: on CUDA as the allocator counts, on a CPU the resident memory
    of this process (None where the kernel does not tell). ``peak_mb`` is all that tensors held, on CUDA only.
    """
    task = partial(
        run_once, vlm, with_tower(vlm, encoded, [config.method]), config, options, full_length=True, timed=True
    )
    devices = cuda_devices(vlm.model)
    if not devices:
        return {"extra_mb": extra_peak(task, warm=task), "peak_mb": None}
    idle = sum(torch.cuda.memory_allocated(device) for device in devices)
    peak = task().timer.peak_mb
    return {"extra_mb": None if peak is None else peak - idle / 2**20, "peak_mb": peak}


def _settings(
    vlm: VLM, images: Calibration, batches: Sequence[Encoded], repeats: int, options: GenerationOptions, batch_size: int
) -> dict[str, Any]:
    parameter = next(vlm.model.parameters())
    device = parameter.device
    counts = [layout.n for encoded in batches for layout in encoded.layouts]
    return {
        "model": vlm.name,
        "revision": vlm.revision,
        "fingerprint": vlm.fingerprint,
        "family": vlm.family.name,
        **vlm.loading,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "images": images.name,
        "n": len(counts),
        "visual_tokens": {"min": min(counts), "median": float(pd.Series(counts).median()), "max": max(counts)},
        "batch_size": batch_size,
        "new_tokens": options.max_new_tokens,
        "decode": options.decode,
        "cache": options.cache,
        "repeats": repeats,
        "seed": options.seed,
        "torch": torch.__version__,
        "biaslab": __version__,
    }
