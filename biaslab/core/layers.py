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
    """Check the layers asked for and list them, in the order asked, each once.

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

    Returns
    -------
    list of int
        Indices of available layers, not negative.

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
    choices: list[int] | range
    if isinstance(available, int):
        choices = range(available)
    elif isinstance(available, range):
        choices = available
    else:
        choices = [int(layer) for layer in available]
    if asked is None:
        return list(choices)
    layers = _listed(asked)
    if isinstance(available, int):
        layers = [layer + len(choices) if _whole(layer) and -len(choices) <= layer < 0 else layer for layer in layers]
    if missing := [layer for layer in layers if not _whole(layer) or layer not in choices]:
        raise _refusal(f"{_holds(choices, what)}, not {missing}", layers, made_by)
    if not layers:
        raise _refusal(f"no layers are asked for, {_holds(choices, what)}", layers, None)
    return list(dict.fromkeys(layers))


def resolve_layer(asked: int | None, available: Iterable[int], what: str, made_by: str | None = None) -> int:
    """Check the one layer asked for, which may be left out where only one is available.

    Parameters
    ----------
    asked : int or None
        None means the only one.
    available : iterable of int
        Layers that something holds.
    what, made_by : str
        As for `resolve_layers`.

    Returns
    -------
    int
        Index of the layer.

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
    choices = available if isinstance(available, range) else list(available)
    if asked is None:
        if len(choices) != 1:
            raise InputError(f"say which layer: {_holds(choices, what)}")
        return int(choices[0])
    (layer,) = _listed([asked])
    if not _whole(layer) or layer not in choices:
        raise _refusal(f"{_holds(choices, what)}, not {layer!r}", [layer], made_by)
    return int(layer)


def shared_layers(first: Iterable[int], second: Iterable[int], what: tuple[str, str]) -> list[int]:
    """List the layers that both hold, in the order of the first.

    Parameters
    ----------
    first, second : iterable of int
        Layers held.
    what : (str, str)
        Nouns for the message.

    Returns
    -------
    list of int
        At least one layer.

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


def _holds(choices: list[int] | range, what: str) -> str:
    span = f"0 to {len(choices) - 1}" if isinstance(choices, range) else str(list(choices))
    several = what.endswith("s") or " and " in what
    return f"{what} {'hold' if several else 'holds'} layers {span}"


def _listed(asked: Any) -> list[Any]:
    """As a list, with NumPy's whole numbers as Python's, so that messages show them plainly."""
    layers = list(asked) if isinstance(asked, Iterable) else [asked]
    return [int(layer) if _whole(layer) else layer for layer in layers]


def _whole(layer: Any) -> bool:
    return isinstance(layer, Integral) and not isinstance(layer, bool)
