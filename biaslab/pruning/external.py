"""Importances that come from outside: a function, or the published matrices of a trained scorer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

__all__ = ["ExternalScore"]

#: of the visual tokens (N, D) and where they lie: (N,) scores, larger is more important
ScoreFunction = Callable[[Tensor, TokenLayout], Tensor]

# what trainers and whole checkpoints put before the names of the scorer's own tensors
_PREFIXES = ("module.", "_orig_mod.", "model.", "visual.", "importance_scorer.")
_MOST = 1e30  # in the place of an infinite score
_PARTS = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")


class ExternalScore:
    r"""An importance of visual tokens that somebody else computes or has trained.

    Of a file it is the scorer of VisionSelector, which IDPruner uses, too: of the tokens ``x_i`` that enter the
    decoder, with ``q_i = Wq x_i + bq`` and ``k_i = Wk x_i + bk`` of width W (1792 for D = 3584),

        w_i = mean_j (q_i . k_j) / sqrt(W)

    computed as ``q_i . (mean_j k_j)``, which is the same and costs two products of a vector instead of N x N. It reads
    no text. IDPruner's paper feeds a soft top-k of w to its min-max; its published code feeds w itself, as here.

    Parameters
    ----------
    score : callable, str or Path
        A function of features (N, D) and layout that gives (N,) scores, larger for more important ones, on the
        features' device and without looking at other images; or a safetensors file, or a folder that holds one.
        Nothing is read before it is needed.

    Attributes
    ----------
    word : str
        How options, labels and records name it: the path, or the module and name of the function.

    Notes
    -----
    Names of the tensors in the file: ``q_proj.weight`` (W, D), ``k_proj.weight``, and where there are any
    ``q_proj.bias`` (W,), ``k_proj.bias``, with or without the prefix ``visual.importance_scorer.`` under which a whole
    checkpoint holds them; other tensors do not matter. The names are as public code that loads the weights spells
    them; they and the scores are **unverified** against the published weights, which were not at hand.

    References
    ----------
    VisionSelector: arXiv 2510.16598. IDPruner: arXiv 2602.13315.

    Examples
    --------
    >>> norm = ExternalScore(lambda features, layout: features.norm(dim=1))
    >>> norm(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), TokenLayout.raster(1, 2, size=(2, 1), family="toy"))
    tensor([5., 1.])
    """

    def __repr__(self) -> str:
        return f"ExternalScore({self.word!r})"

    def __init__(self, score: ScoreFunction | str | Path) -> None:
        self.path = None if callable(score) else Path(score)
        self.function = score if callable(score) else None
        self._weights: dict[str, Tensor] | None = None
        self._hash: str | None = None
        self._placed: dict[torch.device, dict[str, Tensor]] = {}
        if callable(score):
            self.word = f"{getattr(score, '__module__', '')}.{getattr(score, '__qualname__', type(score).__name__)}"
        else:
            self.word = str(score)

    @property
    def hash(self) -> str:
        """12 hex digits over the weights, wherever the file lies; of a function over its module and name."""
        if self._hash is None:
            digest = hashlib.sha256(b"" if self.path else self.word.encode())
            for name, weight in sorted(self._loaded().items()) if self.path else ():
                digest.update(f"{name} {tuple(weight.shape)}".encode())
                digest.update(weight.numpy().tobytes())
            self._hash = digest.hexdigest()[:12]
        return self._hash

    @property
    def width(self) -> int | None:
        """Width D of the features that the weights read; None of a function, which says so itself."""
        return None if self.path is None else self._loaded()["q_proj.weight"].shape[1]

    def check_width(self, width: int) -> None:
        """Refuse features of another width.

        Raises
        ------
        InputError
            The weights are of another model.
        """
        if self.width not in (None, width):
            raise InputError(
                f"the score in {self.path} reads features of width {self.width}, and this model's have {width}: use "
                "the weights that were trained for this model"
            )

    def __call__(self, features: Tensor, layout: TokenLayout) -> Tensor:
        """Score the tokens of an image: (N, D) features -> (N,) float32; what is no number comes last.

        Raises
        ------
        InputError
            The file cannot be used, is of another width, or the function gives no (N,) tensor.
        """
        if self.function is not None:
            found: Any = self.function(features, layout)
            if not isinstance(found, Tensor) or found.shape != features.shape[:1]:
                what = f"{tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise InputError(f"the score {self.word} must give a tensor of shape ({len(features)},), got {what}")
            return found.float().nan_to_num(nan=-torch.inf, posinf=_MOST, neginf=-torch.inf)
        self.check_width(features.shape[1])
        at, x = self._on(features.device), features.float()
        key = at["k_proj.weight"] @ x.mean(0) + at["k_proj.bias"]
        scale = 1 / math.sqrt(len(key))
        return (x @ (key @ at["q_proj.weight"]) + at["q_proj.bias"] @ key) * scale

    def __getstate__(self) -> dict[str, Any]:  # to another process goes the path, not the weights
        return {**self.__dict__, "_weights": None, "_placed": {}}

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._placed:
            self._placed[device] = {name: weight.to(device) for name, weight in self._loaded().items()}
        return self._placed[device]

    def _loaded(self) -> dict[str, Tensor]:
        if self._weights is None:
            self._weights = _read(_file(self.path or Path()))
        return self._weights


def _file(path: Path) -> Path:
    """Find the file: the path itself, or the only safetensors file of a folder."""
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise InputError(f"{path} holds {len(files)} safetensors files: name the one with the matrices of the scorer")
    return files[0]


def _read(path: Path) -> dict[str, Tensor]:
    """Read the four parts in float32; a bias that is missing is zero."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = {_own(name): name for name in file.keys()}  # noqa: SIM118 (it is no dict)
            # copies: a mapped file's tensors lie where its header ends, and products of some CPUs round by alignment
            found = {part: file.get_tensor(names[part]).float().clone() for part in _PARTS if part in names}
    except FileNotFoundError:
        raise InputError(f"no score in {path}: the file does not exist") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"no score in {path}: it cannot be read as safetensors ({error})") from None
    if missing := [part for part in _PARTS[:2] if part not in found]:
        raise InputError(f"no score in {path}: it lacks {' and '.join(missing)} (of VisionSelector's scorer)")
    query, key = found["q_proj.weight"], found["k_proj.weight"]
    for part in _PARTS[2:]:
        found.setdefault(part, torch.zeros(len(query)))
    biases = {tuple(found[part].shape) for part in _PARTS[2:]}
    if query.ndim != 2 or query.shape != key.shape or biases != {(len(query),)}:
        shapes = ", ".join(f"{part} {tuple(found[part].shape)}" for part in _PARTS)
        raise InputError(f"no score in {path}: its matrices do not fit each other ({shapes})")
    if not all(bool(weight.isfinite().all()) for weight in found.values()):
        raise InputError(f"no score in {path}: its matrices hold values that are not finite")
    return found


def _own(name: str) -> str:
    """Take the prefixes off a tensor's name; attention layers of a whole checkpoint keep theirs."""
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name
