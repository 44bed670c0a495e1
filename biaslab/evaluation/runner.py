"""Evaluates localization accuracy over methods, keep ratios and layers, resumably."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from biaslab._util.arguments import as_path, at_least_one, whole_number
from biaslab._util.files import writing_to
from biaslab._util.launch import Launch
from biaslab._util.progress import progress_bar
from biaslab._util.seats import party_of, seat, turn
from biaslab.datasets.base import check_pictures, take
from biaslab.datasets.question import are_questions
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.decoding.ways import check_way
from biaslab.evaluation.failures import cut_answers, failed_lines, failures
from biaslab.evaluation.line_heads import read_heads
from biaslab.evaluation.local_processes import run_processes
from biaslab.evaluation.matching import matched_configurations
from biaslab.evaluation.most_tokens import most_tokens
from biaslab.evaluation.on_ray import import_ray, run_on_ray
from biaslab.evaluation.results import TABLE_FILE, Results, read_samples
from biaslab.evaluation.run_folder import RUN_FILE, note_command, prepare_folder, profiles_of, read_run, run_record
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sharing import Plan, share_of_cores, useful_processes
from biaslab.evaluation.worker import WorkItem, by_image
from biaslab.models.expected import expect_model
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.models.preparing import check_workers, default_workers
from biaslab.models.prune_layer import prune_layers
from biaslab.pruning import Method, Schedule
from biaslab.pruning.engine.prune import engaged
from biaslab.pruning.keep_counts import warn_of_counts

if TYPE_CHECKING:
    from biaslab.datasets import Dataset
    from biaslab.evaluation.configurations import Profiles
    from biaslab.models.vlm import VLM

DEFAULT_REFERENCE = "random"
ENGINES = ("local", "ray")

logger = logging.getLogger(__name__)


def evaluate(
    vlm: VLM,
    dataset: Dataset,
    *,
    methods: Sequence[str | Method | Schedule] | str | Method | Schedule,
    keep: float | int | Sequence[float | int] = 0.1,
    layer: int | Sequence[int] | None = None,
    profile: Profiles = None,
    n: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    processes: int | None = None,
    engine: str = "local",
    gpus_per_process: float | None = None,
    launch: Launch | None = None,
    reference: str | None = DEFAULT_REFERENCE,
    max_new_tokens: int | None = None,
    positions: str = "original",
    n_resamples: int = 2000,
    retry_errors: bool = False,
    match: str | None = None,
    plain: bool = False,
    decode: str = "dynamic",
    cache: str = "full",
    command: Mapping[str, Any] | None = None,
) -> Results:
    """Measure Acc@0.5 of every method at every keep ratio and layer, on the same samples.

    Of a data set of questions it measures the share of right answers.

    Parameters
    ----------
    vlm : VLM
        The model.
    dataset : Dataset
        Referring expressions, or questions (:class:`biaslab.datasets.Question`); see :mod:`biaslab.datasets`.
    methods : str, Method or sequence of these
        Names (``biaslab.pruning.METHODS``), with options as on the command line
        (``"d2pruner:pivots_suppress=true"``), or instances; their own ``keep`` is replaced. ``"none"`` is the
        unpruned model, evaluated once; with it the table has retentions. A schedule of several cuts, as one word such
        as ``"divprune@0.4@2+d2pruner:theta=0.7@0.06@4"`` or a ``bl.pruning.Schedule``, is one configuration with its
        own keeps and layers, to which ``keep`` and ``layer`` do not apply.
    keep : float, int or sequence of these
        Ratios in (0, 1] or counts of visual tokens.
    layer : int or sequence of int, optional
        Prune layers K: tokens are dropped just before decoder layer index K, -1 the last. Default: from the model's
        geometry (:func:`biaslab.models.prune_layer.default_prune_layer`), 4 of the grounder, 2 of most large models.
    profile : Profile or sequence of these, optional
        For the methods that need one and have none.
    n : int, optional
        Use the first n samples only.
    batch_size : int
        Samples per forward.
    seed : int
        Run seed; every sample derives its own from it and from its id, so results do not depend on batches or
        processes (up to floating-point ties).
    out : str or Path, optional
        Run folder. The same call continues an interrupted run there and does nothing for a finished one; a call with
        more methods, keep ratios, layers or samples adds what is missing, and the results are those of all of them.
        Default: nothing is kept on disk.
    progress : bool
        Show a progress bar on stderr.
    workers : int, optional
        Threads that open and cut the images of the next batches while the model works on one, two batches ahead; 0
        for none. With two or more a data set of your own is asked for several images at a time. Default: up to 4
        where the model is on a GPU, else none; on Ray none. The results are the same.
    processes : int, optional
        Processes on this machine, each with a copy of the model: on the CPU with its share of the cores, where the
        model is on a GPU on a GPU of its own; no more than there are images and cores or GPUs. One that dies is
        started again. A script must then call this under ``if __name__ == "__main__"``. Default: 1, or with Ray as
        many as the cluster has GPUs for.
    engine : {"local", "ray"}
        Where the processes are: on this machine, or actors of the Ray cluster that is running (one of this machine is
        started where none is). Needs the extra ``biaslab[ray]``.
    gpus_per_process : float, optional
        GPUs of an actor of Ray, such as 0.5; default: 1 where the cluster has any.
    launch : Launch, optional
        Which process of how many this one is. Default: what torchrun, ``accelerate launch`` or ``srun`` say. Each
        process then evaluates its share of the images into its own log in ``out``, none waits for another, and the one
        that finds the run complete writes the table. ``Launch()`` evaluates all of it in a process of a launcher.
    reference : str, optional
        Method that the p-values compare with, at the same keep and layer; ``"none"`` is the unpruned model. The
        default is left out where ``random`` is not among the methods.
    max_new_tokens : int, optional
        Length limit of an answer; default: that of the run in ``out``, 128 for a new one. Answers that are cut there
        before they hold a whole box are misses, counted as ``truncated`` and warned of.
    positions : {"original", "renumber", "remap"}
        Position ids of the kept tokens; see :func:`biaslab.pruning.prune`.
    n_resamples : int
        Resamples of the intervals.
    retry_errors : bool
        When continuing, try samples again that ended in an error.
    match : str, optional
        ``"mean-share"`` (of the visual tokens, over the decoder layers) or ``"flops"`` (of the decoder's prefill):
        `keep` is that of the smallest layer, and every other layer gets the keep at which it costs the same
        (:mod:`biaslab.evaluation.matching`). ``"mean-share=0.2"`` and ``"flops=1.5"`` (TFLOPs) name the cost
        themselves, in place of `keep`.
    plain : bool
        Run the model once for every configuration instead of sharing what configurations have in common: the
        reference, several times slower (``benchmarks/results/sweep.md``), with the same answers. Only here do the lines
        tell times, ``prefill_ms`` and ``decode_ms``.
    cache : {"full", "trimmed"}
        What layers below K hold of the prompt while an answer is generated; see :func:`biaslab.pruning.prune`. With
        "trimmed" configurations share nothing, as with ``plain``.
    command : mapping, optional
        Noted in ``run.json``; the command line passes its own.

    Returns
    -------
    Results
        ``.table`` (the columns of ``results.csv``), ``.samples``, ``.folder``.

    Raises
    ------
    InputError, UnsupportedError
        Bad arguments, or what the pruning engine cannot do right in this model.
    ProfileMismatchError
        A profile of another model, layer or query rule.
    RunFolderError
        ``out`` cannot be written, or holds a run of another model, data, seed, precision or decoding. All of these
        come before any work.

    Notes
    -----
    An exception, a missing or a damaged image costs the sample it belongs to and is counted in
    ``errors``, never as a miss; ``results.failures`` says how many and why, ``results.unanswered`` which configurations
    have no verdict at all. A ``KeyboardInterrupt`` passes through; all finished lines are on disk and
    the same call continues.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = bl.load_dataset("scenes", n=3)
    >>> results = bl.evaluate(
    ...     bl.load("grounder"), scenes, methods=["none", "fastv", "fastv:score=no_rope"], keep=0.5, layer=4,
    ...     progress=False,
    ... )
    >>> results.summary()[["method", "keep", "layer", "n", "acc50"]]
                    method  keep  layer  n  acc50
    0                 none   1.0   <NA>  3    1.0
    1                fastv   0.5      4  3    1.0
    2  fastv:score=no_rope   0.5      4  3    1.0
    """
    launch = Launch.from_environment() if launch is None else launch
    expect_model(vlm)
    expect_dataset(dataset)
    out = None if out is None else as_path("out", out)
    n = None if n is None else at_least_one("n", n)
    at_least_one("batch_size", batch_size)
    check_workers(workers)
    processes = None if processes is None else at_least_one("processes", processes)
    _check_engine(engine, gpus_per_process)
    _check_launch(launch, processes, engine, out)
    limit = default_limit(out) if max_new_tokens is None else at_least_one("max_new_tokens", max_new_tokens)
    options = GenerationOptions(
        whole_number("seed", seed), limit, positions, plain, check_way(decode, vlm.device), cache
    )
    layers = prune_layers(vlm, layer)
    configs = configurations(methods, keep, layers, profile, model=vlm)  # refusals come before samples are looked at
    samples = take(dataset, n)
    if match is not None:
        configs = matched_configurations(vlm, samples, methods, keep, layers, profile, match)
    reference = check_reference(reference, configs, out)
    check_configurations(vlm, configs, options)
    record = run_record(
        vlm,
        dataset,
        configs,
        # `n` under its name in run.json, or earlier runs could not be continued
        options={**options.recorded(), "limit": n, "image_options": vlm.image_options},
        settings={
            "batch_size": batch_size,
            "processes": processes or launch.world_size,
            "workers": workers,
            "reference": reference,
            "plain": plain,
            "decode": decode,
            "n_layers": vlm.n_layers,
        },
        command=command,
    )
    record["n_samples"] = len(samples)
    if are_questions(samples):
        record["identity"]["dataset"]["task"] = "questions"
    threads = (
        default_workers(vlm.device, processes=processes or launch.local_world_size) if workers is None else workers
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
        party = party_of(launch, record["identity"], record["n_samples"])
        plan = Plan(configs, options, batch_size, folder.absolute(), party, threads)
        with writing_to(f"the run folder {folder}", "choose another one"):
            folder.mkdir(parents=True, exist_ok=True)
        with turn(folder):
            # from the first look at the folder to the table: a second command may ask for other configurations
            stack.enter_context(seat(folder, plan.party, launch.writer))
            run = prepare_folder(folder, record, profiles_of(configs), samples)
        known = read_heads(folder, run)
        earlier = set() if retry_errors else failed_lines(known)
        tasks = missing_tasks(samples, configs, known[known["error"].isna()] if retry_errors else known)
        done = len(samples) * len(configs) - sum(len(task.missing) for task in tasks)
        mine = [task for task in tasks if launch.takes(task.sample.image_id)]
        if mine:
            check_pictures(samples)
            if launch.rank == 0:
                _warn_of_counts(vlm, samples, configs)
            with turn(folder):
                run = note_command(folder, read_run(folder), command)
            with _progress(mine, launch, done=done, show=progress) as advance:
                if engine == "ray":
                    run_on_ray(vlm, plan, mine, processes=processes, gpus=gpus_per_process, advance=advance)
                else:
                    _run_here(vlm, plan, mine, launch, processes=processes or 1, advance=advance)
        if not (folder / RUN_FILE).is_file():
            raise RunFolderError(
                f"{folder} was moved or removed while the run went on, and what was finished went with it: put it "
                "back, the same command goes on"
            )
        lines = read_samples(folder, run) if out is None else None  # a folder that goes away is read now
        results = Results(lines, run, None if out is None else folder, reference=reference, n_resamples=n_resamples)
        if out is not None:
            results.is_main = _saved(results, launch, had_work=bool(tasks))
    results.failures = failures(results.verdicts, earlier)
    if not results.is_main:
        if not results.complete:
            logger.warning(
                "own share done: %d of %d sample runs of all ranks are in, the one that ends last writes the results",
                len(results.verdicts), run["n_samples"] * len(run["identity"]["configurations"]),
            )  # fmt: skip
        return results
    cut = cut_answers(results.verdicts, options.max_new_tokens)
    for line in (results.failures, cut, results.lacking):
        if line:
            logger.warning("%s", line)
    return results


def _check_engine(engine: str, gpus: float | None) -> None:
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "ray":
        import_ray()
    elif gpus is not None:
        raise InputError("gpus_per_process is for engine='ray': here each process has one GPU, leave it out")


def _check_launch(launch: Launch, processes: int | None, engine: str, out: Path | None) -> None:
    if launch.alone:
        return
    if engine == "ray" or (processes or 1) > 1:
        raise InputError(
            f"processes > 1 and engine='ray' start processes by themselves, and this is {launch} already: leave them "
            "out, or start without a launcher"
        )
    if out is None:
        raise InputError(f"{launch} meets the others in a run folder: pass out, where all of them can write")


@contextmanager
def _progress(tasks: Sequence[WorkItem], launch: Launch, *, done: int, show: bool) -> Iterator[Callable[[int], None]]:
    """Show how far the run has come, of several ranks each its own share."""
    phase, total = "evaluate", sum(len(task.missing) for task in tasks)
    if launch.alone:
        total += done
    else:
        phase, done = "evaluate, own share", 0
        show = show and (launch.rank == 0 or not sys.stderr.isatty())  # bars of several would overwrite each other
    with progress_bar(phase, total=total, done=done, show=show) as advance:
        yield advance


def _run_here(
    vlm: VLM,
    plan: Plan,
    tasks: Sequence[WorkItem],
    launch: Launch,
    *,
    processes: int,
    advance: Callable[[int], None],
) -> None:
    """Evaluate tasks on this machine: in this process, or in several that it starts."""
    devices = torch.cuda.device_count() if vlm.device.type == "cuda" else None
    used = useful_processes(processes, len(by_image(tasks)), devices)
    if used > 1:
        run_processes(vlm, plan, tasks, processes=used, advance=advance)
    else:
        with share_of_cores(vlm.device, launch.local_world_size):
            plan.run(vlm, tasks, launch.writer, advance)


def _saved(results: Results, launch: Launch, *, had_work: bool) -> bool:
    """Write the table if it is this process's to write; tells whether it speaks for the run."""
    assert results.folder is not None
    if launch.alone:
        results.save()
        return True
    if not results.complete:
        return False
    with turn(results.folder):  # two ranks may find the run complete: the first one speaks
        path = results.folder / TABLE_FILE
        before = path.stat().st_mtime_ns if path.exists() else None
        results.save()
        return path.stat().st_mtime_ns != before or (not had_work and launch.rank == 0)


def expect_dataset(dataset: Any) -> None:
    """Refuse what is no data set, such as a path or a list of samples."""
    if missing := [name for name in ("name", "split", "hash", "__len__", "__iter__") if not hasattr(dataset, name)]:
        raise InputError(
            f"dataset must be a data set, got {type(dataset).__name__} (without {', '.join(missing)}): pass "
            "bl.load_dataset(name or file), or an object as biaslab.datasets.Dataset describes it"
        )


def check_configurations(vlm: VLM, configs: Sequence[Config], options: GenerationOptions) -> None:
    """Let the pruning engine refuse what cannot be right (layer, profile, attention windows), before any work."""
    for config in configs:
        if config.method is not None:
            with engaged(vlm, **config.engagement, **options.engagement):
                pass


def _warn_of_counts(vlm: VLM, samples: Sequence[Sample], configs: Sequence[Config]) -> None:
    """Warn, once for the run, of counts of tokens that no image has."""
    keeps = [keep for config in configs for keep in config.keeps]
    counts = [keep for keep in keeps if isinstance(keep, int)]
    if counts:
        warn_of_counts(counts, most_tokens(vlm, samples, max(counts)), stacklevel=3)


def check_reference(reference: str | None, configs: Sequence[Config], out: str | Path | None = None) -> str | None:
    """Return the reference method, or None if the default one is among neither the methods nor those of the run.

    Raises
    ------
    InputError
        A reference that was asked for is not among the methods.
    """
    records = [config.describe() for config in configs]
    if out is not None and (Path(out) / RUN_FILE).is_file():
        records += read_run(out)["identity"]["configurations"]
    names = list(dict.fromkeys(record["method"] for record in records))
    if reference is None or reference in names:
        return reference
    if reference == DEFAULT_REFERENCE:
        return None
    raise InputError(f"reference {reference!r} is not among the methods: choose one of {', '.join(names)}")


def missing_tasks(samples: Sequence[Sample], configs: Sequence[Config], lines: pd.DataFrame) -> list[WorkItem]:
    """List what a run still lacks, beside the lines it has."""
    places = {sample.id: index for index, sample in enumerate(samples)}
    numbers = {config.key: i for i, config in enumerate(configs)}
    lacks = np.ones((len(places), len(numbers)), bool)
    place, number = (_numbers_of(lines[name], known) for name, known in (("id", places), ("key", numbers)))
    here = (place >= 0) & (number >= 0)
    lacks[place[here], number[here]] = False
    return [
        WorkItem(index, samples[index], tuple(np.flatnonzero(lacks[index]).tolist()))
        for index in np.flatnonzero(lacks.any(1)).tolist()
    ]


def _numbers_of(column: pd.Series, known: Mapping[str, int]) -> np.ndarray:
    """Translate a column of names; -1 for what is not known."""
    names = column.astype("category").cat
    return np.array([known.get(name, -1) for name in names.categories] + [-1])[names.codes]


def default_limit(out: str | Path | None) -> int:
    """Return the limit of new tokens that the run in a folder has, or the default one of a new run."""
    if out is None or not (Path(out) / RUN_FILE).is_file():
        return MAX_NEW_TOKENS
    known = read_run(out)["identity"]["options"].get("max_new_tokens", MAX_NEW_TOKENS)
    if known != MAX_NEW_TOKENS:
        logger.info("%s goes on with its limit of %d new tokens per answer", out, known)
    return known
