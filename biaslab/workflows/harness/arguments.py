"""What ``--model_args`` says: the model, how it is pruned, and how long answers may be."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from typing import Any

from biaslab._util.arguments import at_least_one
from biaslab.errors import InputError
from biaslab.evaluation.configurations import Config, configurations
from biaslab.models.prune_layer import prune_layer
from biaslab.pruning.schedule import is_schedule

__all__ = ["Arguments", "unquoted"]

_KEEP = 0.1
_MODEL = ("revision", "dtype", "device", "device_map", "attn_implementation", "load_in", "adapter")


@dataclass(frozen=True)
class Arguments:
    """Settings of a model of the harness, read and checked before anything is loaded.

    Attributes
    ----------
    pretrained : str
        As :func:`biaslab.load` takes it.
    loading : dict
        Other arguments of :func:`biaslab.load`.
    method : str
        "none", a method with options, or a schedule such as "d2pruner@0.1@2".
    keep : float or int
        Share of an image's tokens, or a count; a schedule says its own.
    layer : int or None
        Prune layer K; None for the model's default.
    positions : str
        As :func:`biaslab.prune` takes it.
    seed : int
    profiles : list of Profile
        For the methods that read one.
    image_options : dict of str to int
        Preprocessing options of the family.
    batch_size : int
    max_new_tokens : int
        Of tasks that name none.
    """

    pretrained: str
    loading: dict[str, Any] = field(default_factory=dict)
    method: str = "none"
    keep: float | int = _KEEP
    layer: int | None = None
    positions: str = "original"
    seed: int = 0
    profiles: list[Any] = field(default_factory=list)
    image_options: dict[str, int] = field(default_factory=dict)
    batch_size: int = 1
    max_new_tokens: int = 128

    @classmethod
    def read(
        cls,
        pretrained: str | None = None,
        *,
        method: str = "none",
        keep: Any = None,
        layer: Any = None,
        positions: str = "original",
        seed: Any = 0,
        profile: str | None = None,
        profile_hash: str | None = None,
        image_options: Any = None,
        batch_size: Any = 1,
        max_batch_size: Any = None,
        max_new_tokens: Any = 128,
        **others: Any,
    ) -> Arguments:
        """Read the words that the harness has parsed: quotes still on them, whole numbers sometimes as floats.

        Raises
        ------
        InputError
            An unknown argument or a bad value, in one line.

        Examples
        --------
        >>> Arguments.read("grounder", method="'divprune@0.1@2'", batch_size="4").batch_size
        4
        >>> Arguments.read("grounder", methods="divprune")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        biaslab.errors.InputError: model_args knows no methods: choose among pretrained, method, keep, layer, ...
        """
        if unknown := sorted(set(others) - set(_MODEL)):
            named = [*inspect.signature(cls.read).parameters][:-1]
            known = [n for n in named if n != "max_batch_size"] + list(_MODEL)
            raise InputError(f"model_args knows no {', '.join(unknown)}: choose among {', '.join(known)}")
        if not pretrained:
            raise InputError("model_args names no model: give pretrained=, an alias, a hub id or a folder")
        method = str(unquoted(method))
        if is_schedule(method) and not (keep is None and layer is None):
            raise InputError(f"method={method} says its keeps and layers itself: leave keep and layer out")
        loading = {name: str(unquoted(value)) for name, value in others.items() if value is not None}
        read = cls(
            pretrained=str(unquoted(pretrained)),
            loading=loading,
            method=method,
            keep=_KEEP if keep is None else unquoted(keep),
            layer=None if layer is None else _whole("layer", layer),
            positions=str(unquoted(positions)),
            seed=_whole("seed", seed),
            profiles=_profiles(profile, profile_hash),
            image_options=_image_options(image_options),
            batch_size=_batch(batch_size),
            max_new_tokens=at_least_one("max_new_tokens", _whole("max_new_tokens", max_new_tokens)),
        )
        read.config()  # refuses
        return read

    def config(self, vlm: Any = None) -> Config:
        """Make what is to be run; without a model, refuse what none could run."""
        layer = self.layer if vlm is None else prune_layer(vlm, self.layer)
        found = configurations([self.method], self.keep, layer, self.profiles, model=vlm)
        if len(found) != 1:
            raise InputError(f"method={self.method} is several configurations: name one")
        return found[0]


def unquoted(value: Any) -> Any:
    """Take the quotes off a value, which the harness leaves there.

    Examples
    --------
    >>> unquoted('"divprune"'), unquoted("it's"), unquoted(0.1)
    ('divprune', "it's", 0.1)
    """
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


def _whole(name: str, value: Any) -> int:
    """Read a whole number, which may come as text or as a float (-1 does)."""
    try:
        number = float(unquoted(value))
    except (TypeError, ValueError):
        number = 0.5
    if isinstance(value, bool) or number != number // 1:
        raise InputError(f"{name} must be a whole number, got {value!r}")
    return int(number)


def _batch(value: Any) -> int:
    if isinstance(value, str) and unquoted(value).startswith("auto"):
        raise InputError("batch_size=auto is not served: give a number of documents")
    return at_least_one("batch_size", _whole("batch_size", value))


def _profiles(names: Any, digest: Any) -> list[Any]:
    """Read the profiles, joined by ";", and hold the hash of one against what is expected."""
    from biaslab.profiles import load

    found = [] if names is None else [load(name.strip()) for name in str(unquoted(names)).split(";")]
    if digest is not None:
        hashes = [profile.hash for profile in found]
        if str(unquoted(digest)) not in hashes:
            raise InputError(f"profile_hash={digest} is that of no profile given ({', '.join(hashes) or 'none is'})")
    return found


def _image_options(value: Any) -> dict[str, int]:
    if value is None:
        return {}
    try:
        read = json.loads(unquoted(value)) if isinstance(value, str) else dict(value)
        return {str(name): _whole(name, number) for name, number in dict(read).items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'image_options must be JSON such as {{"max_tiles": 6}}, got {value!r}') from None
