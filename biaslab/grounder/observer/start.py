"""The exported weights with which a further leg of the observer's training begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        """Copy the weights into the model and the probes of a training; they must be of its size.

        A probe that the leg before did not have yet begins anew.
        """
        probes = net.heads.state_dict() | load_file(self.folder / PROBES)
        for module, weights in ((net.model, load_file(self.folder / "model.safetensors")), (net.heads, probes)):
            try:
                module.load_state_dict(weights)
            except RuntimeError:  # torch lists every tensor whose shape or name is another
                raise InputError(
                    f"{self.folder} holds a model of another size than the recipe's: give one of its size"
                ) from None


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
            f"{folder} has no {' and no '.join(missing)}: give the model folder that biaslab train-observer wrote, or "
            "observer"
        )
    with safe_open(path / PROBES, "pt") as file:
        return Start(path, int(file.metadata()["leg"]))
