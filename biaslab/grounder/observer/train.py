"""The training run of the observer: stages, threads, checkpoints, the learning curve."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biaslab._util.progress import progress_bar
from biaslab.errors import InputError
from biaslab.grounder.observer.batches import N_BOXES, TASKS, Batch, pack
from biaslab.grounder.observer.network import TrainingObserver
from biaslab.grounder.observer.recipe import FULL_RECIPE, ObserverRecipe
from biaslab.grounder.observer.start import Start, start_of
from biaslab.grounder.observer.supply import batches
from biaslab.grounder.optimiser import MuonAdamW, check_torch
from biaslab.grounder.training_folder import TrainingFolder, claimed
from biaslab.scenes.gallery import picture


def train_observer(
    out: str | Path,
    *,
    recipe: ObserverRecipe = FULL_RECIPE,
    start: str | Path | None = None,
    device: str | None = None,
    threads: int = 2,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Train the observer from the recipe's seed, or go on where an interrupted run left off.

    On a CPU each step's images are shared by ``threads`` threads of one core each: on small matrices that is faster
    than products spread over cores, and it bears other work on the machine. How many they are is part of the result
    (averages are taken over each share), as is the device, to rounding; how many workers draw is not.

    Parameters
    ----------
    out : path
        Folder for ``recipe.json``, ``checkpoint.pt``, ``curve.jsonl`` and, at the end, ``weights.pt`` (float32).
    recipe : ObserverRecipe
        All that the weights follow from. A `leg` above 0 goes on from given weights.
    start : path, optional
        Exported folder of the leg before (or "observer", the embedded one) whose weights a further leg of the decoder
        stage begins with; the optimiser begins anew, and there is no vision stage.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
    threads : int
        Shares that a step is cut into on a CPU.
    workers : int
        Processes that draw images ahead; 0 for none.
    progress : bool
        Show on stderr how far the training has come.

    Returns
    -------
    Path
        Of the trained float32 weights.

    Raises
    ------
    InputError
        Threads below 1, workers below 0, or a start that is not of the leg before.
    RunFolderError
        If the folder cannot be written, holds a run of another recipe, or another process is training in it.
    BiaslabError
        If a worker dies; the same call goes on from the last checkpoint.
    UnsupportedError
        If this torch is older than 2.9 (``torch.optim.Muon``).

    Examples
    --------
    >>> from biaslab.grounder.observer import ObserverRecipe, train_observer
    >>> train_observer("runs/observer", recipe=ObserverRecipe(seed=1))  # hours on two cores  # doctest: +SKIP
    PosixPath('runs/observer/weights.pt')

    What cannot be trained is refused before anything is written:

    >>> train_observer("runs/observer", threads=0)
    Traceback (most recent call last):
    biaslab.errors.InputError: threads=0, workers=1: give at least 1 thread and no fewer than 0 workers
    """
    check_torch()
    if threads < 1 or workers < 0:
        raise InputError(f"threads={threads}, workers={workers}: give at least 1 thread and no fewer than 0 workers")
    before = None if start is None else start_of(start)
    if recipe.leg != (0 if before is None else before.leg + 1):
        raise InputError(
            f"leg {recipe.leg} of the training needs --from a folder of leg {recipe.leg - 1}"
            + (", none is given" if before is None else f", {start} is of leg {before.leg}")
        )
    with claimed(out, recipe) as folder:
        if not (folder / "weights.pt").exists():
            usual = torch.get_num_threads()
            torch.set_num_threads(1)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            try:
                _Run(recipe, folder, device, threads, workers, before).train(progress)
            finally:
                torch.set_num_threads(usual)
    return folder / "weights.pt"


