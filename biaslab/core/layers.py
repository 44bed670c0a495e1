"""Decoder layers as users give them."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from biaslab.errors import InputError

__all__ = ["resolve_layer", "resolve_layers", "shared_layers"]


def resolve_layers(
    asked: int | Iterable[int] | None, available: int | Iterable[int], what: str, made_by: str | None = None
) -> list[int]:
    """The layers asked for, in the order asked, each once.

    Parameters
    ----------
    asked : int, iterable of int, or None
        None means all.
    available : int or iterable of int
        The number of a decoder's layers, of which negative indices count from the end; or the layers that something
        holds (a ``range`` for a decoder's where negative ones mean nothing).
    what : str
        Noun for the message, such as "the decoder", "the maps", "the profile".
    made_by : str, optional
        The verb that makes one with other layers, for the message: "collect", "fit", "measure".

    Raises
    ------
    InputError
        A layer that is not available, or no layer at all.

    Examples
    --------
    >>> resolve_layers(None, 4, "the decoder")
    [0, 1, 2, 3]
    >>> resolve_layers([3, -1, 0], 4, "the decoder")
    [3, 0]
    >>> resolve_layers(9, 4, "the model")
    Traceback (most recent call last):
    biaslab.errors.InputError: the model holds layers 0 to 3, not [9]: choose some of those, or leave layers out for all
    >>> resolve_layers([1, 2], [1, 3], "the maps", "collect")
    Traceback (most recent call last):
    biaslab.errors.InputError: the maps hold layers [1, 3], not [2]: collect with layers=[1, 2]
    """
    known: list[int] | range
    if isinstance(available, int):
        known = range(available)
    elif isinstance(available, range):
        known = available
    else:
        known = [int(layer) for layer in available]
    if asked is None:
        return list(known)
    layers = _listed(asked)
    if isinstance(available, int):
        layers = [layer + len(known) if _whole(layer) and -len(known) <= layer < 0 else layer for layer in layers]
    if missing := [layer for layer in layers if not _whole(layer) or layer not in known]:
        raise _refusal(f"{_holds(known, what)}, not {missing}", layers, made_by)
    if not layers:
        raise _refusal(f"no layers are asked for, {_holds(known, what)}", layers, None)
    return list(dict.fromkeys(layers))


def resolve_layer(asked: int | None, available: Iterable[int], what: str, made_by: str | None = None) -> int:
    """The one layer asked for, which may be left out where only one is available.

    Parameters
    ----------
    asked : int or None
    available, what, made_by
        As for `resolve_layers`.

    Raises
    ------
    InputError
        A layer that is not available, or none where several are.

    Examples
    --------
    >>> resolve_layer(None, [7], "the profile")
    7
    >>> resolve_layer(None, [1, 3], "the maps")
    Traceback (most recent call last):
    biaslab.errors.InputError: say which layer: the maps hold layers [1, 3]
    """
    known = available if isinstance(available, range) else list(available)
    if asked is None:
        if len(known) != 1:
            raise InputError(f"say which layer: {_holds(known, what)}")
        return int(known[0])
    (layer,) = _listed([asked])
    if not _whole(layer) or layer not in known:
        raise _refusal(f"{_holds(known, what)}, not {layer!r}", [layer], made_by)
    return int(layer)


def shared_layers(first: Iterable[int], second: Iterable[int], what: tuple[str, str]) -> list[int]:
    """The layers that both hold, in the order of the first; ``what`` are nouns for the message.

    Raises
    ------
    InputError
        No layer is in both.

    Examples
    --------
    >>> shared_layers([1, 3, 5], [5, 3], ("the maps", "the profile"))
    [3, 5]
    """
    first, second = list(first), list(second)
    if shared := [layer for layer in first if layer in second]:
        return shared
    raise InputError(f"{_holds(first, what[0])}, {what[1]} {second}: none is in both")


def _refusal(reason: str, asked: list[Any], made_by: str | None) -> InputError:
    fix = "choose some of those, or leave layers out for all" if made_by is None else f"{made_by} with layers={asked}"
    return InputError(f"{reason}: {fix}")


def _holds(known: list[int] | range, what: str) -> str:
    span = f"0 to {len(known) - 1}" if isinstance(known, range) else str(list(known))
    several = what.endswith("s") or " and " in what
    return f"{what} {'hold' if several else 'holds'} layers {span}"


def _listed(asked: Any) -> list[Any]:
    """As a list, with NumPy's whole numbers as Python's, so that messages show them plainly."""
    layers = list(asked) if isinstance(asked, Iterable) else [asked]
    return [int(layer) if _whole(layer) else layer for layer in layers]


def _whole(layer: Any) -> bool:
    return isinstance(layer, Integral) and not isinstance(layer, bool)
