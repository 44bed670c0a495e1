"""The exported weights with which a further leg of the observer's training begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from biaslab.errors import InputError
from biaslab.models.registry import EMBEDDED, embedded_folder

__all__ = ["PROBES", "Start", "start_of"]

PROBES = "probes.safetensors"


@dataclass(frozen=True)
class Start:
    """Weights to go on from.

    Attributes
    ----------
    folder : Path
        As `biaslab.grounder.observer.export.export_observer` wrote it.
    leg : int
        Which leg of the training the weights are of.
    """

    folder: Path
    leg: int

    def load_into(self, net: Any) -> None:
        """Copy the weights into the model and the probes of a training; they must be of its size."""
        for module, name in ((net.model, "model.safetensors"), (net.heads, PROBES)):
            state = load_file(self.folder / name)
            if {n: tuple(v.shape) for n, v in state.items()} != {
                n: tuple(v.shape) for n, v in module.state_dict().items()
            }:
                raise InputError(f"{self.folder} holds a model of another size than the recipe's: give one of its size")
            with torch.no_grad():
                for own, value in zip(
                    module.state_dict().values(), (state[n] for n in module.state_dict()), strict=True
                ):
                    own.copy_(value)


def start_of(folder: str | Path) -> Start:
    """Look at the weights that a leg is to go on from.

    Parameters
    ----------
    folder : path
        An exported folder, or "observer".

    Returns
    -------
    Start

    Raises
    ------
    InputError
        It is no such folder.
    """
    path = embedded_folder(str(folder)) if str(folder) in EMBEDDED else Path(folder)
    missing = [name for name in ("model.safetensors", PROBES) if not (path / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} has no {' and no '.join(missing)}: give the model folder that biaslab train-observer wrote"
        )
    with safe_open(path / PROBES, "pt") as file:
        return Start(path, int(file.metadata()["leg"]))