class _Run:
    def __init__(
        self, recipe: ObserverRecipe, out: Path, device: str, threads: int, workers: int, start: Start | None = None
    ):
        self.recipe, self.folder, self.workers = recipe, TrainingFolder(out), workers
        self.net = TrainingObserver(recipe, device=device)
        self.start = start
        if start is not None:
            start.load_into(self.net)
        self.shares = threads if device == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.shares, thread_name_prefix="biaslab-share")
        self.sums: dict[str, Any] = {}  # tensors, so that no step waits for a device
        self.summed = 0  # steps: fewer than between two lines where a run goes on, or ends
        self.pictures = 0

    def train(self, progress: bool) -> None:
        """Run the stages that are not done."""
        r, checkpoint = self.recipe, self.folder.load_checkpoint(self.net, self.net.device)
        self.folder.forget_after(checkpoint)
        masters: dict[str, torch.Tensor] = {}
        steps = {"decoder": r.decoder_steps} if r.leg else {"vision": r.vision_steps, "decoder": r.decoder_steps}
        stages = [*steps]
        first = stages.index(checkpoint["stage"]) if checkpoint else 0
        done = (checkpoint["optimiser"]["step"] if checkpoint else 0) + sum(steps[stage] for stage in stages[:first])
        with progress_bar("train", total=sum(steps.values()), done=done, show=progress) as advance:
            for stage in stages[first:]:
                resumed = checkpoint if checkpoint and checkpoint["stage"] == stage else None
                masters |= self._run_stage(stage, resumed, advance)
        self.folder.save_weights(self.net, masters, leg=r.leg)

    def _run_stage(self, stage: str, resumed: dict | None, advance: Any) -> dict[str, torch.Tensor]:
        """Train one stage to its end; returns the float32 masters of what it trained."""
        r = self.recipe
        vision = stage == "vision"
        if not vision and resumed is None and not r.leg:
            self.net.start_words_at_classes()
        optimiser = MuonAdamW(
            self.net.named_parameters(stage),
            muon_rate=r.vision_muon if vision else r.decoder_muon,
            adamw_rate=r.vision_adamw if vision else r.decoder_adamw,
            steps=r.vision_steps if vision else r.decoder_steps,
            warmup=r.warmup,
            final_rate=r.final_rate,
            slower={} if vision else {"vision_tower": r.tower_rate, "projector": r.projector_rate},
        )
        if resumed:
            optimiser.restore(resumed["optimiser"])
            self.pictures = resumed["pictures"]
        loss = self.net.vision_loss if vision else self.net.decoder_loss
        with closing(batches(r, stage, start=optimiser.step_number, workers=self.workers)) as supply:
            for _, batch in supply:
                self._gradients(loss, batch, list(optimiser.working.values()))
                optimiser.step()
                self.pictures += len(batch.grid)
                self._after_step(stage, optimiser)
                advance(1)
        self.folder.save_checkpoint(stage, optimiser, self.net, pictures=self.pictures)
        return optimiser.masters

    def _gradients(self, loss: Any, batch: Batch, parameters: list[torch.nn.Parameter]) -> None:
        """Set every parameter's gradient to the mean over the shares of the batch."""

        def share(k: int) -> tuple[tuple[torch.Tensor | None, ...], dict[str, torch.Tensor]]:
            value, measured = loss(batch.part(k, self.shares))
            return torch.autograd.grad(value, parameters, allow_unused=True), measured | {"loss": value.detach()}

        parts = [share(0)] if self.shares == 1 else list(self.pool.map(share, range(self.shares)))
        for parameter, gradients in zip(parameters, zip(*(part[0] for part in parts), strict=True), strict=True):
            given = [g for g in gradients if g is not None]
            parameter.grad = torch.stack(given).sum(0).div_(self.shares) if given else None
        self.summed += 1
        for measured in (part[1] for part in parts):
            for name, value in measured.items():
                self.sums[name] = self.sums.get(name, 0.0) + value / self.shares

    # ---- bookkeeping ---------------------------------------------------------------------------------------------
    def _after_step(self, stage: str, optimiser: MuonAdamW) -> None:
        r, step = self.recipe, optimiser.step_number
        leg = {"leg": r.leg} if r.leg else {}
        if step % r.log_every == 0 or step == optimiser.steps:
            mean = {name: float(total) / self.summed for name, total in self.sums.items()}
            self.sums, self.summed = {}, 0
            self.folder.note({**leg, "stage": stage, "step": step, "pictures": self.pictures, **mean})
        if stage == "decoder" and step % r.monitor_every == 0:
            monitors = {"monitor": self._monitor("familiar"), "unfamiliar": self._monitor("both")}
            self.folder.note({**leg, "stage": stage, "step": step, **monitors})
        if step % r.checkpoint_every == 0:
            self.folder.save_checkpoint(stage, optimiser, self.net, pictures=self.pictures)

    def _monitor(self, domain: str) -> dict[str, float]:
        """Teacher-forced accuracy by task on the monitor split: boxes with IoU >= 0.5, short answers word for word."""
        r, net = self.recipe, self.net
        shown = [picture("monitor", k, domain=domain) for k in range(r.monitor_pictures)]
        rng = np.random.default_rng([r.seed, 81])
        counts = torch.zeros(len(TASKS), 2, device=net.device)
        by_tiles: dict[int, list] = {}
        for one in shown:
            by_tiles.setdefault(one.grid[0] * one.grid[1], []).append(one)
        with torch.no_grad():
            for some in by_tiles.values():
                for k in range(0, len(some), 8):
                    *_, answers = net.forward(pack(r, some[k : k + 8], rng, mix=r.mix))
                    counts += net.right(*answers)
        out = {name: round(float(c[0] / c[1]), 4) for name, c in zip(TASKS, counts, strict=True) if c[1]}
        for name, part in (("boxes", counts[:N_BOXES]), ("questions", counts[N_BOXES:])):
            out |= {name: round(float(part[:, 0].sum() / part[:, 1].sum().clamp(min=1)), 4)}
        return out | {"n": int(counts[:, 1].sum())}
