"""The folder of a training run: its recipe, checkpoint, learning curve and, at the end, weights."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from biaslab._util.files import atomic_write, locked, writing_to
from biaslab._util.identity import differences
from biaslab._util.jsonl import JsonLines, whole_lines
from biaslab.errors import RunFolderError
from biaslab.grounder.optimiser import MuonAdamW

__all__ = ["STAGES", "TrainingFolder", "claimed"]

STAGES = ("vision", "decoder")
_FIX = "choose another folder with --out"


@contextmanager
def claimed(out: str | Path, recipe: Any) -> Iterator[Path]:
    """Make a folder that of one recipe (a dataclass), and keep other processes out of it during the block.

    Raises
    ------
    RunFolderError
        The folder cannot be written, holds a run of another recipe, or another process is training in it.
    """
    out = Path(out)
    with writing_to(out, _FIX):
        out.mkdir(parents=True, exist_ok=True)
    path = out / "recipe.json"
    with locked(path):
        with writing_to(out, _FIX):
            now = json.dumps(asdict(recipe), indent=1)
            if path.exists() and (others := differences(json.loads(path.read_text()), json.loads(now))):
                raise RunFolderError(f"{out} holds a run of another recipe ({'; '.join(map(str, others))}): {_FIX}")
            atomic_write(path, now)
        yield out


class TrainingFolder:
    """What a run writes into its folder, and reads back when it goes on.

    Parameters
    ----------
    out : Path
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.started = time.monotonic()

    def note(self, line: Mapping[str, Any]) -> None:
        """Append a line to the learning curve, with the seconds since the run began or went on."""
        line = {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}
        with JsonLines(self.out / "curve.jsonl") as curve:
            curve.append(line | {"seconds": round(time.monotonic() - self.started)})

    def forget_after(self, checkpoint: Mapping[str, Any] | None) -> None:
        """Cut the lines of steps that are made again off the learning curve."""
        path = self.out / "curve.jsonl"
        if not path.exists():
            return

        def place(stage: str, step: int) -> tuple[int, int]:
            return STAGES.index(stage), step

        last = (0, 0) if checkpoint is None else place(checkpoint["stage"], checkpoint["optimiser"]["step"])
        kept = 0
        for line, end in whole_lines(path):
            if line is None or place(line["stage"], line["step"]) > last:
                break
            kept = end
        with JsonLines(path) as curve:
            curve.cut(kept)

    def save_checkpoint(self, stage: str, optimiser: MuonAdamW, net: Any, **more: Any) -> None:
        """Write all that a stage goes on from."""
        model, heads = net.model.state_dict(), net.heads.state_dict()
        state = {"stage": stage, "optimiser": optimiser.state(), **more, "model": model, "heads": heads}
        _save(state, self.out / "checkpoint.pt")

    def load_checkpoint(self, net: Any, device: Any = None) -> dict[str, Any] | None:
        """Read the last checkpoint into model and heads, and return it; None of a run that has none."""
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return None
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        net.model.load_state_dict(checkpoint["model"])
        net.heads.load_state_dict(checkpoint["heads"])
        return checkpoint

    def save_weights(self, net: Any, masters: Mapping[str, torch.Tensor], **more: Any) -> None:
        """Write the float32 weights: the masters of what was trained, the parameters of the rest."""
        weights = {n: masters.get(n, p).detach().float().cpu() for n, p in net.model.named_parameters()}
        heads = {n: masters.get(f"heads.{n}", p).detach().float().cpu() for n, p in net.heads.named_parameters()}
        _save({"model": weights, "heads": heads, **more}, self.out / "weights.pt")


def _save(state: dict[str, Any], path: Path) -> None:
    """Write tensors; torch itself, given a file, does not say that a disk is full."""
    content = io.BytesIO()
    torch.save(state, content)
    with writing_to(path):
        atomic_write(path, content.getvalue())
