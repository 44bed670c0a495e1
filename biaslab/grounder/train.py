"""The training run: processes, stages, checkpoints, the learning curve, the exported folder."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from biaslab._util.processes import deaf_to_interrupts, end_with_parent
from biaslab._util.progress import progress_bar
from biaslab.errors import BiaslabError, InputError
from biaslab.grounder.batches import dense_targets, pack, pixels
from biaslab.grounder.model import build_tokenizer
from biaslab.grounder.network import TrainingGrounder
from biaslab.grounder.optimiser import MuonAdamW, check_torch
from biaslab.grounder.recipe import Recipe
from biaslab.grounder.training_folder import STAGES, TrainingFolder, claimed
from biaslab.scenes import expressions as ex
from biaslab.scenes.rendering import scene

# Both stages stream the train split; the decoder stage starts where the vision stage cannot reach.
_FIRST_SCENE = {"vision": 1_000_000, "decoder": 0}
_PATIENCE = timedelta(minutes=10)  # of a process with the others, before it gives up


def train_grounder(out: str | Path, *, recipe: Recipe = Recipe(), progress: bool = True) -> Path:
    """Train the grounder from the recipe's seed, or go on where an interrupted run left off.

    Parameters
    ----------
    out : path
        Folder for ``checkpoint.pt``, ``curve.jsonl`` and, at the end, ``weights.pt`` (float32).
    recipe : Recipe
        All that the weights follow from.
    progress : bool
        Show on stderr how far the training has come.

    Returns
    -------
    Path
        Of the trained float32 weights.

    Raises
    ------
    InputError
        Processes among which the batches cannot be shared out.
    RunFolderError
        If the folder cannot be written, holds a run of another recipe, or another process is training in it.
    BiaslabError
        If a process fails or dies; the same call goes on from the last checkpoint.
    UnsupportedError
        If this torch is older than 2.9 (``torch.optim.Muon``).

    Examples
    --------
    >>> from biaslab.grounder import Recipe, train_grounder
    >>> train_grounder("runs/grounder", recipe=Recipe(seed=1))  # hours on two cores  # doctest: +SKIP
    PosixPath('runs/grounder/weights.pt')

    What cannot be trained is refused before anything is written:

    >>> train_grounder("runs/grounder", recipe=Recipe(processes=3))
    Traceback (most recent call last):
    biaslab.errors.InputError: processes=3 cannot share batches of 16 and 8 scenes: choose one of 1, 2, 4, 8
    """
    check_torch()
    _check_shares(recipe)
    steps = recipe.vision_steps + recipe.decoder_steps
    with claimed(out, recipe) as folder:
        if not (folder / "weights.pt").exists():
            meeting_point = folder.resolve() / "rendezvous"
            meeting_point.unlink(missing_ok=True)  # of a killed run
            arguments = (recipe, str(folder.resolve()), str(meeting_point))
            done = _steps_made(folder / "curve.jsonl", recipe)
            try:
                with (
                    progress_bar("train", total=steps, done=done, show=progress) as advance,
                    _following(folder / "curve.jsonl", recipe, done, advance),
                ):
                    if recipe.processes == 1:
                        _process(0, *arguments)
                    else:
                        _spawn(arguments, recipe.processes)
            finally:
                meeting_point.unlink(missing_ok=True)
    return folder / "weights.pt"


def _check_shares(recipe: Recipe) -> None:
    """Refuse a number of processes among which a batch cannot be shared out whole."""
    batches = (recipe.vision_batch, recipe.decoder_batch, recipe.monitor_scenes)
    if recipe.processes < 1 or any(batch % recipe.processes for batch in batches):
        usable = [n for n in range(1, min(batches) + 1) if not any(batch % n for batch in batches)]
        raise InputError(
            f"processes={recipe.processes} cannot share batches of {recipe.vision_batch} and {recipe.decoder_batch} "
            f"scenes: choose one of {', '.join(map(str, usable))}"
        )


def _spawn(arguments: tuple, n: int) -> None:
    """Run the processes to their end; none of them outlives this call, however it ends."""
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    processes = [context.Process(target=_work, args=(failures, rank, *arguments), daemon=True) for rank in range(n)]
    started = []
    try:
        for process in processes:
            with deaf_to_interrupts():
                process.start()
            started.append(process)
        while running := [process.sentinel for process in processes if process.is_alive()]:
            wait(running)
            if any(process.exitcode for process in processes):  # the others would wait for it
                break
        if not failures.empty():
            raise BiaslabError(f"a process of the training failed: {failures.get()}")
        codes = [process.exitcode for process in processes]
        if any(codes):
            raise BiaslabError(
                f"a process of the training died (exit statuses {codes}): the same command goes on from the last "
                "checkpoint; use fewer processes if memory ran out"
            )
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()


def _work(failures: Any, rank: int, *arguments: Any) -> None:
    try:
        _process(rank, *arguments)
    except KeyboardInterrupt:
        return  # the parent was interrupted too, and reports it
    except BiaslabError as error:
        failures.put(str(error))
        raise SystemExit(1) from None
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}; the same command goes on from the last checkpoint")
        raise SystemExit(1) from None


@contextmanager
def _following(curve: Path, recipe: Recipe, done: int, advance: Callable[[int], None]) -> Iterator[None]:
    """Move the bar to the last step of the learning curve, which the first process writes, while the block lasts."""
    ended = Event()

    def follow() -> None:
        shown = done
        while not ended.wait(1.0):
            step = max(shown, _steps_made(curve, recipe))  # a resumed run repeats the steps since its checkpoint
            advance(step - shown)
            shown = step

    thread = Thread(target=follow, name="progress of the training", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _steps_made(curve: Path, recipe: Recipe) -> int:
    """Count the steps up to the last line of the learning curve, over both stages."""
    try:
        *_, last = curve.read_text(encoding="utf-8").splitlines()
        line = json.loads(last)
    except (OSError, ValueError):  # not there yet, or half a line
        return 0
    return line["step"] + (recipe.vision_steps if line["stage"] == "decoder" else 0)


def _process(rank: int, recipe: Recipe, out: str, meeting_point: str) -> None:
    end_with_parent()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # a store and no address: file://runs/grounder would be a host named runs, and be waited for without end
    store = dist.FileStore(meeting_point, recipe.processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=recipe.processes, timeout=_PATIENCE)
    try:
        _Run(rank, recipe, Path(out)).train()
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


class _Run:
    def __init__(self, rank: int, recipe: Recipe, out: Path):
        self.rank, self.recipe, self.folder = rank, recipe, TrainingFolder(out)
        torch.manual_seed(recipe.seed)
        self.net = TrainingGrounder(recipe, build_tokenizer())

    def train(self) -> None:
        checkpoint = self.folder.load_checkpoint(self.net)
        if self.rank == 0:
            self.folder.forget_after(checkpoint)
        masters: dict[str, torch.Tensor] = {}
        for stage in STAGES:
            if checkpoint and STAGES.index(checkpoint["stage"]) > STAGES.index(stage):
                continue
            resumed = checkpoint if checkpoint and checkpoint["stage"] == stage else None
            masters = self._run_stage(stage, resumed)
        if self.rank == 0:
            self.folder.save_weights(self.net, masters)

    def _run_stage(self, stage: str, resumed: dict | None) -> dict[str, torch.Tensor]:
        """Train one stage to its end; returns the float32 masters of what it trained."""
        r = self.recipe
        steps, muon, adamw = (
            (r.vision_steps, r.vision_muon, r.vision_adamw) if stage == "vision"
            else (r.decoder_steps, r.decoder_muon, r.decoder_adamw)
        )  # fmt: skip
        if stage == "decoder" and resumed is None:
            self.net.start_words_at_classes()
        tower = self.net.model.model.vision_tower
        tower.requires_grad_(stage == "vision")
        optimiser = MuonAdamW(
            self.net.named_parameters(stage),
            muon_rate=muon,
            adamw_rate=adamw,
            steps=steps,
            warmup=r.warmup,
            final_rate=r.final_rate,
        )
        if resumed:
            optimiser.restore(resumed["optimiser"])
        take = self._vision_step if stage == "vision" else self._decoder_step
        mean: dict[str, float] = {}
        while optimiser.step_number < steps:
            loss, measured = take(optimiser.step_number)
            loss.backward()
            optimiser.step()
            measured |= {"loss": float(loss.detach()), "gradient": optimiser.gradient_norm}
            mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in measured.items()}
            self._after_step(stage, optimiser, mean)
        self._checkpoint(stage, optimiser)
        return optimiser.masters

    def _scenes(self, stage: str, step: int, batch: int) -> list:
        share = batch // self.recipe.processes
        first = _FIRST_SCENE[stage] + step * batch + self.rank * share
        return [scene("train", first + k) for k in range(share)]

    def _vision_step(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        scenes = self._scenes("vision", step, self.recipe.vision_batch)
        visual = self.net.project(self.net.tower(pixels(scenes)))
        return self.net.dense_loss(visual, dense_targets(scenes, self.recipe.size.grid))

    def _decoder_step(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        r, net = self.recipe, self.net
        scenes = self._scenes("decoder", step, r.decoder_batch)
        mix = r.easy_mix if step < r.easy_share * r.decoder_steps else r.mix
        rng = np.random.default_rng([r.seed, 77, step, self.rank])
        packed = pack(scenes, net.dialogue, rng, questions=r.questions, length=r.branch_length, mix=mix)
        with torch.no_grad():
            features = net.tower(pixels(scenes))
        visual = net.project(features)
        logits, labels = net.logits(visual, packed)
        answer, gather = net.answer_loss(logits, labels), net.gather_loss(packed)
        dense, measured = net.dense_loss(visual, dense_targets(scenes, r.size.grid))
        with torch.no_grad():
            hit = float((_iou(*net.boxes(logits, labels)) >= 0.5).float().mean())
        measured = {"name": measured["name"], "answer": float(answer.detach()), "gather": float(gather.detach()),
                    "forced_acc50": hit}  # fmt: skip
        return answer + r.dense_weight * dense + r.gather_weight * gather, measured

    # ---- bookkeeping ---------------------------------------------------------------------------------------
    def _after_step(self, stage: str, optimiser: MuonAdamW, mean: dict[str, float]) -> None:
        r, step = self.recipe, optimiser.step_number
        if step % r.log_every == 0:
            self._note({"stage": stage, "step": step, **mean})
        if stage == "decoder" and step % r.monitor_every == 0:
            self._note({"stage": stage, "step": step, "monitor": self._monitor()})
        if step % r.checkpoint_every == 0:
            self._checkpoint(stage, optimiser)

    def _monitor(self) -> dict[str, float]:
        """Teacher-forced Acc@0.5 per expression type on the monitor split, the scenes shared among the processes."""
        r, net = self.recipe, self.net
        share = r.monitor_scenes // r.processes
        mine = [scene("monitor", self.rank * share + k) for k in range(share)]
        rng = np.random.default_rng([r.seed, 78])
        counts = torch.zeros(len(ex.EXPRESSION_TYPES), 2)
        with torch.no_grad():
            for k in range(0, share, 8):
                part = mine[k : k + 8]
                packed = pack(part, net.dialogue, rng, questions=r.questions, length=r.branch_length, mix=r.mix)
                logits, labels = net.logits(net.project(net.tower(pixels(part))), packed)
                hit = _iou(*net.boxes(logits, labels)) >= 0.5
                first = packed.labels == labels[0]  # an answer starts with [[, once
                types = packed.expression_type[first]
                for row in range(len(ex.EXPRESSION_TYPES)):
                    counts[row] += torch.tensor([float(hit[types == row].sum()), float((types == row).sum())])
        dist.all_reduce(counts)
        out = {k: round(float(c[0] / c[1]), 4) for k, c in zip(ex.EXPRESSION_TYPES, counts, strict=True)}
        return out | {"all": round(float(counts[:, 0].sum() / counts[:, 1].sum()), 4), "n": int(counts[:, 1].sum())}

    def _note(self, line: dict) -> None:
        if self.rank == 0:
            self.folder.note(line)

    def _checkpoint(self, stage: str, optimiser: MuonAdamW) -> None:
        if self.rank == 0:
            self.folder.save_checkpoint(stage, optimiser, self.net)


def _iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    size = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    both = size.prod(1)
    areas = [(v[:, 2:] - v[:, :2]).clamp(min=0).prod(1) for v in (a, b)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-6)
