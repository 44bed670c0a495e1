import doctest

import numpy as np
import pytest

from biaslab.core import layers
from biaslab.core.layers import resolve_layer, resolve_layers, shared_layers
from biaslab.errors import InputError


def test_examples_of_the_docstrings():
    outcome = doctest.testmod(layers)
    assert outcome.attempted >= 7 and outcome.failed == 0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (2, [2]),
        (-1, [3]),
        (np.int64(1), [1]),
        (np.array([3, 1]), [3, 1]),
        (range(1, 3), [1, 2]),
        ([3, -1, 0, 3], [3, 0]),
    ],
)
def test_layers_of_a_decoder(asked, expected):
    resolved = resolve_layers(asked, 4, "the decoder")
    assert resolved == expected and all(type(layer) is int for layer in resolved)


def test_layers_that_something_holds():
    assert resolve_layers(None, [3, 1], "the maps") == [3, 1]
    assert resolve_layers([1, 3, 1], [3, 1], "the maps") == [1, 3]
    assert resolve_layer(None, [3], "the maps") == 3 and resolve_layer(1, [3, 1], "the maps") == 1
    assert shared_layers([5, 1], [1, 2], ("the maps", "the profile")) == [1]


@pytest.mark.parametrize(
    ("asked", "available", "message"),
    [
        (4, 4, r"the maps hold layers 0 to 3, not \[4\]: choose some of those, or leave layers out for all"),
        (-5, 4, r"not \[-5\]"),
        (-1, [0, 1], r"hold layers \[0, 1\], not \[-1\]"),
        (-1, range(2), "hold layers 0 to 1, not \[-1\]"),
        ([7, 1, 8], [1], r"hold layers \[1\], not \[7, 8\]"),
        (np.array([7]), [1], r"hold layers \[1\], not \[7\]:"),
        ([1.0], 4, r"not \[1.0\]"),
        (1.5, 4, r"not \[1.5\]"),
        (True, 4, r"not \[True\]"),
        ("1", 4, r"not \['1'\]"),
        ([], [1], "no layers are asked for"),
        (np.array([]), 4, "no layers are asked for"),
    ],
)
def test_what_is_no_layer_is_refused(asked, available, message):
    with pytest.raises(InputError, match=message):
        resolve_layers(asked, available, "the maps")


def test_messages_name_the_fix():
    with pytest.raises(InputError, match=r"the profile holds layers \[1\], not \[7\]: fit with layers=\[1, 7\]"):
        resolve_layers([1, 7], [1], "the profile", "fit")
    with pytest.raises(InputError, match=r"the maps hold layers \[1, 3\], not 2: collect with layers=\[2\]"):
        resolve_layer(2, [1, 3], "the maps", "collect")
    with pytest.raises(InputError, match=r"^the maps and the profile hold layers \[1\], not \[2\]: choose"):
        resolve_layers([2], [1], "the maps and the profile")
    with pytest.raises(InputError, match="the decoder holds layers 0 to 3, not -1: choose some of those"):
        resolve_layer(-1, range(4), "the decoder")
    with pytest.raises(InputError, match="not True"):
        resolve_layer(True, [0, 1], "the maps")
    with pytest.raises(InputError, match=r"say which layer: the maps hold layers \[1, 3\]"):
        resolve_layer(None, [1, 3], "the maps")
    with pytest.raises(InputError, match=r"the maps hold layers \[1\], the profile \[2\]: none is in both"):
        shared_layers([1], [2], ("the maps", "the profile"))
